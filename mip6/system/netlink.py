"""What the kernel knows of the links, and what the agent puts into the kernel.

`LinkWatcher` hands over snapshots of the access links; `KernelApplier` makes addresses, routes, rules and proxy
neighbours so as a `KernelState` says. Both work on whole states and are synchronous: the kernel answers within the
system call. What is the agent's own is known by its marks: protocol 109, and every global address on its device.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from mip6.actions import KernelState, LocalAddress, ProxyNeighbour, Route, Rule
from mip6.events import AddressState, LinksObserved, LinkState, RouterState
from mip6.system import log, rtnetlink
from mip6.system.interfaces import carrier, interface_index, interface_name
from mip6.system.rtnetlink import ADDRESS, LINK, NEIGHBOUR, ROUTE, RULE, Attributes, attributes

OWN_PROTOCOL = 109  # marks what the agent owns: rtm_protocol, FRA_PROTOCOL, IFA_PROTO, NDA_PROTOCOL
MAIN_TABLE = 254
DEFAULT_METRIC = 1024  # what the kernel makes of an IPv6 route without a metric
UNSPECIFIED = IPv6Address("::")

_IFF_UP, _IFF_RUNNING, _IFF_LOWER_UP = 0x1, 0x40, 0x10000
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_F_TEMPORARY, _F_NODAD, _F_DADFAILED, _F_DEPRECATED, _F_TENTATIVE = 0x01, 0x02, 0x08, 0x20, 0x40  # IFA_F_*
_INFINITE = 0xFFFFFFFF
_UNIVERSE, _UNICAST, _TO_TABLE = 0, 1, 1  # RT_SCOPE_UNIVERSE, RTN_UNICAST, FR_ACT_TO_TBL
_CLONED = 0x200  # RTM_F_CLONED: a cached exception (path MTU), not a route
_NTF_PROXY, _NTF_ROUTER, _NUD_PERMANENT = 0x08, 0x80, 0x80
_PREFERENCES = {0: 0, 1: 1, 3: -1}  # RTA_PREF as in RFC 4191 §2.1; the reserved value counts as medium
_INET6: dict[str, object] = {"family": socket.AF_INET6}
_CARRIER_POLL = 0.05  # seconds
_LIFETIME_TOLERANCE = 2.0  # seconds by which an expiry may move without being news


# --- links -----------------------------------------------------------------------------------------------------------


class LinkWatcher:
    """Calls `on_change` with a whole new snapshot whenever the links `names`, their addresses or routers change.

    A burst of notifications makes one snapshot. Lifetimes that run down are no news; lifetimes that were renewed are.
    The kernel may hold back the notification of a lost carrier for a second, so carrier is polled besides.
    A default route without gateway (point-to-point links) shows as a router with the unspecified address.
    """

    def __init__(self, names: Sequence[str], on_change: Callable[[LinksObserved], None]) -> None:
        self._names = tuple(names)
        self._on_change = on_change
        self._requests = rtnetlink.Requests()
        self._news = rtnetlink.Notifications(
            rtnetlink.GROUP_LINK, rtnetlink.GROUP_IPV6_ADDRESS, rtnetlink.GROUP_IPV6_ROUTE
        )
        self._last: tuple[LinksObserved, float] | None = None
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._carriers: list[bool | None] = []

    def start(self) -> None:
        """Inside a running loop. Calls `on_change` with the first snapshot before it returns."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._news.fileno(), self._notified)
        self._poll_carrier()
        self._refresh()

    def close(self) -> None:
        """Stop watching; `on_change` is not called any more."""
        if self._loop is not None:
            self._loop.remove_reader(self._news.fileno())
        self._loop = None
        self._news.close()
        self._requests.close()
        self._asking.close()

    def snapshot(self) -> LinksObserved:
        """The state of the links now, in the order of their names as given."""
        addresses: dict[int, list[AddressState]] = {}
        routers: dict[int, list[tuple[int, int, RouterState]]] = {}
        for message in self._requests.dump(ADDRESS, _INET6):
            if message["scope"] == _UNIVERSE:
                addresses.setdefault(message["index"], []).append(_address_state(message))
        in_main = [("RTA_TABLE", MAIN_TABLE)]
        for message in self._requests.dump(ROUTE, _INET6 | {"table": MAIN_TABLE}, in_main):
            for index, metric, router in _routers(message):
                routers.setdefault(index, []).append((-router.preference, metric, router))
        found: dict[str, LinkState] = {}
        for message in self._requests.dump(LINK, {}, [("IFLA_EXT_MASK", _SKIP_STATISTICS)]):
            attrs, index = attributes(message), message["index"]
            best_first = sorted(routers.get(index, ()), key=lambda entry: (*entry[:2], entry[2].address))
            required = _IFF_UP | _IFF_RUNNING | _IFF_LOWER_UP
            found[attrs["IFLA_IFNAME"]] = LinkState(
                name=attrs["IFLA_IFNAME"],
                index=index,
                up=message["flags"] & required == required,
                mtu=attrs["IFLA_MTU"],
                link_layer_address=bytes.fromhex(attrs.get("IFLA_ADDRESS", "").replace(":", "")),
                addresses=tuple(sorted(addresses.get(index, ()), key=lambda state: state.address)),
                routers=tuple(dict.fromkeys(router for _, _, router in best_first)),
            )
        return LinksObserved(tuple(found[name] for name in self._names if name in found))

    def _notified(self) -> None:
        if self._news.drain():
            self._schedule()

    def _poll_carrier(self) -> None:
        if self._loop is None:
            return
        self._loop.call_later(_CARRIER_POLL, self._poll_carrier)
        carriers = [carrier(self._asking, name) for name in self._names]
        if carriers != self._carriers:
            self._carriers = carriers
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._refresh)

    def _refresh(self) -> None:
        self._scheduled = False
        if self._loop is None:
            return
        now, observed = self._loop.time(), self.snapshot()
        if self._last is None or not _same(self._last[0], observed, now - self._last[1]):
            self._last = observed, now
            self._on_change(observed)


