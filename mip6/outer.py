"""Tunnel packets: what stands in front of an inner packet, and the outer fragments of one that is too large.

Over IPv6 or IPv4; directly behind the IP header (RFC 2473, RFC 4213), or behind a UDP header, where the first nibble
tells the version of what follows (RFC 5555 §4.1). The UDP checksum is zero over IPv4; over IPv6 it is a real one,
unless the table says zero (RFC 6935). An outer IPv4 packet must not be fragmented on the way: path MTU discovery does
the rest.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from mip6.errors import HOP_LIMIT, ipv4_header
from mip6.forwarding import UDP_HEADER, Encapsulation, Tunnel
from mip6.numbers import Protocol
from mip6.wire import internet_checksum, pseudo_header

INSIDE = {6: Protocol.IPV6, 4: Protocol.IPV4}  # what an IP header calls an inner packet of that version
_FRAGMENT_HEADER = 8
_MORE_FRAGMENTS = 0x2000


def outer_packets(
    tunnel: Tunnel, packet: bytes, traffic_class: int, identification: int, zero_checksum: bool
) -> tuple[bytes, ...]:
    """The outer packet, or its fragments when the inner one is larger than the tunnel MTU (RFC 2473 §7.1, §7.2 (b)).
    DSCP and ECN are copied (RFC 2473 §6.4, RFC 6040 §4.1)."""
    protocol, payload = INSIDE[packet[0] >> 4], packet
    if tunnel.encapsulation is Encapsulation.UDP:
        protocol, payload = Protocol.UDP, _udp_header(tunnel, packet, zero_checksum) + packet
    if isinstance(tunnel.local, IPv4Address) and isinstance(tunnel.remote, IPv4Address):
        return _over_ipv4(tunnel, protocol, payload, len(packet), traffic_class, identification)
    before, behind = outer_header(tunnel, protocol, traffic_class)
    if len(packet) <= tunnel.mtu:
        return (before + len(payload).to_bytes(2, "big") + behind + payload,)
    behind = bytes((Protocol.FRAGMENT,)) + behind[1:]
    fragments = []
    step = tunnel.mtu + len(payload) - len(packet) - _FRAGMENT_HEADER & ~7
    for at in range(0, len(payload), step):
        part = payload[at : at + step]
        field = at | (at + step < len(payload))
        header = bytes((protocol, 0)) + field.to_bytes(2, "big") + identification.to_bytes(4, "big")
        fragments.append(before + (len(part) + _FRAGMENT_HEADER).to_bytes(2, "big") + behind + header + part)
    return tuple(fragments)


def outer_header(tunnel: Tunnel, protocol: int, traffic_class: int) -> tuple[bytes, bytes]:
    """What stands before and behind the payload length of an outer IPv6 header."""
    behind = bytes((protocol, HOP_LIMIT)) + tunnel.local.packed + tunnel.remote.packed  # RFC 2473 §6.3
    return (6 << 28 | traffic_class << 20).to_bytes(4, "big"), behind


def _over_ipv4(
    tunnel: Tunnel, protocol: int, payload: bytes, size: int, traffic_class: int, identification: int
) -> tuple[bytes, ...]:
    assert isinstance(tunnel.local, IPv4Address) and isinstance(tunnel.remote, IPv4Address)
    if size <= tunnel.mtu:
        return (ipv4_header(tunnel.local, tunnel.remote, protocol, len(payload), tos=traffic_class) + payload,)
    fragments = []
    step = tunnel.mtu + len(payload) - size & ~7
    for at in range(0, len(payload), step):
        part = payload[at : at + step]
        header = ipv4_header(
            tunnel.local,
            tunnel.remote,
            protocol,
            len(part),
            tos=traffic_class,
            identification=identification & 0xFFFF,
            fragment=at >> 3 | (_MORE_FRAGMENTS if at + step < len(payload) else 0),
        )
        fragments.append(header + part)
    return tuple(fragments)


def _udp_header(tunnel: Tunnel, packet: bytes, zero_checksum: bool) -> bytes:
    length = UDP_HEADER + len(packet)
    header = b"".join(one.to_bytes(2, "big") for one in (tunnel.local_port, tunnel.remote_port, length))
    checksum = 0
    if isinstance(tunnel.local, IPv6Address) and isinstance(tunnel.remote, IPv6Address) and not zero_checksum:
        start = pseudo_header(tunnel.local, tunnel.remote, length, Protocol.UDP)
        checksum = internet_checksum(start + header + b"\0\0" + packet) or 0xFFFF  # RFC 8200 §8.1
    return header + checksum.to_bytes(2, "big")
