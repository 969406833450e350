"""The eBPF data plane: programs in the kernel carry the packets, the userspace data plane beside them the rest.

What a program does not handle goes on as if it were not there: from the tunnel device to its reader, from an access
device to the raw socket. So the userspace data plane runs here as well, with the same table, and each packet is carried
and counted by exactly one of the two.

Programs, maps and tunnel device outlive the process, and go on forwarding until the lifetimes in the maps end. The next
process takes them over: running programs that are equal to ours stay with their maps; others are replaced one by one,
by ours over the same maps where their layout is ours, else over new maps once these are filled. Nothing is ever taken
down first.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Collection, Mapping
from dataclasses import fields
from ipaddress import IPv6Address

from mip6.dataplane.attachments import Attachments
from mip6.dataplane.interface import Counters, TunnelCounters
from mip6.dataplane.libbpf import LibbpfError, Object
from mip6.dataplane.maps import Devices, FastPathMaps, load
from mip6.dataplane.predecessor import counted, hold, release, take_over
from mip6.dataplane.sharedmemory import ELIMINATE
from mip6.dataplane.shortcut import ShortCut, Way
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.forwarding import DropReason, ForwardingTable
from mip6.system import log
from mip6.system.interfaces import interface_index
from mip6.system.rtnetlink import GROUP_LINK, GROUP_TC, Notifications
from mip6.system.udp import UdpSockets

POLL = 1.0  # seconds between looks at what nobody tells about
SETTLE = 0.02  # seconds that news about devices are collected
_COUNTED = tuple(one.name for one in fields(TunnelCounters))


class EbpfDataPlane:
    """See `interface.DataPlane`."""

    name = "ebpf"
    outlives = True

    def __init__(
        self, slow: UserspaceDataPlane, device: str, access: Collection[str] | None = None, shortcut: str = "auto"
    ) -> None:
        """Loads and attaches the programs. `access`: the names of a mobile node's links, None at a home agent;
        `shortcut`: auto, on or off. LibbpfError when there is no object or the kernel refuses it, OSError when it
        refuses to attach."""
        self._slow, self._device = slow, device
        self._table: ForwardingTable | None = None
        with contextlib.ExitStack() as stack:
            self._attachments = Attachments(device, access)
            stack.callback(self._attachments.close)
            running = self._attachments.held()
            self._waits = bool(running)  # what runs of an earlier life goes on until our first settled table
            self._object, self._old = take_over(running)
            self._adopted = self._waits and self._old is None
            stack.callback(self._close_programs)
            slow.memory.program = self._object.programs[ELIMINATE]
            self._maps = FastPathMaps(self._object.maps)
            self._before = Counters()  # of programs that ours have taken the place of
            self._shortcut = ShortCut(shortcut, device)
            stack.callback(self._shortcut.close)
            self._way = self._shortcut.way()
            self._use_way()
            self._stack = stack.pop_all()

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow devices and firewall, and start the userspace data plane."""
        self._loop = asyncio.get_running_loop()
        self._slow.start()
        self._news = Notifications(GROUP_LINK, GROUP_TC)
        self._loop.add_reader(self._news.fileno(), self._devices_changed)
        self._loop.add_reader(self._shortcut.fileno(), self._firewall_changed)
        self._scheduled: asyncio.TimerHandle | None = None
        self._poll = self._loop.call_later(POLL, self._look)
        log.event("shortcut", chosen="on" if self._way.shortcut else "off", reason=self._way.reason)
        self._apply()  # devices may have come since the programs were attached

    def stop(self, *, remove: bool) -> None:
        """Stop following; with `remove` programs, maps and device go, else they go on by themselves: not by a short cut
        that we chose, as nobody will see when a firewall comes."""
        self._poll.cancel()
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._loop.remove_reader(self._news.fileno())
        self._loop.remove_reader(self._shortcut.fileno())
        if remove:
            self._attachments.remove_all()
            release()
        elif self._shortcut.chosen:
            self._set_way(Way(False, False, "nobody watches the firewall any more"))
        self._news.close()
        self._stack.close()
        self._slow.stop(remove=remove)

    def set_table(self, table: ForwardingTable) -> None:
        """Both take it over; what goes on from an earlier life keeps its own as long as `table` is provisional."""
        self._slow.set_table(table)
        if self._waits and table.provisional:
            return
        self._table = table
        self._fill(table)
        if self._waits:
            self._waits = False
            self._take_over()

    def use_udp(self, sockets: UdpSockets) -> None:
        """As the userspace data plane does, which carries what is encapsulated in UDP."""
        self._slow.use_udp(sockets)

    def deliver(self, packet: bytes) -> None:
        """As the userspace data plane does."""
        self._slow.deliver(packet)

    def counters(self) -> Counters:
        """The sum of what the programs, those before them, and the userspace data plane have counted."""
        return _sum(self._maps.counters(), self._before, self._slow.counters())

    def status(self) -> Mapping[str, object]:
        """What `mip6 status` shows of it."""
        return {"shortcut": "on" if self._way.shortcut else "off", "shortcut_reason": self._way.reason}

    # --- following ---------------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """Our maps are filled. If they are new, our programs take the place of the old ones, and go on counting."""
        self._apply()
        if self._old is not None:
            self._before = _sum(self._before, counted(self._old))
            for one in self._old.values():
                one.close()
            self._old = None

    def _fill(self, table: ForwardingTable) -> None:
        try:
            self._maps.set_table(table)
        except LibbpfError as error:
            if error.errno != errno.E2BIG:
                raise
            self._grow(table)

    def _grow(self, table: ForwardingTable) -> None:
        """The maps have no room for `table`: programs with more take their place."""
        full, outgrown = self._object, self._maps
        self._object, self._maps, nodes = self._with_room(table)
        if self._adopted or not self._waits:
            self._adopted = self._waits = False
            self._apply()
            self._before = _sum(self._before, outgrown.counters())
        self._slow.memory.program = self._object.programs[ELIMINATE]
        full.close()
        log.event("fast_path_grown", nodes=nodes)

    def _with_room(self, table: ForwardingTable) -> tuple[Object, FastPathMaps, int]:
        """Programs whose maps hold `table`, and for about how many nodes they have room: more where nodes are large."""
        nodes = 2 * len(table.nodes)
        while True:
            loaded = load(nodes=nodes)
            maps = FastPathMaps(loaded.maps)
            maps.set_devices(self._devices())
            try:
                maps.set_table(table)
            except LibbpfError as error:
                loaded.close()
                if error.errno != errno.E2BIG:
                    raise
                nodes *= 2
            else:
                return loaded, maps, nodes

    def _close_programs(self) -> None:
        self._slow.memory.program = None
        self._object.close()
        for one in (self._old or {}).values():
            one.close()

    def _devices_changed(self) -> None:
        if self._news.drain(self._attachments.port) and self._scheduled is None:
            self._scheduled = self._loop.call_later(SETTLE, self._settled)

    def _settled(self) -> None:
        self._scheduled = None
        self._apply()
        if self._table is not None:
            self._fill(self._table)  # a device that tunnels leave by may be another one of the same name now

    def _firewall_changed(self) -> None:
        if self._shortcut.drain():
            self._set_way(self._shortcut.way())

    def _look(self) -> None:
        self._poll = self._loop.call_later(POLL, self._look)
        self._set_way(self._shortcut.way())

    def _set_way(self, way: Way) -> None:
        if way != self._way:
            self._way = way
            log.event("shortcut", chosen="on" if way.shortcut else "off", reason=way.reason)
            self._use_way()

    def _use_way(self) -> None:
        self._maps.set_devices(self._devices())
        self._apply()

    def _devices(self) -> Devices:
        tunnel = interface_index(self._device)
        return Devices(tunnel, 0 if self._way.direct else tunnel, self._way.shortcut)

    def _apply(self) -> None:
        if self._adopted or not self._waits:
            map_ids = {one.id for name, one in self._object.maps.items() if "." not in name}
            if self._attachments.apply(self._object.programs, map_ids, self._way.shortcut):
                hold(self._object)


def _sum(*parts: Counters) -> Counters:
    tunnels: dict[tuple[IPv6Address, int], TunnelCounters] = {}
    drops: dict[DropReason, int] = {}
    for part in parts:
        for key, one in part.tunnels.items():
            total = tunnels.setdefault(key, TunnelCounters())
            for name in _COUNTED:
                setattr(total, name, getattr(total, name) + getattr(one, name))
        for reason, count in part.drops.items():
            drops[reason] = drops.get(reason, 0) + count
    return Counters(tunnels, drops)
