"""The conformance list of the other kinds of tunnel: over IPv4, and inside UDP over either. At a home agent.

Octets 4 and 5 of an outer IPv4 header (identification) are 0 here; a kernel that fills them in is right as well.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from mip6.forwarding import DropReason, Encapsulation, FlowRule, ForwardingTable, IPAddress, Tunnel
from mip6.numbers import Protocol
from mip6.selectors import IPv4Selector, IPv6Selector
from tests.dataplane.conformance import In, Out
from tests.dataplane.test_reference import AGENT, AGENT4, HOME, HOME4, PEER, PEER4, WLAN, table, udp, udp4

WLAN4, NAT = IPv4Address("192.0.2.5"), IPv4Address("192.0.2.6")
TUNNELS = (
    Tunnel(1, AGENT4, WLAN4, 1480),
    Tunnel(2, AGENT4, NAT, 1472, encapsulation=Encapsulation.UDP, remote_port=40001),
    Tunnel(3, AGENT4, NAT, 1472, encapsulation=Encapsulation.UDP, remote_port=40002),
    Tunnel(4, AGENT, WLAN, 1452, encapsulation=Encapsulation.UDP, remote_port=40003),
)


def rules() -> tuple[FlowRule, ...]:
    """A packet to port 1 goes by tunnel 1, and so on; one to port 9 by all of them."""
    found = []
    for port, bids in ((1, (1,)), (2, (2,)), (3, (3,)), (4, (4,)), (9, (1, 2, 3, 4))):
        found.append(FlowRule(port, port, IPv6Selector(destination_port=(port, port)), bids))
        found.append(FlowRule(port + 10, port + 10, IPv4Selector(destination_port=(port, port)), bids))
    return tuple(found)


def outer_table(**changes: object) -> ForwardingTable:
    """All four tunnels; `changes` are made to each."""
    base = table()
    tunnels = tuple(replace(tunnel, **changes) for tunnel in TUNNELS)  # type: ignore[arg-type]
    return replace(base, nodes={HOME: replace(base.nodes[HOME], tunnels=tunnels, rules=rules())}, ipv4_address=AGENT4)


def outer(bid: int, packet: bytes, tc: int = 0) -> tuple[int, bytes]:
    inside = 41 if packet[0] >> 4 == 6 else 4
    over_ipv4 = IP(src=str(AGENT4), id=0, flags="DF", ttl=64, tos=tc)
    if bid == 1:
        over_ipv4.dst, over_ipv4.proto = str(WLAN4), inside
        return bid, bytes(over_ipv4 / Raw(packet))
    if bid == 4:
        over_ipv6 = IPv6(src=str(AGENT), dst=str(WLAN), hlim=64, tc=tc)
        return bid, bytes(over_ipv6 / UDP(sport=4191, dport=40003) / Raw(packet))
    over_ipv4.dst = str(NAT)
    return bid, bytes(over_ipv4 / UDP(sport=4191, dport=40000 + bid - 1, chksum=0) / Raw(packet))


def _out(name: str, packet: bytes, *bids: int, tc: int = 0) -> Out:
    return Out(name, outer_table(), packet, tuple(outer(bid, packet, tc) for bid in bids))


def _lost(name: str, packet: bytes, drop: DropReason) -> Out:
    return Out(name, outer_table(), packet, drop=drop)


OUTER_ENCAPSULATE: tuple[Out, ...] = (
    _out("IPv6 over IPv4", udp(port=1), 1),
    _out("IPv4 over IPv4", udp4(port=1), 1),
    _out("IPv6 in UDP over IPv4", udp(port=2), 2),
    _out("IPv4 in UDP over IPv4", udp4(port=2), 2),
    _out("two nodes behind one NAT differ by port", udp(port=3), 3),
    _out("IPv6 in UDP over IPv6", udp(port=4), 4),
    _out("IPv4 in UDP over IPv6", udp4(port=4), 4),
    _out("an odd number of octets in UDP over IPv6", udp(65, port=4), 4),
    _out("a copy over every kind", udp(port=9), 1, 2, 3, 4),
    _out("DSCP and ECN into the TOS octet", udp(port=1, tc=0xB9), 1, tc=0xB9),
    _out("DSCP and ECN, UDP over IPv4", udp4(port=2, tos=0xB9), 2, tc=0xB9),
    _out("DSCP and ECN, UDP over IPv6", udp(port=4, tc=0xB9), 4, tc=0xB9),
    _out("as large as IPv4 carries", udp(1480, port=1), 1),
    _out("as large as UDP over IPv4 carries", udp4(1472, port=2), 2),
    _out("as large as UDP over IPv6 carries", udp(1452, port=4), 4),
    _lost("larger than IPv4 carries", udp(1481, port=1), DropReason.TOO_BIG),
    _lost("larger than UDP over IPv4 carries", udp4(1473, port=2), DropReason.TOO_BIG),
    _lost("larger than UDP over IPv6 carries", udp(1453, port=4), DropReason.TOO_BIG),
)


def _marked(tc: int) -> bytes:
    return udp(src=str(HOME), dst=str(PEER), tc=tc)


_UP, _UP4 = _marked(0), udp4(src=str(HOME4), dst=str(PEER4))


def _in(
    name: str,
    packet: bytes,
    source: IPAddress,
    port: int | None = None,
    *,
    drop: DropReason | None = None,
    delivered: bytes | None = None,
    tc: int = 0,
) -> In:
    """From that source; with `port` inside UDP."""
    native = Protocol.IPV4 if packet[:1] == b"\x45" else Protocol.IPV6
    return In(
        name,
        outer_table(),
        packet,
        tc,
        source,
        AGENT4 if isinstance(source, IPv4Address) else AGENT,
        None if drop is not None else delivered or packet,
        drop,
        native if port is None else Protocol.UDP,
        None if port is None else (port, 4191),
    )


OUTER_DECAPSULATE: tuple[In, ...] = (
    _in("IPv6 over IPv4", _UP, WLAN4),
    _in("IPv4 over IPv4", _UP4, WLAN4),
    _in("IPv6 in UDP over IPv4", _UP, NAT, 40001),
    _in("IPv4 in UDP over IPv4", _UP4, NAT, 40001),
    _in("IPv6 in UDP over IPv6", _UP, WLAN, 40003),
    _in("IPv4 in UDP over IPv6", _UP4, WLAN, 40003),
    _in("ECN out of the TOS octet", _marked(2), WLAN4, tc=3, delivered=_marked(3)),
    _in("ECN, UDP over IPv4", _marked(2), NAT, 40001, tc=1, delivered=_marked(1)),
    _in("ECN, UDP over IPv6", _UP, WLAN, 40003, tc=3, drop=DropReason.ECN),
    _in("a port that nobody registered", _UP, NAT, 40009, drop=DropReason.UNKNOWN_OUTER_SOURCE),
    _in("an IPv4 address that nobody registered", _UP, AGENT4 + 9, 40001, drop=DropReason.UNKNOWN_OUTER_SOURCE),
    _in("without UDP where UDP was registered", _UP, NAT, drop=DropReason.UNKNOWN_OUTER_SOURCE),
    _in("in UDP where none was registered", _UP, WLAN4, 4191, drop=DropReason.UNKNOWN_OUTER_SOURCE),
    _in("neither version in UDP", b"\x05" + _UP[1:], NAT, 40001, drop=DropReason.INNER_PROTOCOL),
    _in("cut short in UDP", _UP[:-1], NAT, 40001, drop=DropReason.MALFORMED),
    _in("nothing in UDP", b"", NAT, 40001, drop=DropReason.MALFORMED),
    _in("one octet in UDP", b"\x60", NAT, 40001, drop=DropReason.MALFORMED),
    _in("not the sender's, over IPv4", udp(), WLAN4, drop=DropReason.SOURCE_NOT_OWNED),
    _in("not the sender's, in UDP", udp4(), NAT, 40001, drop=DropReason.SOURCE_NOT_OWNED),
)  # fmt: skip
