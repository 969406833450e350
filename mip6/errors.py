"""ICMP errors of the data plane for the senders of inner packets."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from mip6.forwarding import IPV6_HEADER, MINIMUM_MTU, ForwardingTable, IPAddress
from mip6.numbers import Icmp6Type, IcmpType, Protocol
from mip6.packet import Parsed
from mip6.wire import internet_checksum, pseudo_header

HOP_LIMIT = 64
DUMMY_IPV4 = IPv4Address("192.0.0.8")  # sends the ICMPv4 errors of a router without an IPv4 address (RFC 7600)
_ICMP4_SIZE = 576  # of a whole error (RFC 1812 §4.3.2.3)
_ICMP4_ERRORS = frozenset(
    (
        IcmpType.DESTINATION_UNREACHABLE,
        IcmpType.SOURCE_QUENCH,
        IcmpType.REDIRECT,
        IcmpType.TIME_EXCEEDED,
        IcmpType.PARAMETER_PROBLEM,
    )
)
_DONT_FRAGMENT = 0x4000


class Error(Enum):
    """What an inner sender is told: type and code of ICMPv6 (RFC 4443) and of ICMPv4 (RFC 792, RFC 1191 §4)."""

    NO_ROUTE = ((Icmp6Type.DESTINATION_UNREACHABLE, 0), (IcmpType.DESTINATION_UNREACHABLE, 0))
    NO_ADDRESS = ((Icmp6Type.DESTINATION_UNREACHABLE, 3), (IcmpType.DESTINATION_UNREACHABLE, 1))
    TIME_EXCEEDED = ((Icmp6Type.TIME_EXCEEDED, 0), (IcmpType.TIME_EXCEEDED, 0))
    TOO_BIG = ((Icmp6Type.PACKET_TOO_BIG, 0), (IcmpType.DESTINATION_UNREACHABLE, 4))


def forwardable(address: IPAddress) -> bool:
    """Whether a router may forward packets from and to this address; no error goes to any other."""
    return not (
        address.is_link_local
        or address.is_multicast
        or address.is_loopback
        or address.is_unspecified
        or (isinstance(address, IPv4Address) and int(address) == 0xFFFFFFFF)
    )


def error_about(table: ForwardingTable, packet: bytes, parsed: Parsed, error: Error, mtu: int = 0) -> bytes | None:
    """The error about an inner packet for its sender, None where none may be sent: about an error, a redirect, or what
    cannot be seen to be neither (RFC 4443 §2.4 (e)); about a later fragment of IPv4 (RFC 1812 §4.3.2.7)."""
    later = parsed.fragment is not None and parsed.fragment.offset > 0
    if parsed.protocol == (Protocol.ICMPV6 if parsed.version == 6 else Protocol.ICMP):
        if later or parsed.upper >= len(packet):
            return None
        about = packet[parsed.upper]
        if parsed.version == 4 and about in _ICMP4_ERRORS:
            return None
        if parsed.version == 6 and (about < Icmp6Type.ECHO_REQUEST or about == Icmp6Type.REDIRECT):
            return None
    six, four = error.value
    if isinstance(parsed.source, IPv6Address):
        return _icmp6(table.address, parsed.source, *six, mtu, packet)
    return None if later else _icmp4(table.ipv4_address or DUMMY_IPV4, parsed.source, *four, mtu, packet)


def _icmp6(source: IPv6Address, destination: IPv6Address, kind: int, code: int, mtu: int, packet: bytes) -> bytes:
    """As much of the packet is quoted as fits into 1280 octets (RFC 4443 §2.4 (c))."""
    body = bytes((kind, code, 0, 0)) + mtu.to_bytes(4, "big") + packet[: MINIMUM_MTU - IPV6_HEADER - 8]
    header = pseudo_header(source, destination, len(body), Protocol.ICMPV6)
    body = body[:2] + internet_checksum(header + body).to_bytes(2, "big") + body[4:]
    start = (6 << 28).to_bytes(4, "big") + len(body).to_bytes(2, "big") + bytes((Protocol.ICMPV6, HOP_LIMIT))
    return start + source.packed + destination.packed + body


def _icmp4(source: IPv4Address, destination: IPv4Address, kind: int, code: int, mtu: int, packet: bytes) -> bytes:
    body = bytes((kind, code, 0, 0)) + mtu.to_bytes(4, "big") + packet[: _ICMP4_SIZE - 28]
    body = body[:2] + internet_checksum(body).to_bytes(2, "big") + body[4:]
    return ipv4_header(source, destination, Protocol.ICMP, len(body)) + body


def ipv4_header(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    length: int,
    *,
    tos: int = 0,
    identification: int = 0,
    fragment: int = _DONT_FRAGMENT,
    ttl: int = HOP_LIMIT,
) -> bytes:
    """A header with its checksum in front of `length` octets; `fragment` is the word of flags and fragment offset.

    What must not be fragmented needs no identification (RFC 6864 §4.1).
    """
    start = bytes((0x45, tos)) + (20 + length).to_bytes(2, "big") + identification.to_bytes(2, "big")
    start += fragment.to_bytes(2, "big") + bytes((ttl, protocol))
    addresses = source.packed + destination.packed
    return start + internet_checksum(start + addresses).to_bytes(2, "big") + addresses


def largest(packet: Parsed, mtu: int) -> int:
    """How large a packet may be that goes through a tunnel of that MTU; past it, the sender is told (RFC 2473 §7).

    IPv6 of up to 1280 octets and IPv4 that may be fragmented pass in any case, in outer fragments if need be.
    """
    if packet.version == 6:
        return max(mtu, MINIMUM_MTU)
    return mtu if packet.dont_fragment else 0xFFFF
