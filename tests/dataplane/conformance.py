"""The conformance list: what every data plane has to do with a packet, as data.

Each case names a table, a direction, a packet and what becomes of it: the outer packets by BID, the delivered packet,
or the reason of the drop. The octets of outer packets are written out by scapy, not by the code under test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Raw

from mip6.forwarding import DropReason, FlowRule, ForwardingTable, IPAddress, Node
from mip6.numbers import Protocol
from mip6.selectors import IPv4Selector, TrafficSelector
from tests.dataplane.test_reference import AGENT, CELL, HOME, HOME4, PEER, PEER4, WLAN, table, udp, udp4

BEHIND = "2001:db8:f00:7::9"  # in the mobile network prefix


@dataclass(frozen=True)
class Out:
    """A packet from the tunnel device; `sent` are the outer packets with their BIDs, or `drop` the reason. `answered`:
    the sender is told, though that reason has no error of its own."""

    name: str
    table: ForwardingTable
    packet: bytes
    sent: tuple[tuple[int, bytes], ...] = ()
    drop: DropReason | None = None
    answered: bool = False


@dataclass(frozen=True)
class In:
    """The payload of a tunnel packet from `source`; `delivered` to the stack, or `drop` the reason."""

    name: str
    table: ForwardingTable
    packet: bytes
    traffic_class: int = 0
    source: IPAddress = WLAN
    destination: IPAddress = AGENT
    delivered: bytes | None = None
    drop: DropReason | None = None
    protocol: Protocol = Protocol.IPV6
    ports: tuple[int, int] | None = None  # source and destination port of UDP


def outer(bid: int, packet: bytes, traffic_class: int = 0) -> tuple[int, bytes]:
    remote = {1: WLAN, 2: CELL}[bid]
    inside = 41 if packet[0] >> 4 == 6 else 4
    header = IPv6(src=str(AGENT), dst=str(remote), nh=inside, hlim=64, tc=traffic_class, plen=len(packet))
    return bid, bytes(header) + packet


def _out(name: str, packet: bytes, *bids: int, held: ForwardingTable | None = None, tc: int = 0) -> Out:
    return Out(name, held or table(), packet, tuple(outer(bid, packet, tc) for bid in bids))


def _lost(name: str, packet: bytes, drop: DropReason, held: ForwardingTable | None = None) -> Out:
    return Out(name, held or table(), packet, drop=drop)


def two_nodes() -> ForwardingTable:
    """A second node whose prefix lies inside the first one's: the longest prefix wins."""
    base = table()
    other = IPv6Address("2001:db8:100::6")
    inner = Node(other, (IPv6Network("2001:db8:f00:7::/64"),), (base.nodes[HOME].tunnels[1],))
    return ForwardingTable(base.end, base.address, {**base.nodes, other: inner})


def one_rule(selector: TrafficSelector) -> ForwardingTable:
    """What the selector matches goes by the second tunnel."""
    base = table()
    node = replace(base.nodes[HOME], rules=(FlowRule(1, 1, selector, (2,)),))
    return replace(base, nodes={HOME: node})


def two_ipv4_prefixes() -> ForwardingTable:
    """A second node has the upper half of the first one's IPv4 prefix, and 198.51.100.5 with a shorter prefix."""
    base = table()
    other = IPv6Address("2001:db8:100::6")
    prefixes = IPv4Network("198.51.100.96/27"), IPv4Network("198.51.100.0/26")
    inner = Node(other, prefixes, (base.nodes[HOME].tunnels[1],))
    return replace(base, nodes={**base.nodes, other: inner})


def _matched(name: str, selector: IPv4Selector, packet: bytes, bid: int) -> Out:
    return _out(f"IPv4 selector: {name}", packet, bid, held=one_rule(selector), tc=packet[1])


