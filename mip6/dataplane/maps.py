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
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from mip6.dataplane import layout
from mip6.dataplane.interface import Counters, TunnelCounters
from mip6.dataplane.layout import CHUNK_KEY, NUMBER, OWNER
from mip6.dataplane.libbpf import LibbpfError, Map, Object
from mip6.dataplane.room import Room
from mip6.dataplane.stock import Stock, take_stock
from mip6.dataplane.touched import Touched
from mip6.forwarding import DropReason, End, ForwardingTable, Node
from mip6.nodes import Change, Nodes
from mip6.system.interfaces import has_link_header, interface_index

OBJECT = Path(__file__).with_name("fastpath.bpf.o")
"""Compiled at build time; missing when clang was."""
PROGRAMS = ("encap_egress", "encap_ingress", "encap_raw", "decap_ingress", "decap_raw")
_NODES_AT_ONCE = 2048  # of a table that is taken over; what they replace stays until no program uses it
_ZERO = NUMBER.pack(0)


@dataclass(frozen=True, slots=True)
class Devices:
    """What the programs have to know of devices, by interface index.

    `tunnel` is the tunnel device. `deliver`: where decapsulated packets enter the stack: 0 as arrived on the access
    device itself (fastest), or the index of the tunnel device (for rules that look at the input device). `forward`:
    what the routes lead on to a neighbour does not enter it at all.
    """

    tunnel: int
    deliver: int = 0
    forward: bool = False


def load(path: Path = OBJECT, nodes: int = 1) -> Object:
    """The object in the kernel, maps empty, with room for about as many nodes. LibbpfError says why not, with the
    verifier's log.

    Room costs some 500 octets for each node, and 64 for each possible CPU, even if it is not used; a table that does
    not fit gives LibbpfError with errno E2BIG, and a program with more room can then replace this one.
    """
    per_node = {"tunnels": 4, "rules": 8, "counts": 2, "pairs": 4, "locals": 4}
    return Object(path, {name: max(256, nodes * count) for name, count in per_node.items()})


@dataclass(frozen=True, slots=True)
class _Written:
    """What of a node stands in the kernel, and the owner entry that points to it. `pairs` and `locals` are the keys
    that its tunnels have need of."""

    tunnels: int  # index of the first
    count: int
    pairs: Sequence[bytes]
    locals: Sequence[bytes]
    counters: Mapping[int, int]  # indexes by BID
    version: int  # of the rules
    chunks: int
    copied: int
    owner: bytes