def _address_state(message: Any) -> AddressState:
    attrs = attributes(message)
    flags = attrs.get("IFA_FLAGS", message["flags"])
    valid = attrs["IFA_CACHEINFO"]["ifa_valid"]
    return AddressState(
        address=IPv6Address(attrs.get("IFA_LOCAL") or attrs["IFA_ADDRESS"]),  # IFA_ADDRESS of a peer link is the peer
        prefix_length=message["prefixlen"],
        tentative=bool(flags & _F_TENTATIVE),
        deprecated=bool(flags & _F_DEPRECATED),
        temporary=bool(flags & _F_TEMPORARY),
        dad_failed=bool(flags & _F_DADFAILED),
        valid_lifetime=None if valid == _INFINITE else float(valid),
    )


def _routers(message: Any) -> Iterator[tuple[int, int, RouterState]]:
    """The routers of a default route that is not the agent's own, as (interface index, metric, router)."""
    if message["dst_len"] or message["type"] != _UNICAST or message["flags"] & _CLONED:
        return
    if message["proto"] == OWN_PROTOCOL:
        return
    attrs = attributes(message)
    preference, metric = _PREFERENCES.get(attrs.get("RTA_PREF", 0), 0), attrs.get("RTA_PRIORITY", DEFAULT_METRIC)
    for index, gateway in _next_hops(attrs):
        yield index, metric, RouterState(gateway or UNSPECIFIED, preference)


def _next_hops(attrs: dict[str, Any]) -> Iterator[tuple[int, IPv6Address | None]]:
    """Interface index and gateway (None: on-link) of each next hop of a route."""
    hops = [(hop["oif"], attributes(hop)) for hop in attrs.get("RTA_MULTIPATH", ())]
    if "RTA_OIF" in attrs:
        hops.append((attrs["RTA_OIF"], attrs))
    for index, hop in hops:
        yield index, IPv6Address(hop["RTA_GATEWAY"]) if "RTA_GATEWAY" in hop else None