_FROM_PEER = {"src": str(PEER4), "dst": str(HOME4)}
ENCAPSULATE4: tuple[Out, ...] = (
    _out("IPv4: home address", udp4(), 1),
    _out("IPv4: prefix", udp4(dst="198.51.100.127"), 1),
    _out("IPv4: longest prefix", udp4(dst="198.51.100.127"), 2, held=two_ipv4_prefixes()),
    _out("IPv4: a /32 before a /26", udp4(), 1, held=two_ipv4_prefixes()),
    _out("IPv4: a flow rule of IPv4 names its tunnel", udp4(port=5004), 2),
    _out("IPv4: a flow rule of IPv6 does not", udp4(port=6000), 1),
    _out("IPv4: DSCP and ECN are copied", udp4(tos=0xB9), 1, tc=0xB9),
    _out("IPv4: options", udp4(options=IPOption_RR(length=7, routers=["0.0.0.0"])), 1),
    _out("IPv4: ports behind options", udp4(port=5004, options=IPOption_RR(length=7, routers=["0.0.0.0"])), 2),
    _out("IPv4: a first fragment has ports", udp4(port=5004, flags="MF", id=77), 2),
    _out("IPv4: a later fragment whose first is unknown", udp4(port=5004, flags=0, frag=3, id=78), 1),
    _out("IPv4: as large as the tunnel", udp4(1460), 1),
    _out("IPv4: 21 octets", bytes(IP(proto=50, **_FROM_PEER) / Raw(b"x")), 1),
    _out("IPv4: a header alone", bytes(IP(proto=17, **_FROM_PEER)), 1),
    _matched("source", IPv4Selector(source=(PEER4, PEER4)), udp4(), 2),
    _matched("source, other", IPv4Selector(source=(HOME4, HOME4)), udp4(), 1),
    _matched("destination range", IPv4Selector(destination=(HOME4 - 1, HOME4 + 1)), udp4(), 2),
    _matched("destination past the range", IPv4Selector(destination=(HOME4 - 2, HOME4 - 1)), udp4(), 1),
    _matched("source port", IPv4Selector(source_port=(999, 1000)), udp4(), 2),
    _matched("source port of TCP", IPv4Selector(source_port=(7, 7)), bytes(IP(**_FROM_PEER) / TCP(sport=7)), 2),
    _matched("source port of ICMP", IPv4Selector(source_port=(0, 65535)), bytes(IP(**_FROM_PEER) / ICMP()), 1),
    _matched("protocol", IPv4Selector(protocol=(1, 1)), bytes(IP(**_FROM_PEER) / ICMP()), 2),
    _matched("DSCP", IPv4Selector(ds_field=(0xB8, 0xB8)), udp4(tos=0xBB), 2),
    _matched("DSCP, other", IPv4Selector(ds_field=(0xB8, 0xB8)), udp4(tos=0xB4), 1),
    _matched("SPI of ESP", IPv4Selector(spi=(5, 6)), bytes(IP(proto=50, **_FROM_PEER) / Raw(b"\0\0\0\6more")), 2),
    _matched("SPI of AH", IPv4Selector(spi=(6, 6)), bytes(IP(proto=51, **_FROM_PEER) / Raw(b"\x11\4\0\0\0\0\0\6")), 2),
    _matched("SPI of UDP", IPv4Selector(spi=(0, 0xFFFFFFFF)), udp4(), 1),
    _lost("IPv4: one octet too large", udp4(1461), DropReason.TOO_BIG),
    _lost("IPv4: nobody's address", udp4(dst="198.51.100.6"), DropReason.NO_NODE),
    _lost("IPv4: no usable tunnel", udp4(), DropReason.NO_TUNNEL, table(wlan=False, cell=False)),
    _lost("IPv4: link-local source", udp4(src="169.254.1.1"), DropReason.NOT_FORWARDABLE),
    _lost("IPv4: time to live used up", udp4(ttl=0), DropReason.HOP_LIMIT),
)

ENCAPSULATE: tuple[Out, ...] = (
    _out("default is the first tunnel", udp(), 1),
    _out("default skips what is not usable", udp(), 2, held=table(wlan=False)),
    _out("a flow rule names its tunnel", udp(port=5004), 2),
    _out("an inactive rule is skipped", udp(port=5004), 1, held=table(cell=False)),
    _out("several BIDs: one copy each", udp(port=6000), 1, 2),
    _out("n-casting over what is left", udp(port=6000), 1, held=table(cell=False)),
    _out("mobile network prefix", udp(dst=BEHIND), 1),
    _out("longest prefix", udp(dst=BEHIND), 2, held=two_nodes()),
    _out(
        "ports behind an extension header",
        bytes(IPv6(src=str(PEER), dst=str(HOME)) / IPv6ExtHdrDestOpt() / UDP(dport=5004)),
        2,
    ),
    _out("no ports at all", bytes(IPv6(src=str(PEER), dst=str(HOME)) / ICMPv6EchoRequest()), 1),
    _out("DSCP and ECN are copied", udp(tc=0xB9), 1, tc=0xB9),
    _out("the flow label is not", udp(fl=0x12345), 1),
    _out("as large as the tunnel", udp(1460), 1),
    _out("1280 fits always", udp(1280), 1, held=table(mtu=1280)),
    _lost("one octet too large", udp(1461), DropReason.TOO_BIG),
    _lost("1281 into 1280", udp(1281), DropReason.TOO_BIG, table(mtu=1280)),
    _lost("local drop rule", udp(sport=7), DropReason.RULE),
    _lost("nobody's address", udp(dst="2001:db8:100::77"), DropReason.NO_NODE),
    _lost("no usable tunnel", udp(), DropReason.NO_TUNNEL, table(wlan=False, cell=False)),
    _lost("link-local source", udp(src="fe80::1"), DropReason.NOT_FORWARDABLE),
    _lost("a packet of the tunnel itself", udp(src=str(AGENT), dst=str(WLAN)), DropReason.NO_NODE),
    *ENCAPSULATE4,
)


