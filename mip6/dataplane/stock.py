"""What stands in maps that an earlier life has filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from mip6.dataplane.layout import CHUNK_KEY, NUMBER, OWNER, TUNNEL
from mip6.dataplane.libbpf import Map


@dataclass(slots=True)
class Stock:
    """The keys of each map of that kind; runs of tunnels (first, count); indexes of counters by home address and BID;
    the highest serial number in use. Nothing, where maps are fresh."""

    keys: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    tunnels: set[tuple[int, int]] = field(default_factory=set)
    counters: dict[IPv6Address, dict[int, int]] = field(default_factory=dict)
    serial: int = 0


def take_stock(maps: Mapping[str, Map]) -> Stock:
    """Read it all."""
    owners = dict(maps["owners"].items())
    keys = {name: frozenset(maps[name].keys()) for name in ("rules", "pairs", "locals")}
    found = Stock({**keys, "owners": frozenset(owners)})
    serials = [CHUNK_KEY.unpack(key)[0] for key in keys["rules"]]
    for owner in set(owners.values()):
        home, start, version, _, count, *_ = OWNER.unpack(owner)
        serials.append(version)
        found.tunnels.add((start, count))
        counters = found.counters.setdefault(IPv6Address(home), {})
        for index in range(start, start + count):
            value = maps["tunnels"].lookup(NUMBER.pack(index)) or bytes(TUNNEL.size)
            _, _, _, counter, serial, _, bid, *_ = TUNNEL.unpack(value)
            serials.append(serial)
            counters[bid] = counter
    found.serial = max(serials, default=0)
    return found
