"""Random tables and packets from a seed: a hundred times faster to draw than Hypothesis's, for comparisons in bulk.

Addresses, ports and the like come from small pools, so that what is drawn for a table and for a packet often meets.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random
from typing import Any

from mip6.forwarding import Encapsulation, End, FlowRule, ForwardingTable, IPAddress, Node, Tunnel
from mip6.numbers import Protocol
from mip6.selectors import IPv4Selector, IPv6Selector, TrafficSelector, UnknownSelector
from mip6.wire import internet_checksum
from tests.dataplane.conformance_outer import NAT, WLAN4
from tests.dataplane.test_reference import AGENT, AGENT4, CELL, HOME, HOME4, PEER, PEER4, WLAN

HOMES = [HOME, HOME + 1, HOME + 2]
INNER6 = [*HOMES, HOME + 9, PEER, IPv6Address("2001:db8:f00::1"), IPv6Address("2001:db8:f00:80::1"), WLAN, AGENT]
INNER4 = [HOME4, HOME4 + 1, PEER4, IPv4Address("198.51.100.64"), IPv4Address("198.51.100.96"), WLAN4, AGENT4]
ODD6 = [IPv6Address(one) for one in ("fe80::1", "febf::1", "fec0::1", "ff02::1", "::1", "::", "::2", "::1:0:0:1")]
ODD4 = [IPv4Address(one) for one in ("127.0.0.1", "169.254.1.1", "224.0.0.1", "239.1.1.1", "0.0.0.0", "0.0.0.1")]
ODD4.append(IPv4Address("255.255.255.255"))
PREFIXES = [
    ip_network(one)
    for one in (
        *("2001:db8:f00::/56", "2001:db8:f00:80::/57", "2001:db8:f00::/64", "2001:db8:f00::1/128", "2001:db8::/33"),
        *("198.51.100.5/32", "198.51.100.0/24", "198.51.100.64/26", "198.51.100.96/27", "0.0.0.0/0"),
    )
]
PROTOCOLS = [Protocol.TCP, Protocol.UDP, Protocol.ESP, Protocol.AH, 132, 33, Protocol.MOBILITY, 58, 1, 200]
CARE_OF: dict[IPAddress, list[IPAddress]] = {AGENT: [WLAN, CELL, WLAN + 1], AGENT4: [WLAN4, NAT]}
AGENTS: list[IPAddress] = [AGENT, AGENT, AGENT4]
PORTS = [4191, 40001]  # of the mobile nodes' ends
NUMBERS = [0, 1, 2, 3, 0x7FFF, 0x8000, 0xFFFF]


def table(random: Random, before: ForwardingTable | None = None) -> ForwardingTable:
    """Some nodes may be those of the table `before`, as they are."""
    end = before.end if before is not None and random.random() < 0.9 else random.choice(list(End))
    homes = [HOME] if end is End.MOBILE_NODE else random.sample(HOMES, random.randrange(len(HOMES) + 1))
    nodes = {}
    for home in homes:
        kept = before.nodes.get(home) if before is not None and before.end is end else None
        nodes[home] = kept if kept is not None and random.random() < 0.4 else _node(random, home, end, kept)
    return ForwardingTable(
        end,
        AGENT,
        nodes,
        eliminate_duplicates=random.random() < 0.5,
        ipv4_address=AGENT4,
        zero_checksum=random.random() < 0.5,
    )


def _node(random: Random, home: IPv6Address, end: End, before: Node | None) -> Node:
    tunnels = before.tunnels if before is not None and random.random() < 0.3 else _tunnels(random, end)
    prefixes = tuple(random.sample(PREFIXES, random.choice([0, 1, 2, 5])))
    count = random.choice([0, 0, 1, 2, 4, 8, 64])
    rules = tuple(_rule(random) for _ in range(count))
    copied = tuple(_selector(random) for _ in range(random.choice([0, 0, 0, 1, 4, 30])))
    return Node(home, prefixes, tunnels, rules, copied)


def _tunnels(random: Random, end: End) -> tuple[Tunnel, ...]:
    found = []
    for bid in random.sample(range(1, 20), random.choice([0, 1, 1, 2, 2, 3, 16])):
        agent = random.choice(AGENTS)
        ends = (agent, random.choice(CARE_OF[agent]))
        local, remote = ends if end is End.HOME_AGENT else ends[::-1]
        mtu, usable = random.choice([1240, 1280, 1400]), random.random() < 0.7
        kind = random.choice([Encapsulation.NATIVE, Encapsulation.UDP])
        ports = (4191, random.choice(PORTS)) if end is End.HOME_AGENT else (random.choice(PORTS), 4191)
        found.append(Tunnel(bid, local, remote, mtu, "eth0", usable, kind, *ports))
    return tuple(found)


def _rule(random: Random) -> FlowRule:
    bids = tuple(random.sample(range(1, 20), random.choice([1, 1, 2, 5, 19])))
    weights = tuple(random.randrange(3) for _ in bids) if random.random() < 0.25 else ()
    return FlowRule(1, 1, _selector(random), bids, random.random() < 0.1, weights)


def _selector(random: Random) -> TrafficSelector:
    if random.random() < 0.02:
        return UnknownSelector(9, b"")
    four = random.random() < 0.4
    fields: dict[str, Any] = {
        "source": _range(random, INNER4 if four else INNER6),
        "destination": _range(random, INNER4 if four else INNER6),
        "spi": _range(random, [one << 16 | other for one in NUMBERS[:3] for other in NUMBERS[:3]]),
        "source_port": _range(random, NUMBERS),
        "destination_port": _range(random, NUMBERS),
        ("ds_field" if four else "traffic_class"): _range(random, [0, 1, 3, 4, 0xB8, 0xBB, 0xFF]),
        ("protocol" if four else "next_header"): _range(random, [0, *PROTOCOLS, 255]),
    }
    if not four:
        fields["flow_label"] = _range(random, [0, 5, 0xFFFFF, 0x100005])
    chosen = random.sample(list(fields), random.choice([0, 1, 1, 1, 2, 2, 3, 7]))
    kind: type[IPv4Selector] | type[IPv6Selector] = IPv4Selector if four else IPv6Selector
    return kind(**{name: fields[name] for name in chosen})


def _range(random: Random, values: list[Any]) -> tuple[Any, Any]:
    first, last = random.choice(values), random.choice(values)
    near = random.choice([0, 0, 0, 1, -1])
    if near and not isinstance(last, int):
        last = last + near
    return (first, last) if int(first) <= int(last) else (last, first)


def packet(random: Random) -> bytes:
    """An inner packet: mostly whole, sometimes cut short, with a length that is wrong, or noise."""
    whole = _packet4(random) if random.random() < 0.4 else _packet6(random)
    spoiled = random.random()
    if spoiled < 0.03:
        return whole[: random.randrange(1, len(whole))]
    if spoiled < 0.05:
        return whole + random.randbytes(random.choice([1, 6]))
    if spoiled < 0.08:
        at = random.randrange(min(len(whole), 60))
        return whole[:at] + random.randbytes(1) + whole[at + 1 :]
    return whole


def _addresses(random: Random, usual: list[Any], odd: list[Any]) -> tuple[IPAddress, IPAddress]:
    source, destination = random.choice(usual), random.choice(usual)
    if random.random() < 0.03:
        source = random.choice(odd)
    if random.random() < 0.03:
        destination = random.choice(odd)
    return source, destination


def _upper(random: Random) -> bytes:
    numbers = random.choice(NUMBERS[:3] * 3 + NUMBERS) << 16 | random.choice(NUMBERS[:3] * 3 + NUMBERS)
    size = random.choice([0, 3, 4, 7, 8, 20, 20, 20, 20, 64, 1180, 1200, 1220, 1240, 1260, 1360, 1380])
    return (numbers.to_bytes(4, "big") * 2 + bytes(1400))[:size]


def _packet6(random: Random) -> bytes:
    source, destination = _addresses(random, INNER6, ODD6)
    protocol, body = random.choice(PROTOCOLS[:4] * 3 + PROTOCOLS), _upper(random)
    for _ in range(random.choice([0, 0, 0, 0, 0, 1, 1, 2, 3, 8, 9])):
        extension = random.choice([Protocol.HOP_BY_HOP, Protocol.DESTINATION_OPTIONS, Protocol.ROUTING, Protocol.AH])
        length = random.choice([0, 0, 1, 2])
        octets = 8 * (length + 1) if extension is not Protocol.AH else 4 * (length + 2)
        body = (bytes((protocol, length, 0, 0, 0, 1, 0, random.choice([1, 2]))) + bytes(32))[:octets] + body
        protocol = extension
    if random.random() < 0.08:
        field = random.choice([0, 1, 8, 9])
        body = bytes((protocol, 0)) + field.to_bytes(2, "big") + b"\0\0\0\1" + body
        protocol = Protocol.FRAGMENT
    word = 6 << 28 | random.choice([0, 1, 2, 3, 4, 0xB8, 0xBB, 0xFF]) << 20 | random.choice([0, 5, 0xFFFFF])
    header = word.to_bytes(4, "big") + len(body).to_bytes(2, "big") + bytes((protocol, random.choice([0, 1, 2, 64])))
    return header + source.packed + destination.packed + body


def _packet4(random: Random) -> bytes:
    source, destination = _addresses(random, INNER4, ODD4)
    options = random.choice([b"", b"", b"", b"", b"\1\1\1\0"])
    body = options + _upper(random)
    start = (
        bytes((0x45 + len(options) // 4, random.choice([0, 1, 2, 3, 4, 0xB8, 0xBB, 0xFF])))
        + (20 + len(body)).to_bytes(2, "big")
        + b"\0\1"
        + random.choice([0, 0x4000, 0x4000, 0x4000, 0x4000, 0x2000, 1, 0x2001, 0x8000]).to_bytes(2, "big")
        + bytes((random.choice([0, 1, 2, 64]), random.choice(PROTOCOLS[:4] * 3 + PROTOCOLS)))
    )
    addresses = source.packed + destination.packed
    checksum = internet_checksum(start + addresses + options).to_bytes(2, "big")  # only who forwards it looks at it
    return start + random.choice([checksum, random.randbytes(2)]) + addresses + body