def ecn_cases(
    prefix: str,
    held: ForwardingTable,
    packet: Callable[..., bytes],
    source: IPv6Address,
    destination: IPv6Address,
    protocol: Protocol = Protocol.IPV6,
) -> Iterator[In]:
    """RFC 6040 §4.2, figure 4, row by row. `packet(tc=...)` makes an inner packet."""
    for inner, row in enumerate(((0, 0, 0, None), (1, 1, 1, 3), (2, 1, 2, 3), (3, 3, 3, 3))):
        for mark, result in enumerate(row):
            name = f"{prefix}ECN {inner:02b} inside {mark:02b}"
            delivered = None if result is None else packet(tc=result)
            drop = DropReason.ECN if result is None else None
            yield In(name, held, packet(tc=inner), mark, source, destination, delivered, drop, protocol)


def _marked4(tc: int) -> bytes:
    return udp4(src=str(HOME4), dst=str(PEER4), tos=0xB8 | tc)


def _in(name: str, packet: bytes, source: IPv6Address = WLAN) -> In:
    return In(name, table(), packet, source=source, delivered=packet)


def _bad(name: str, packet: bytes, drop: DropReason, source: IPv6Address = WLAN) -> In:
    return In(name, table(), packet, source=source, drop=drop)


def _in4(name: str, packet: bytes, source: IPv6Address = WLAN, behind: bytes = b"") -> In:
    return In(f"IPv4: {name}", table(), packet + behind, source=source, delivered=packet, protocol=Protocol.IPV4)


def _bad4(name: str, packet: bytes, drop: DropReason, source: IPv6Address = WLAN) -> In:
    return In(f"IPv4: {name}", table(), packet, source=source, drop=drop, protocol=Protocol.IPV4)


_FROM_HOME4 = udp4(src=str(HOME4), dst=str(PEER4))
_FROM_HOME = udp(src=str(HOME), dst=str(AGENT))
DECAPSULATE: tuple[In, ...] = (
    _in("from the home address", _FROM_HOME),
    _in("by the other care-of address", _FROM_HOME, CELL),
    _in("from the mobile network", udp(src=BEHIND, dst=str(AGENT))),
    In("what stands behind the packet is cut off", table(), _FROM_HOME + b"more", delivered=_FROM_HOME),
    _bad("an inner source that is not the sender's", udp(dst=str(AGENT)), DropReason.SOURCE_NOT_OWNED),
    _bad("an outer source that nobody registered", _FROM_HOME, DropReason.UNKNOWN_OUTER_SOURCE, PEER),
    _bad("cut short", _FROM_HOME[:-1], DropReason.MALFORMED),
    _bad("less than a header", _FROM_HOME[:39], DropReason.MALFORMED),
    _bad("IPv4 inside", bytes(IP(src="192.0.2.1", dst="192.0.2.2") / Raw(b"x" * 40)), DropReason.INNER_PROTOCOL),
    _bad("to a multicast group", udp(src=str(HOME), dst="ff0e::1"), DropReason.NOT_FORWARDABLE),
    *ecn_cases("", table(), functools.partial(udp, src=str(HOME), dst=str(AGENT)), WLAN, AGENT),
    _in4("from the home address", _FROM_HOME4),
    _in4("by the other care-of address", _FROM_HOME4, CELL),
    _in4("from the prefix", udp4(src="198.51.100.70", dst=str(PEER4))),
    _in4("options", udp4(src=str(HOME4), dst=str(PEER4), options=IPOption_RR(length=7, routers=["0.0.0.0"]))),
    _in4("a fragment", udp4(src=str(HOME4), dst=str(PEER4), flags=0, frag=5)),
    _in4("what stands behind the packet is cut off", _FROM_HOME4, behind=b"more"),
    _bad4("an inner source that is not the sender's", udp4(dst=str(PEER4)), DropReason.SOURCE_NOT_OWNED),
    _bad4("an outer source that nobody registered", _FROM_HOME4, DropReason.UNKNOWN_OUTER_SOURCE, PEER),
    _bad4("cut short", _FROM_HOME4[:-1], DropReason.MALFORMED),
    _bad4("less than a header", _FROM_HOME4[:19], DropReason.MALFORMED),
    _bad4("header length below 20", udp4(src=str(HOME4), dst=str(PEER4), ihl=4), DropReason.MALFORMED),
    _bad4("IPv6 inside", _FROM_HOME, DropReason.INNER_PROTOCOL),
    _bad4("to a multicast group", udp4(src=str(HOME4), dst="233.252.0.1"), DropReason.NOT_FORWARDABLE),
    *ecn_cases("IPv4: ", table(), _marked4, WLAN, AGENT, Protocol.IPV4),
)
