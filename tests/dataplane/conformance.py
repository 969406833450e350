"""The conformance list: what every data plane has to do with a packet, as data.

Each case names a table, a direction, a packet and what becomes of it: the outer packets by BID, the delivered packet,
or the reason of the drop. The octets of outer packets are written out by scapy, not by the code under test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Raw

from mip6.forwarding import DropReason, ForwardingTable, Node
from tests.dataplane.test_reference import AGENT, CELL, HOME, PEER, WLAN, table, udp

BEHIND = "2001:db8:f00:7::9"  # in the mobile network prefix


@dataclass(frozen=True)
class Out:
    """A packet from the tunnel device; `sent` are the outer packets with their BIDs, or `drop` the reason."""

    name: str
    table: ForwardingTable
    packet: bytes
    sent: tuple[tuple[int, bytes], ...] = ()
    drop: DropReason | None = None


@dataclass(frozen=True)
class In:
    """The payload of a tunnel packet from `source`; `delivered` to the stack, or `drop` the reason."""

    name: str
    table: ForwardingTable
    packet: bytes
    traffic_class: int = 0
    source: IPv6Address = WLAN
    destination: IPv6Address = AGENT
    delivered: bytes | None = None
    drop: DropReason | None = None


def outer(bid: int, packet: bytes, traffic_class: int = 0) -> tuple[int, bytes]:
    remote = {1: WLAN, 2: CELL}[bid]
    header = IPv6(src=str(AGENT), dst=str(remote), nh=41, hlim=64, tc=traffic_class, plen=len(packet))
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
)


def ecn_cases(
    prefix: str, held: ForwardingTable, packet: Callable[..., bytes], source: IPv6Address, destination: IPv6Address
) -> Iterator[In]:
    """RFC 6040 §4.2, figure 4, row by row. `packet(tc=...)` makes an inner packet."""
    for inner, row in enumerate(((0, 0, 0, None), (1, 1, 1, 3), (2, 1, 2, 3), (3, 3, 3, 3))):
        for mark, result in enumerate(row):
            name = f"{prefix}ECN {inner:02b} inside {mark:02b}"
            delivered = None if result is None else packet(tc=result)
            drop = DropReason.ECN if result is None else None
            yield In(name, held, packet(tc=inner), mark, source, destination, delivered, drop)


def _in(name: str, packet: bytes, source: IPv6Address = WLAN) -> In:
    return In(name, table(), packet, source=source, delivered=packet)


def _bad(name: str, packet: bytes, drop: DropReason, source: IPv6Address = WLAN) -> In:
    return In(name, table(), packet, source=source, drop=drop)


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
)