class _New:
    """Keys and values for one map."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: list[bytes] = []


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
        self._nodes = Nodes()
        self._head: tuple[End, bool, bool] | None = None  # what of the table is not in its nodes
        self._agent: list[bytes] = []  # addresses that tunnels may end at even if none does now
        self._written: dict[IPv6Address, _Written] = {}
        self._serial = 0  # the last one used, of tunnels and of versions
        self._owners: dict[bytes, list[IPv6Address]] = {}  # who has a prefix; the lowest home address counts
        self._uses: dict[str, Counter[bytes]] = {"pairs": Counter(), "locals": Counter()}
        self._room = Room(maps)
        self._stock: Stock | None = None  # what stands in the maps that is not of our making
        self._found: dict[str, layout.Device | None] = {}  # devices by name

    def set_devices(self, devices: Devices) -> None:
        """From now on these devices; at once for all programs."""
        self._devices = devices
        self._write_settings()

    def set_table(self, table: ForwardingTable) -> None:
        """From now on this table. Only nodes that are other objects than before, or whose devices have another index
        now (so call it also when links come and go), are touched; each changes in one step: a packet sees all of the
        old node or all of the new one. If its nodes are a later version of those before (`Nodes.changed`), it costs the
        same whatever the size of the table.

        LibbpfError when the kernel has no room: the maps are then partly old and not to be used further.
        """
        first, stock = self._head is None, self._take_stock()
        self._head = table.end, table.eliminate_duplicates, table.zero_checksum
        self._write_settings()
        self._set_agent([table.address.packed] if table.end is End.HOME_AGENT else [])
        if first:  # versions begin anew: some were perhaps those of other rules
            decisions = self.maps["decisions"]
            keys = [NUMBER.pack(number) for number in range(decisions.max_entries)]
            decisions.update_batch(keys, [bytes(decisions.value_size)] * len(keys))
        nodes = Nodes.of(table.nodes)
        changes = self._differences(nodes)
        for at in range(0, len(changes), _NODES_AT_ONCE):
            self._change(changes[at : at + _NODES_AT_ONCE])
        self._nodes = nodes
        if first:
            self._sweep(stock)

    def counters(self) -> Counters:
        """Read from the kernel; tunnels that nothing has passed are left out. The sums go on over an adoption."""
        tunnels, drops, counts = {}, {}, self.maps["counts"]
        held = {home: one.counters for home, one in self._written.items()}
        names = {
            NUMBER.pack(index): (home, bid)
            for whose in (self._take_stock().counters, held)
            for home, indexes in whose.items()
            for bid, index in indexes.items()
        }
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

    def _differences(self, nodes: Nodes) -> list[Change]:
        """Those that are gone come first: they make room."""
        changes = sorted(nodes.since(self._nodes), key=lambda change: change[2] is not None)
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
        there = self.maps["settings"].lookup(_ZERO) or bytes(layout.SETTINGS.size)
        uplink, _, _, eliminate, zero_checksum, _, key = layout.SETTINGS.unpack(there)
        if self._head is not None:  # adopted maps go on as they are until the first table
            end, eliminate, zero_checksum = self._head
            uplink = end is End.MOBILE_NODE
        if not any(key):
            key = os.urandom(len(key))
        devices = self._devices
        words = (uplink, devices.tunnel, devices.deliver, eliminate, zero_checksum, devices.forward)
        value = layout.SETTINGS.pack(*words, key)
        self.maps["settings"].update(_ZERO, value)

    def _set_agent(self, agent: list[bytes]) -> None:
        if agent == self._agent:
            return
        touched = Touched(self._uses)
        touched.use("locals", agent, self._agent)
        touched.write(self.maps)
        touched.remove(self.maps)
        self._agent = agent

    def _change(self, changes: Iterable[Change]) -> None:
        """Write what is new, then let the owner entries point to it, then remove what is old."""
        self._room.tidy()
        new = {name: _New() for name in ("counts", "tunnels", "rules")}
        touched, prefixes, replaced = Touched(self._uses), set(), []
        for home, before, after in changes:
            old = self._written.get(home)
            now = None
            if after is not None:
                same = old is not None and before is not None and before.tunnels == after.tunnels
                same = same and not _has_device(after)  # the device may be another one now
                now = self._written[home] = self._write(after, old, same, new)
            if old is not None:
                replaced.append((old, now))
            if now is None:
                self._written.pop(home, None)
            prefixes |= self._own(home, before, after)
            for name in ("pairs", "locals"):
                mine, was = (() if one is None else getattr(one, name) for one in (now, old))
                if mine is not was:
                    touched.use(name, mine, was)
        for name, entries in new.items():
            self._room.insert(name, entries.keys, entries.values)
        touched.write(self.maps)
        self._write_owners(prefixes)
        touched.remove(self.maps)
        for one, successor in replaced:
            self._retire(one, successor)

    def _write(self, node: Node, old: _Written | None, same: bool, new: Mapping[str, _New]) -> _Written:
        """Find room for a node and add what it needs to `new`; with `same`, the tunnels of `old` do as they are."""
        home, sending = node.home_address, layout.pack_sending(node)
        if same:
            assert old is not None
            start, count, counters, pairs, locals_ = old.tunnels, old.count, old.counters, old.pairs, old.locals
        else:
            count, entries = min(len(node.tunnels), layout.MAX_TUNNELS), new["tunnels"]
            counters = self._counters(node, old, new["counts"])
            start = self._room.take("tunnels", count)
            pairs = [layout.ends(tunnel) for tunnel in node.tunnels]
            for index, tunnel, pair in zip(range(start, start + count), node.tunnels, pairs, strict=False):
                device = self._device(tunnel.device) if tunnel.device is not None else None
                self._serial += 1
                entries.keys.append(NUMBER.pack(index))
                entries.values.append(layout.pack_tunnel(tunnel, pair, device, counters[tunnel.bid], self._serial))
            locals_ = [pair[:16] for pair in pairs]
        self._serial += 1
        rules, chunks, copied = new["rules"], len(sending.rules), len(sending.copied)
        numbers = (*range(chunks), *range(layout.MAX_CHUNKS, layout.MAX_CHUNKS + copied))
        rules.keys += [CHUNK_KEY.pack(self._serial, number) for number in numbers]
        rules.values += sending.rules
        rules.values += sending.copied
        owner = OWNER.pack(
            *(home.packed, start, self._serial, chunks, count),
            *(sending.first, sending.userspace, copied),
        )
        return _Written(start, count, pairs, locals_, counters, self._serial, chunks, copied, owner)

    def _counters(self, node: Node, old: _Written | None, new: _New) -> dict[int, int]:
        """The indexes of its tunnels' counters, by BID. New ones begin at zero."""
        before = old.counters if old is not None else self._take_stock().counters.pop(node.home_address, {})
        found = {tunnel.bid: before.get(tunnel.bid, -1) for tunnel in node.tunnels[: layout.MAX_TUNNELS]}
        missing = [bid for bid, index in found.items() if index < 0]
        start = self._room.take("counts", len(missing))
        found |= zip(missing, range(start, start + len(missing)), strict=True)
        new.keys += [NUMBER.pack(found[bid]) for bid in missing]
        new.values += [bytes(self.maps["counts"].value_size)] * len(missing)
        if old is None:
            for bid in before.keys() - found.keys():
                self._room.retire("counts", before[bid], 1)
        return found

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

    def _retire(self, old: _Written, new: _Written | None) -> None:
        """What of a node stands in the kernel no longer, and not in its successor either."""
        self._room.retire_rules(old.version, old.chunks, old.copied)
        if new is None or new.tunnels != old.tunnels:
            self._room.retire("tunnels", old.tunnels, old.count)
        for bid, index in old.counters.items():
            if new is None or bid not in new.counters:
                self._room.retire("counts", index, 1)

    # --- maps of an earlier life ------------------------------------------------------------------------------------

    def _take_stock(self) -> Stock:
        if self._stock is None:
            self._stock = take_stock(self.maps)
            self._serial = self._stock.serial
            self._room.occupy("tunnels", self._stock.tunnels)
            counters = [index for held in self._stock.counters.values() for index in held.values()]
            self._room.occupy("counts", [(index, 1) for index in counters])
        return self._stock

    def _sweep(self, stock: Stock) -> None:
        """Remove what stood in adopted maps and is not in the table."""
        wanted: dict[str, Iterable[bytes]] = {"owners": self._owners, **self._uses}
        for name, keys in wanted.items():
            self.maps[name].delete_batch(list(stock.keys[name].difference(keys)))
        self._room.retire_chunks(stock.keys["rules"])
        for start, count in stock.tunnels:
            self._room.retire("tunnels", start, count)
        for held in stock.counters.values():
            for index in held.values():
                self._room.retire("counts", index, 1)
        self._stock = Stock()


def _has_device(node: Node) -> bool:
    return any(tunnel.device is not None for tunnel in node.tunnels)


def _find(name: str) -> layout.Device | None:
    try:
        return layout.Device(interface_index(name), not has_link_header(name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None