def _same(before: LinksObserved, after: LinksObserved, elapsed: float) -> bool:
    """Whether nothing changed but that `elapsed` seconds went by."""
    if [_ageless(link) for link in before.links] != [_ageless(link) for link in after.links]:
        return False
    for old_link, new_link in zip(before.links, after.links, strict=True):
        for old, new in zip(old_link.addresses, new_link.addresses, strict=True):
            if (old.valid_lifetime is None) != (new.valid_lifetime is None):
                return False
            moved = (new.valid_lifetime or 0) - (old.valid_lifetime or 0)
            if old.valid_lifetime is not None and abs(moved + elapsed) > _LIFETIME_TOLERANCE:
                return False
    return True


def _ageless(link: LinkState) -> LinkState:
    return replace(link, addresses=tuple(replace(state, valid_lifetime=None) for state in link.addresses))


# --- the agent's own state in the kernel -----------------------------------------------------------------------------

Item = LocalAddress | Route | Rule | ProxyNeighbour

_ABSENT = {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL}  # removed by somebody already


class KernelApplier:
    """Makes the kernel as a `KernelState` says, and touches nothing that is not the agent's own.

    Synchronous: when `apply` returns, it is done. What the kernel refuses (a route over a link that is down) is logged
    once and tried again at every `apply`; what another process put there first stays the other's. The kernel flushes
    routes of a link that goes down, so call `apply` after each `LinksObserved` too; without news it asks nothing.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._requests = rtnetlink.Requests()
        self._news = rtnetlink.Notifications(
            rtnetlink.GROUP_LINK,
            rtnetlink.GROUP_IPV6_ADDRESS,
            rtnetlink.GROUP_IPV6_ROUTE,
            rtnetlink.GROUP_IPV6_RULE,
        )
        self._present: dict[Item, None] | None = None  # what is ours in the kernel, in order; None: ask
        self._added: set[LocalAddress] = set()  # a kernel before 5.18 does not keep IFA_PROTO
        self._refused: set[tuple[Item, int]] = set()

    def close(self) -> None:
        """Let go of the sockets; the kernel's state stays."""
        self._requests.close()
        self._news.close()

    def apply(self, state: KernelState) -> None:
        """Add what is missing, then remove what is ours and not in `state`."""
        if self._news.drain(self._requests.port) or self._present is None:
            self._present = dict.fromkeys(self._owned())
        items: list[Item] = [*state.addresses, *state.routes, *state.rules, *state.proxies]
        wanted = dict.fromkeys(map(_canonical, items))
        stale = [item for item in self._present if item not in wanted]
        occupied = {_slot(item): item for item in stale}
        refused: set[tuple[Item, int]] = set()
        for item in wanted:
            if item in self._present:
                continue
            if (old := occupied.pop(_slot(item), None)) is not None:  # the kernel holds only one of them
                self._remove(old, refused)
            self._add(item, refused)
        for item in reversed(stale):
            if item in self._present:
                self._remove(item, refused)
        self._refused = refused

    def remove_all(self) -> None:
        """Take everything out that is the agent's own, whoever of its lives put it in."""
        self._present = None
        self.apply(KernelState())

    def _add(self, item: Item, refused: set[tuple[Item, int]]) -> None:
        assert self._present is not None
        try:
            self._requests.add(*_request(item))
        except OSError as error:
            self._complain("kernel_refused", item, error, refused)
            return
        self._present[item] = None
        if isinstance(item, LocalAddress):
            self._added.add(item)

    def _remove(self, item: Item, refused: set[tuple[Item, int]]) -> None:
        assert self._present is not None
        try:
            self._requests.delete(*_request(item))
        except OSError as error:
            if error.errno not in _ABSENT:
                self._complain("kernel_kept", item, error, refused)
                return
        self._present.pop(item, None)
        if isinstance(item, LocalAddress):
            self._added.discard(item)

    def _complain(self, event: str, item: Item, error: OSError, refused: set[tuple[Item, int]]) -> None:
        refused.add((item, error.errno or 0))
        if (item, error.errno or 0) not in self._refused:
            log.event(event, "warning", kind=type(item).__name__, what=item, error=error.strerror)

    def _owned(self) -> Iterator[Item]:
        """What is ours in the kernel: addresses first and proxies last, as in a state."""
        yield from self._owned_addresses()
        for message in self._requests.dump(ROUTE, _INET6 | {"proto": OWN_PROTOCOL}):
            yield from _routes(message)
        for message in self._requests.dump(RULE, _INET6):
            attrs = attributes(message)
            if attrs.get("FRA_PROTOCOL") == OWN_PROTOCOL and "FRA_SRC" in attrs:
                table = attrs.get("FRA_TABLE", message["table"])
                yield Rule(IPv6Address(attrs["FRA_SRC"]), table, attrs.get("FRA_PRIORITY", 0))
        for message in self._requests.dump(NEIGHBOUR, _INET6 | {"flags": _NTF_PROXY}):
            attrs, name = attributes(message), interface_name(message["ifindex"])
            if attrs.get("NDA_PROTOCOL") == OWN_PROTOCOL and name:
                yield ProxyNeighbour(IPv6Address(attrs["NDA_DST"]), name, bool(message["flags"] & _NTF_ROUTER))

    def _owned_addresses(self) -> Iterator[LocalAddress]:
        for message in self._requests.dump(ADDRESS, _INET6):
            attrs, name = attributes(message), interface_name(message["index"])
            if not name or message["scope"] != _UNIVERSE:
                continue
            address = IPv6Address(attrs.get("IFA_LOCAL") or attrs["IFA_ADDRESS"])
            item = LocalAddress(address, name, message["prefixlen"])
            if name == self._device or attrs.get("IFA_PROTO") == OWN_PROTOCOL or item in self._added:
                yield item


