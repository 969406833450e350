"""Which program of the fast path sits at which device, and making it so.

    egress of the tunnel device           what leaves by tunnels
    ingress of every access device        tunnel packets that arrive
    ingress of every served device        the short cut: what would be routed into the tunnel device

A mobile node's access devices are its configured links, and it serves by all others. At a home agent every device is
both. Ports of a bridge or bond have no say: the bridge or bond has. A device whose packets the programs cannot read
goes without them; the userspace data plane hears it all the same.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mip6.dataplane.libbpf import LibbpfError, Program
from mip6.system import log
from mip6.system.rtnetlink import LINK, Requests, attributes
from mip6.system.trafficcontrol import Filter, Filters, Hook, Place

ACCESS_PREFERENCE, SERVED_PREFERENCE = 109, 110  # tunnel packets first: what comes out of them is not served again
_ETHERNET = 1  # linux/if_arp.h
_RAW = frozenset((512, 519, 65534, 768, 769, 776))  # PPP, RAWIP, NONE (TUN, WireGuard), TUNNEL, TUNNEL6, SIT
_IFF_LOOPBACK = 0x8
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_ROUTED_MASTERS = frozenset(("vrf",))  # whose members are devices with addresses of their own


@dataclass(frozen=True, slots=True)
class Device:
    """A network device as far as it matters here. `kind` is its ARPHRD type, `port`: of a bridge, bond or the like."""

    index: int
    name: str
    kind: int
    port: bool = False
    loopback: bool = False


def devices(requests: Requests) -> list[Device]:
    """All devices of this network namespace."""
    messages = requests.dump(LINK, {}, [("IFLA_EXT_MASK", _SKIP_STATISTICS)])
    masters = {message["index"]: _kind(attributes(message)) for message in messages}
    found = []
    for message in messages:
        attrs = attributes(message)
        master = attrs.get("IFLA_MASTER")
        port = master is not None and masters.get(master) not in _ROUTED_MASTERS
        loopback = bool(message["flags"] & _IFF_LOOPBACK)
        found.append(Device(message["index"], attrs["IFLA_IFNAME"], message["ifi_type"], port, loopback))
    return found


def _kind(attrs: Mapping[str, Any]) -> str | None:
    information = attrs.get("IFLA_LINKINFO")
    return attributes(information).get("IFLA_INFO_KIND") if information is not None else None


def wanted(present: Iterable[Device], tunnel: str, access: Collection[str] | None, shortcut: bool) -> dict[Place, str]:
    """The program of each place. `access`: the names of a mobile node's links; None: a home agent."""
    places: dict[Place, str] = {}
    for device in present:
        if device.name == tunnel:
            places[Place(device.index, Hook.EGRESS, SERVED_PREFERENCE)] = "encap_egress"
            continue
        if device.port or device.loopback or (device.kind != _ETHERNET and device.kind not in _RAW):
            continue
        ethernet = device.kind == _ETHERNET
        if access is None or device.name in access:
            places[Place(device.index, Hook.INGRESS, ACCESS_PREFERENCE)] = "decap_ingress" if ethernet else "decap_raw"
        if shortcut and (access is None or device.name not in access):
            places[Place(device.index, Hook.INGRESS, SERVED_PREFERENCE)] = "encap_ingress" if ethernet else "encap_raw"
    return places


class Attachments:
    """The filters of the agent with the tunnel device `tunnel`; `access` as for `wanted`."""

    def __init__(self, tunnel: str, access: Collection[str] | None = None) -> None:
        self._tunnel, self._access = tunnel, access
        self._requests = Requests()
        self._filters = Filters(tunnel)
        self._fitting: dict[int, bool] = {}  # whether a program of an earlier life is as good as ours, by id
        self._complained: set[tuple[Place, int]] = set()

    @property
    def port(self) -> int:
        """By which notifications about our own changes are known."""
        return self._filters.port

    def close(self) -> None:
        """Let go; the filters stay."""
        self._requests.close()
        self._filters.close()

    def held(self) -> list[Filter]:
        """What is ours in the kernel, of this life or an earlier one."""
        return [one for device in devices(self._requests) for one in self._filters.present(device.index)]

    def apply(self, programs: Mapping[str, Program], map_ids: Collection[int], shortcut: bool) -> bool:
        """Attach what is missing or out of date, then detach what is too much. Whether anything was attached.

        A filter with the same program over the maps `map_ids` stays as it is. What the kernel refuses is logged once.
        """
        attached = False
        present = devices(self._requests)
        places = wanted(present, self._tunnel, self._access, shortcut)
        for device in present:
            held = {one.place: one for one in self._filters.present(device.index)}
            for place, name in places.items():
                if place.index != device.index:
                    continue
                before = held.pop(place, None)
                if before is None or not self._fits(before, programs[name], map_ids):
                    self._attach(place, device, programs[name])
                    attached = True
            for one in held.values():
                self._filters.detach(one)
        return attached

    def remove_all(self) -> list[str]:
        """Take everything away that is ours; in words what it was."""
        removed = []
        for device in devices(self._requests):
            for one in self._filters.present(device.index):
                self._filters.detach(one)
                removed.append(f"program {one.program} at {one.place.hook.name.lower()} of {device.name}")
        return removed

    def _attach(self, place: Place, device: Device, program: Program) -> None:
        try:
            self._filters.attach(place, program.name, program.fd)
        except OSError as error:
            if device.name == self._tunnel:
                raise
            key = place, error.errno or 0
            if key not in self._complained:
                self._complained.add(key)
                fields = {"device": device.name, "program": program.name, "error": error.strerror}
                log.event("fast_path_not_attached", "warning", **fields)

    def _fits(self, held: Filter, program: Program, map_ids: Collection[int]) -> bool:
        if held.program_id == program.id:
            return True
        if held.program != program.name:
            return False
        if held.program_id not in self._fitting:
            try:
                running = Program.by_id(held.program_id)
            except LibbpfError:  # it is gone, or we may not look at it
                return False
            fits = running.tag == program.tag and set(map_ids) <= set(running.map_ids)
            running.close()
            self._fitting[held.program_id] = fits
        return self._fitting[held.program_id]


def interface_exists(name: str) -> bool:
    """Whether there is a device of that name."""
    return name in (one for _, one in socket.if_nameindex())
