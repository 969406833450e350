"""The conformance list of a mobile node's end: it sends what it owns the source of, and takes what it is the aim of."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network

from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from mip6.forwarding import DropReason, End, FlowRule, ForwardingTable, Node, Tunnel
from mip6.numbers import Protocol
from mip6.selectors import IPv4Selector, IPv6Selector
from tests.dataplane.conformance import BEHIND, In, Out, ecn_cases
from tests.dataplane.test_reference import AGENT, CELL, HOME, HOME4, PEER, PEER4, WLAN, udp, udp4

# a selector is written from the correspondent node's point of view: its own port is the source port
VOICE = FlowRule(10, 10, IPv6Selector(source_port=(5004, 5004)), (2,))
COPIES = FlowRule(20, 20, IPv6Selector(source_port=(6000, 6000)), (2, 1))
VOICE4 = FlowRule(11, 11, IPv4Selector(source=(PEER4, PEER4), source_port=(5004, 5004)), (2,))
DROP = FlowRule(30, 30, IPv6Selector(destination_port=(7, 7)), drop=True)
NO_LINK = FlowRule(40, 40, IPv6Selector(destination_port=(8, 8)), drop=True, unreachable=True)


def table(mtu: int = 1460, wlan: bool = True, cell: bool = True) -> ForwardingTable:
    tunnels = (
        Tunnel(1, WLAN, AGENT, mtu, device="eth0", usable=wlan),
        Tunnel(2, CELL, AGENT, mtu, device="eth0", usable=cell),
    )
    prefixes = IPv6Network("2001:db8:f00::/56"), IPv4Network(f"{HOME4}/32")
    node = Node(HOME, prefixes, tunnels, (VOICE, VOICE4, COPIES, DROP, NO_LINK))
    return ForwardingTable(End.MOBILE_NODE, HOME, {HOME: node})


def up(size: int = 64, **fields: object) -> bytes:
    return udp(size, **{"src": str(HOME), "dst": str(PEER), **fields})  # type: ignore[arg-type]


def up4(size: int = 64, **fields: object) -> bytes:
    return udp4(size, **{"src": str(HOME4), "dst": str(PEER4), **fields})  # type: ignore[arg-type]


def _out(name: str, packet: bytes, *bids: int, held: ForwardingTable | None = None, tc: int = 0) -> Out:
    sent = []
    for bid in bids:
        care_of = {1: WLAN, 2: CELL}[bid]
        inside = 41 if packet[0] >> 4 == 6 else 4
        header = IPv6(src=str(care_of), dst=str(AGENT), nh=inside, hlim=64, tc=tc, plen=len(packet))
        sent.append((bid, bytes(header) + packet))
    return Out(name, held or table(), packet, tuple(sent))


def _lost(name: str, packet: bytes, drop: DropReason, held: ForwardingTable | None = None) -> Out:
    return Out(name, held or table(), packet, drop=drop)


NODE_ENCAPSULATE: tuple[Out, ...] = (
    _out("node: default is the first tunnel", up(), 1),
    _out("node: default skips what is not usable", up(), 2, held=table(wlan=False)),
    _out("node: a flow rule is read from the other side", up(port=5004), 2),
    _out("node: its own port is not the correspondent's", up(sport=5004), 1),
    _out("node: an inactive rule is skipped", up(port=5004), 1, held=table(cell=False)),
    _out("node: several BIDs: one copy each", up(port=6000), 1, 2),
    _out("node: from the mobile network", up(src=BEHIND), 1),
    _out("node: no ports at all", bytes(IPv6(src=str(HOME), dst=str(PEER)) / ICMPv6EchoRequest()), 1),
    _out("node: DSCP and ECN are copied", up(tc=0xB9), 1, tc=0xB9),
    _out("node: to the home agent itself", up(dst=str(AGENT)), 1),
    _out("node: as large as the tunnel", up(1460), 1),
    _out("node: IPv4", up4(), 1),
    _out("node: a flow rule of IPv4 is read from the other side", up4(port=5004), 2),
    _lost("node: IPv4 source that is not its own", up4(src=str(PEER4)), DropReason.SOURCE_NOT_OWNED),
    _lost("node: IPv4, one octet too large", up4(1461), DropReason.TOO_BIG),
    _lost("node: one octet too large", up(1461), DropReason.TOO_BIG),
    _lost("node: local drop rule", up(sport=7), DropReason.RULE),
    Out("node: a last resort that is answered", table(), up(sport=8), drop=DropReason.RULE, answered=True),
    _lost("node: a source that is not its own", up(src=str(PEER)), DropReason.SOURCE_NOT_OWNED),
    _lost("node: from a care-of address", up(src=str(WLAN)), DropReason.SOURCE_NOT_OWNED),
    _lost("node: no usable tunnel", up(), DropReason.NO_TUNNEL, table(wlan=False, cell=False)),
    _lost("node: link-local source", up(src="fe80::1"), DropReason.NOT_FORWARDABLE),
)


def _in(name: str, packet: bytes, care_of: IPv6Address = WLAN) -> In:
    return In(name, table(), packet, source=AGENT, destination=care_of, delivered=packet)


def _bad(name: str, packet: bytes, drop: DropReason, source: IPv6Address = AGENT) -> In:
    return In(name, table(), packet, source=source, destination=WLAN, drop=drop)


NODE_DECAPSULATE: tuple[In, ...] = (
    _in("node: to the home address", udp()),
    _in("node: to the other care-of address", udp(), CELL),
    _in("node: into the mobile network", udp(dst=BEHIND)),
    In(
        "node: by a tunnel that it does not send over",
        table(wlan=False),
        udp(),
        source=AGENT,
        destination=WLAN,
        delivered=udp(),
    ),
    _bad("node: to somebody else", udp(dst="2001:db8:100::77"), DropReason.DESTINATION_NOT_OWNED),
    _bad("node: to a care-of address", udp(dst=str(WLAN)), DropReason.DESTINATION_NOT_OWNED),
    _bad("node: not from the home agent", udp(), DropReason.UNKNOWN_OUTER_SOURCE, PEER),
    _bad("node: cut short", udp()[:-1], DropReason.MALFORMED),
    _bad("node: from a link-local address", udp(src="fe80::1"), DropReason.NOT_FORWARDABLE),
    In(
        "node: IPv4",
        table(),
        udp4(),
        source=AGENT,
        destination=WLAN,
        delivered=udp4(),
        protocol=Protocol.IPV4,
    ),
    In(
        "node: IPv4 to somebody else",
        table(),
        up4(),
        source=AGENT,
        destination=WLAN,
        drop=DropReason.DESTINATION_NOT_OWNED,
        protocol=Protocol.IPV4,
    ),
    *ecn_cases("node: ", table(), udp, source=AGENT, destination=WLAN),
)