def _routes(message: Any) -> Iterator[Route]:
    if message["type"] != _UNICAST or message["flags"] & _CLONED:
        return
    attrs = attributes(message)
    for index, gateway in _next_hops(attrs):
        if name := interface_name(index):
            yield Route(
                destination=IPv6Network((attrs.get("RTA_DST", "::"), message["dst_len"])),
                device=name,
                gateway=gateway,
                table=attrs.get("RTA_TABLE", message["table"]),
                source=IPv6Address(attrs["RTA_PREFSRC"]) if "RTA_PREFSRC" in attrs else None,
                metric=attrs.get("RTA_PRIORITY", DEFAULT_METRIC),
            )


def _canonical(item: Item) -> Item:
    """An item as the kernel shows it."""
    if isinstance(item, Route):
        gateway = None if item.gateway == UNSPECIFIED else item.gateway
        return replace(item, gateway=gateway, metric=item.metric or DEFAULT_METRIC)
    return item


def _slot(item: Item) -> tuple[object, ...]:
    """What two items have in common of which the kernel holds only one."""
    match item:
        case Route():
            return Route, item.destination, item.table, item.metric
        case Rule():
            return Rule, item.source, item.table, item.priority
        case LocalAddress() | ProxyNeighbour():
            return type(item), item.address, item.device


