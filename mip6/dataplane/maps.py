"""A forwarding table as contents of the fast path's maps, and the programs that read them.

How the programs of `fastpath.bpf.o` are attached (all of them tc programs in direct action mode, on clsact):

    encap_egress    egress of the tunnel device (a TUN: no link-layer header)
    encap_ingress   ingress of a served interface with Ethernet header: the short cut
    encap_raw       the same, of a served interface without link-layer header
    decap_ingress   ingress of an access device with Ethernet header (ARPHRD_ETHER, loopback)
    decap_raw       ingress of an access device without (ARPHRD_NONE, ARPHRD_RAWIP, ARPHRD_PPP): modem, PPP, TUN

What a program does not handle it leaves as it is and returns TC_ACT_UNSPEC, so that filters behind it and then the
stack see it; what is in the way of a tunnel arrives at the reader of the tunnel device. A packet that a program counted
as dropped is gone (TC_ACT_SHOT) and reaches nobody else.

All programs of one object share its maps, so one `FastPathMaps` serves all attachments. A program is replaced in place
by another object's when the tags differ (`libbpf.Program.tag`): the new object's maps are filled first.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from mip6.dataplane import layout
from mip6.dataplane.interface import Counters, TunnelCounters
from mip6.dataplane.layout import CHUNK_KEY, NUMBER, OWNER, TUNNEL
from mip6.dataplane.libbpf import LibbpfError, Map, Object
from mip6.dataplane.ranges import Full, Ranges
from mip6.dataplane.touched import Touched
from mip6.forwarding import DropReason, End, ForwardingTable, Node
from mip6.system.interfaces import has_link_header, interface_index

OBJECT = Path(__file__).with_name("fastpath.bpf.o")
"""Compiled at build time; missing when clang was."""
PROGRAMS = ("encap_egress", "encap_ingress", "encap_raw", "decap_ingress", "decap_raw")
_NODES_AT_ONCE = 2048  # of a table that is taken over; what they replace stays until no program uses it
_RETIRED = 8192  # old things that may wait for that
_ZERO = NUMBER.pack(0)


@dataclass(frozen=True, slots=True)
class Devices:
    """What the programs have to know of devices, by interface index.

    `tunnel` is the tunnel device. `deliver`: where decapsulated packets enter the stack: 0 as arrived on the access
    device itself (fastest), or the index of the tunnel device (for rules that look at the input device).
    """

    tunnel: int
    deliver: int = 0


def load(path: Path = OBJECT, nodes: int = 1) -> Object:
    """The object in the kernel, maps empty, with room for about as many nodes. LibbpfError says why not, with the
    verifier's log.

    Room costs some 500 octets for each node, and 64 for each possible CPU, even if it is not used; a table that does
    not fit gives LibbpfError with errno E2BIG, and a program with more room can then replace this one.
    """
    per_node = {"tunnels": 4, "rules": 8, "counts": 2, "pairs": 4, "locals": 4}
    return Object(path, {name: max(256, nodes * count) for name, count in per_node.items()})


_Change = tuple[IPv6Address, Node | None, Node | None]  # a node before and after


@dataclass(frozen=True, slots=True)
class _Written:
    """What of a node stands in the kernel, and the owner entry that points to it."""

    tunnels: int  # index of the first
    count: int
    version: int  # of the rules
    chunks: int
    copied: int
    owner: bytes


class _Retired:
    """What no owner entry points to any more, but a program may still look at."""

    def __init__(self) -> None:
        self.tunnels: list[tuple[int, int]] = []
        self.counters: list[int] = []
        self.chunks: list[bytes] = []

    def __len__(self) -> int:
        return len(self.tunnels) + len(self.counters) + len(self.chunks)


class FastPathMaps:
    """Keeps the maps of one loaded object equal to a table. Not for several threads."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        """`maps` by name, of a fresh `Object` or of an adopted program (`Program.by_id(...).maps()`).

        Adopted maps keep forwarding by what stands in them until the first `set_table`, which replaces their contents
        node by node without a gap and removes what is not in the table. LibbpfError when they are those of another
        version of the programs.
        """
        for name, sizes in layout.SIZES.items():
            if name not in maps or (maps[name].key_size, maps[name].record_size) != sizes:
                raise LibbpfError(f"map {name}: missing or of another layout")
        self.maps = maps
        self._devices = Devices(0)
        self._nodes: dict[IPv6Address, Node] = {}
        self._head: tuple[End, bool] | None = None  # what of the table is not in its nodes
        self._agent: list[bytes] = []  # addresses that tunnels may end at even if none does now
        self._written: dict[IPv6Address, _Written] = {}
        self._serial = 0  # the last one used, of tunnels and of versions
        self._owners: dict[bytes, list[IPv6Address]] = {}  # who has a prefix; the lowest home address counts
        self._uses: dict[str, Counter[bytes]] = {"pairs": Counter(), "locals": Counter()}
        self._counters: dict[tuple[IPv6Address, int], int] = {}  # index by home address and BID
        self._free = {name: Ranges(maps[name].max_entries) for name in ("tunnels", "counts")}
        self._retired = _Retired()
        self._stock: dict[str, frozenset[bytes]] | None = None  # what stands in the maps that is not of our making
        self._found: dict[str, layout.Device | None] = {}  # devices by name

    def set_devices(self, devices: Devices) -> None:
        """From now on these devices; at once for all programs."""
        self._devices = devices
        self._write_settings()

    def set_table(self, table: ForwardingTable) -> None:
        """From now on this table. Only nodes that are other objects than before, or whose devices have another index
        now (so call it also when links come and go), are touched; each changes in one step: a packet sees all of the
        old node or all of the new one.

        LibbpfError when the kernel has no room: the maps are then partly old and not to be used further.
        """
        first = self._head is None
        there = self._stock if self._stock is not None else self._take_stock()
        self._head = table.end, table.eliminate_duplicates
        self._write_settings()
        self._set_agent([table.address.packed] if table.end is End.HOME_AGENT else [])
        changes = self._differences(table.nodes)
        for at in range(0, len(changes), _NODES_AT_ONCE):
            self._change(changes[at : at + _NODES_AT_ONCE])
        self._nodes = dict(table.nodes)
        if first:
            self._sweep(there)
            self._stock = {}

    def set_node(self, home_address: IPv6Address, node: Node | None) -> None:
        """One node of the table alone; None: it is gone. Costs the same whatever the size of the table."""
        self._change([(home_address, self._nodes.get(home_address), node)])
        if node is None:
            self._nodes.pop(home_address, None)
        else:
            self._nodes[home_address] = node

    def counters(self) -> Counters:
        """Read from the kernel; tunnels that nothing has passed are left out. The sums go on over an adoption."""
        if self._stock is None:
            self._stock = self._take_stock()
        tunnels, drops, counts = {}, {}, self.maps["counts"]
        names = {NUMBER.pack(index): name for name, index in self._counters.items()}
        for key, value in counts.items():
            parts = [layout.COUNT.unpack_from(value, at) for at in range(0, len(value), counts.part_size)]
            sums = [sum(column) for column in zip(*parts, strict=True)]
            if any(sums) and key in names:
                tunnels[names[key]] = TunnelCounters(*sums)
        for number, reason in enumerate(DropReason):
            value = self.maps["drops"].lookup(NUMBER.pack(number)) or b""
            if total := sum(part for (part,) in layout.DROP.iter_unpack(value)):
                drops[reason] = total
        return Counters(tunnels, drops)

    def close(self) -> None:
        """Let go of the maps; attached programs go on with them."""
        for one in self.maps.values():
            one.close()

    # --- what differs -----------------------------------------------------------------------------------------------

    def _differences(self, nodes: Mapping[IPv6Address, Node]) -> list[_Change]:
        """By identity, and mostly without a look at what is equal: two tables have most nodes at the same place."""
        old, new = list(self._nodes.values()), list(nodes.values())
        end = min(len(old), len(new))
        start = next((i for i in range(end) if old[i] is not new[i]), end)
        tail = next((i for i in range(end - start) if old[-1 - i] is not new[-1 - i]), end - start)
        before = {node.home_address: node for node in old[start : len(old) - tail]}
        after = {node.home_address: node for node in new[start : len(new) - tail]}
        changes: list[_Change] = [(home, node, None) for home, node in before.items() if home not in after]
        changes += [(home, before.get(home), node) for home, node in after.items() if before.get(home) is not node]
        if self._devices_moved():
            touched = {home for home, _, _ in changes}
            changes += [(home, node, node) for home, node in nodes.items() if _has_device(node) and home not in touched]
        return changes

    def _device(self, name: str) -> layout.Device | None:
        if name not in self._found:
            self._found[name] = _find(name)
        return self._found[name]

    def _devices_moved(self) -> bool:
        """Look at the devices anew."""
        old, self._found = self._found, {name: _find(name) for name in self._found}
        return old != self._found

    # --- into the kernel --------------------------------------------------------------------------------------------

    def _write_settings(self) -> None:
        if self._head is not None:
            uplink, eliminate = self._head[0] is End.MOBILE_NODE, self._head[1]
        else:  # adopted maps go on as they are until the first table
            there = self.maps["settings"].lookup(_ZERO) or bytes(layout.SETTINGS.size)
            uplink, _, _, eliminate = layout.SETTINGS.unpack(there)
        value = layout.SETTINGS.pack(uplink, self._devices.tunnel, self._devices.deliver, eliminate)
        self.maps["settings"].update(_ZERO, value)

    def _set_agent(self, agent: list[bytes]) -> None:
        touched = Touched(self._uses)
        touched.use("locals", agent, self._agent)
        touched.write(self.maps)
        touched.remove(self.maps)
        self._agent = agent

    def _change(self, changes: Iterable[_Change]) -> None:
        """Write what is new, then let the owner entries point to it, then remove what is old."""
        if len(self._retired) > min(_RETIRED, self.maps["rules"].max_entries // 4):
            self._reclaim()
        new: dict[str, dict[bytes, bytes]] = {name: {} for name in ("counts", "tunnels", "rules")}
        touched, prefixes, replaced = Touched(self._uses), set(), []
        for home, before, after in changes:
            old = self._written.pop(home, None)
            same = before is not None and after is not None and before.tunnels == after.tunnels
            same = same and not (after and _has_device(after))  # the device may be another one now
            if after is not None:
                self._written[home] = self._write(after, old if same else None, new)
            if old is not None:
                replaced.append((old, same))
            prefixes |= self._own(home, before, after)
            now = after.tunnels if after is not None else ()
            was = before.tunnels if before is not None else ()
            if now != was:
                touched.use("pairs", layout.ends(now), layout.ends(was))
                touched.use("locals", (layout.address(t.local) for t in now), (layout.address(t.local) for t in was))
                for bid in {tunnel.bid for tunnel in was} - {tunnel.bid for tunnel in now}:
                    self._retired.counters.append(self._counters.pop((home, bid)))
        for name, entries in new.items():
            self._insert(name, list(entries), list(entries.values()))
        touched.write(self.maps)
        self._write_owners(prefixes)
        touched.remove(self.maps)
        for one, same in replaced:
            self._retire(one, tunnels=not same)

    def _write(self, node: Node, old: _Written | None, new: dict[str, dict[bytes, bytes]]) -> _Written:
        """Find room for a node and add what it needs to `new`; the tunnels of `old` do as they are."""
        home, sending = node.home_address, layout.pack_sending(node)
        count = min(len(node.tunnels), layout.MAX_TUNNELS)
        if old is None:
            start = self._take("tunnels", count)
            for index, tunnel in enumerate(node.tunnels[:count], start):
                device = self._device(tunnel.device) if tunnel.device is not None else None
                self._serial += 1
                counter = self._counter(home, tunnel.bid, new["counts"])
                new["tunnels"][NUMBER.pack(index)] = layout.pack_tunnel(tunnel, device, counter, self._serial)
        else:
            start = old.tunnels
        self._serial += 1
        for number, chunk in enumerate(sending.rules):
            new["rules"][CHUNK_KEY.pack(self._serial, number)] = chunk
        for number, chunk in enumerate(sending.copied, layout.MAX_CHUNKS):
            new["rules"][CHUNK_KEY.pack(self._serial, number)] = chunk
        chunks, copied = len(sending.rules), len(sending.copied)
        owner = OWNER.pack(
            *(home.packed, start, self._serial, chunks, count),
            *(sending.first, sending.userspace, copied),
        )
        return _Written(start, count, self._serial, chunks, copied, owner)

    def _counter(self, home: IPv6Address, bid: int, new: dict[bytes, bytes]) -> int:
        """The index of a tunnel's counters, which begin at zero."""
        index = self._counters.get((home, bid))
        if index is None:
            index = self._counters[home, bid] = self._take("counts", 1)
            new[NUMBER.pack(index)] = bytes(self.maps["counts"].value_size)
        return index

    def _own(self, home: IPv6Address, before: Node | None, after: Node | None) -> set[bytes]:
        """Note who has which prefixes; those whose entries are to be written anew."""
        old = layout.owner_keys(before) if before is not None else set()
        new = old if before and after and before.prefixes == after.prefixes else set()
        if after is not None and new is not old:
            new = layout.owner_keys(after)
        for key in old - new:
            self._owners[key].remove(home)
        for key in new - old:
            self._owners.setdefault(key, []).append(home)
        return old | new

    def _write_owners(self, prefixes: Iterable[bytes]) -> None:
        entries, gone = {}, []
        for key in prefixes:
            homes = self._owners[key]
            if homes:
                entries[key] = self._written[homes[0] if len(homes) == 1 else min(homes)].owner
            else:
                gone.append(key)
                del self._owners[key]
        self.maps["owners"].update_batch(list(entries), list(entries.values()))
        self.maps["owners"].delete_batch(gone)

    # --- what is no longer needed -----------------------------------------------------------------------------------

    def _take(self, name: str, count: int) -> int:
        """The index of the first of so many free elements in a row."""
        for _ in range(2):
            try:
                return self._free[name].take(count)
            except Full:
                self._reclaim()
        raise LibbpfError(f"map {name}: no room for {count} more", errno.E2BIG)

    def _insert(self, name: str, keys: list[bytes], values: list[bytes]) -> None:
        """Write many; what is retired makes room if there is none."""
        try:
            self.maps[name].update_batch(keys, values)
        except LibbpfError as error:
            if error.errno != errno.E2BIG or not self._retired:
                raise
            self._reclaim()
            self.maps[name].update_batch(keys, values)

    def _retire(self, one: _Written, *, tunnels: bool) -> None:
        if tunnels:
            self._retired.tunnels.append((one.tunnels, one.count))
        numbers = (*range(one.chunks), *range(layout.MAX_CHUNKS, layout.MAX_CHUNKS + one.copied))
        self._retired.chunks += [CHUNK_KEY.pack(one.version, number) for number in numbers]

    def _reclaim(self) -> None:
        """Free what is retired, once no program can look at it any more."""
        # the kernel returns from this when every program has ended that ran when it began
        self.maps["grace"].update(_ZERO, NUMBER.pack(self.maps["settings"].fd))
        retired, self._retired = self._retired, _Retired()
        self.maps["rules"].delete_batch(retired.chunks)
        for start, count in retired.tunnels:
            self._free["tunnels"].give(start, count)
        for index in retired.counters:
            self._free["counts"].give(index, 1)

    def _take_stock(self) -> dict[str, frozenset[bytes]]:
        """What stands in adopted maps, which are empty when they are fresh: the keys, by map."""
        owners = dict(self.maps["owners"].items())
        there = {name: frozenset(self.maps[name].keys()) for name in ("rules", "pairs", "locals")}
        there["owners"] = frozenset(owners)
        serials = [CHUNK_KEY.unpack(key)[0] for key in there["rules"]]
        runs = set()
        for owner in set(owners.values()):
            home, start, version, _, count, *_ = OWNER.unpack(owner)
            serials.append(version)
            runs.add((start, count))
            for index in range(start, start + count):
                tunnel = TUNNEL.unpack(self.maps["tunnels"].lookup(NUMBER.pack(index)) or bytes(TUNNEL.size))
                serials.append(tunnel[5])
                self._counters[IPv6Address(home), tunnel[7]] = tunnel[4]
        self._serial = max(serials, default=0)
        self._free["tunnels"].occupy(runs)
        self._free["counts"].occupy((index, 1) for index in self._counters.values())
        self._retired.tunnels += runs
        return there

    def _sweep(self, there: Mapping[str, frozenset[bytes]]) -> None:
        """Remove what stood in adopted maps and is not in the table."""
        wanted: dict[str, Iterable[bytes]] = {"owners": self._owners, **self._uses}
        for name, keys in wanted.items():
            self.maps[name].delete_batch(list(there[name].difference(keys)))
        self._retired.chunks += there["rules"]
        counted = {(home, tunnel.bid) for home, node in self._nodes.items() for tunnel in node.tunnels}
        for key in self._counters.keys() - counted:
            self._retired.counters.append(self._counters.pop(key))


def _has_device(node: Node) -> bool:
    return any(tunnel.device is not None for tunnel in node.tunnels)


def _find(name: str) -> layout.Device | None:
    try:
        return layout.Device(interface_index(name), not has_link_header(name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None