def _request(item: Item) -> tuple[int, dict[str, object], Attributes]:
    """The rtnetlink object of an item: kind, fields, attributes. OSError (ENODEV, ENXIO) when its device is missing."""
    match item:
        case LocalAddress():
            fields = _INET6 | {"prefixlen": item.prefix_length, "index": interface_index(item.device)}
            address = str(item.address)
            return (
                ADDRESS,
                fields,
                [
                    ("IFA_LOCAL", address),
                    ("IFA_ADDRESS", address),
                    ("IFA_FLAGS", _F_NODAD),
                    ("IFA_PROTO", OWN_PROTOCOL),
                ],
            )
        case Route():
            fields = _INET6 | {"dst_len": item.destination.prefixlen, "proto": OWN_PROTOCOL, "type": _UNICAST}
            attrs: list[tuple[str, object]] = [
                ("RTA_DST", str(item.destination.network_address)),
                ("RTA_OIF", interface_index(item.device)),
                ("RTA_TABLE", item.table),
                ("RTA_PRIORITY", item.metric),
            ]
            if item.gateway is not None:
                attrs.append(("RTA_GATEWAY", str(item.gateway)))
            if item.source is not None:
                attrs.append(("RTA_PREFSRC", str(item.source)))
            return ROUTE, fields, attrs
        case Rule():
            return (
                RULE,
                _INET6 | {"src_len": 128, "action": _TO_TABLE},
                [
                    ("FRA_SRC", str(item.source)),
                    ("FRA_TABLE", item.table),
                    ("FRA_PRIORITY", item.priority),
                    ("FRA_PROTOCOL", OWN_PROTOCOL),
                ],
            )
        case ProxyNeighbour():
            flags = _NTF_PROXY | (_NTF_ROUTER if item.router else 0)
            fields = _INET6 | {"ifindex": interface_index(item.device), "state": _NUD_PERMANENT, "flags": flags}
            return NEIGHBOUR, fields, [("NDA_DST", str(item.address)), ("NDA_PROTOCOL", OWN_PROTOCOL)]


# --- kernel settings -------------------------------------------------------------------------------------------------

_SYSCTL = Path("/proc/sys/net/ipv6")


class HomeLinkSettings:
    """What proxy neighbour discovery needs of a home link: proxy_ndp=1, and proxy_delay=0 so that it answers at once.

    The constructor sets both (OSError names the file that could not be written), `restore()` gives the old values back.
    They are noted in the file `memory` until then, so that the run after a crash still knows them.
    """

    def __init__(self, device: str, memory: Path) -> None:
        self._memory = memory
        wanted = {f"conf/{device}/proxy_ndp": "1", f"neigh/{device}/proxy_delay": "0"}
        self._old = self._noted(wanted)
        if not self._old:
            self._old = {name: (_SYSCTL / name).read_text().strip() for name in wanted}
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(json.dumps(self._old))
        for name, value in wanted.items():
            (_SYSCTL / name).write_text(value)

    def restore(self) -> None:
        """Give the old values back, as far as the device still exists."""
        for name, value in self._old.items():
            setting = _SYSCTL / name
            if setting.exists():
                setting.write_text(value)
        self._memory.unlink(missing_ok=True)

    def _noted(self, names: Iterable[str]) -> dict[str, str]:
        """What a run that crashed has noted of the settings `names`."""
        try:
            noted = json.loads(self._memory.read_text())
            return {name: str(int(noted[name])) for name in names}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError) as error:  # the crash came while it was written, or of another link
            log.event("noted_settings_unreadable", "warning", file=self._memory, error=str(error))
            return {}


def settings_warnings(forwarding: bool, access_links: Iterable[str]) -> list[str]:
    """What is set wrongly in the kernel, one sentence each with the command that mends it.

    `forwarding`: the agent is a router (home agent, mobile router). `access_links`: where care-of addresses come from.
    """
    wrong = []
    if forwarding and (_SYSCTL / "conf/all/forwarding").read_text().strip() == "0":
        wrong.append("IPv6 forwarding is off, so nothing is routed: sysctl -w net.ipv6.conf.all.forwarding=1")
    for link in access_links:
        setting = _SYSCTL / "conf" / link
        if not setting.exists():
            continue
        accept, routing = ((setting / name).read_text().strip() for name in ("accept_ra", "forwarding"))
        if accept == "0" or (accept == "1" and (forwarding or routing != "0")):
            command = f"sysctl -w net.ipv6.conf.{link.replace('.', '/')}.accept_ra=2"
            wrong.append(f"{link} ignores router advertisements (accept_ra={accept}): {command}")
    return wrong
