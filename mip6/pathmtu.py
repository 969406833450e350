"""Too big: what ICMP errors about outer packets say of the path, and what the inner sender is to hear of it.

ICMP errors about tunnel packets without UDP are read here; about those with, the kernel tells the UDP sockets.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mip6.errors import Error, error_about, forwardable, largest
from mip6.events import PathMtuChanged
from mip6.forwarding import IPV4_HEADER, IPV6_HEADER, MINIMUM_MTU, Encapsulation, End, IPAddress, overhead
from mip6.lookup import Lookup, Ports
from mip6.numbers import Icmp6Type, IcmpType, Protocol
from mip6.packet import Parsed, parse
from mip6.udp import UdpEnds

MINIMUM_IPV4_MTU = 576  # what every host takes (RFC 791 §3.1); an error that names less is not believed
_FRAGMENTATION_NEEDED = 4


@dataclass(frozen=True, slots=True)
class _TooBig:
    """An error about an outer packet. `inner`: as much of the inner packet as is quoted, if it stands there."""

    local: IPAddress
    remote: IPAddress
    mtu: int
    overhead: int
    inner: bytes
    ports: Ports = None


def path_mtu_changed(lookup: Lookup, message: bytes, version: int = 6) -> PathMtuChanged | None:
    """The event for an ICMP message of that IP version, if it is a packet too big, or fragmentation needed, about a
    packet of a tunnel of the table and lowers its MTU. One that names less than any path has is discarded (RFC 8201
    §4)."""
    about = _read(message, version)
    return PathMtuChanged(about.local, about.remote, about.mtu) if about and _lowers(lookup, about) else None


def relayed_too_big(lookup: Lookup, message: bytes, version: int = 6) -> bytes | None:
    """The error for the inner sender that follows from such a message, when so much of the inner packet is quoted that
    its sender is known, and it must be made smaller (RFC 2473 §8.1, §8.2)."""
    about = _read(message, version)
    return None if about is None else _relayed(lookup, about)


def relayed_too_big_in_udp(lookup: Lookup, ends: UdpEnds, mtu: int, inner: bytes) -> bytes | None:
    """The same for a packet inside UDP between `ends`, which the path carries only up to `mtu` octets with its outer
    headers; `inner` is as much of it as is quoted."""
    size = overhead(ends.local, Encapsulation.UDP)
    return _relayed(lookup, _TooBig(ends.local, ends.remote, mtu, size, inner, (ends.local_port, ends.remote_port)))


def _lowers(lookup: Lookup, about: _TooBig) -> bool:
    known = max((tunnel.mtu for _, tunnel in lookup.between(about.local, about.remote, about.ports)), default=0)
    return about.mtu < known + about.overhead


def _relayed(lookup: Lookup, about: _TooBig) -> bytes | None:
    quoted, size = _parse_quoted(about.inner)
    if quoted is None or not _lowers(lookup, about) or not forwardable(quoted.source):
        return None
    mtu = largest(quoted, about.mtu - about.overhead)
    if size <= mtu:
        return None
    owner = lookup.owner(quoted.source if lookup.table.end is End.MOBILE_NODE else quoted.destination)
    if all(node is not owner for node, _ in lookup.between(about.local, about.remote, about.ports)):
        return None  # nothing that was ever sent through this tunnel
    return error_about(lookup.table, about.inner, quoted, Error.TOO_BIG, mtu)


def _read(message: bytes, version: int) -> _TooBig | None:
    return _read6(message) if version == 6 else _read4(message)


def _read6(message: bytes) -> _TooBig | None:
    outer = message[8:]
    if len(outer) < IPV6_HEADER or message[0] != Icmp6Type.PACKET_TOO_BIG or outer[0] >> 4 != 6:
        return None
    inside, inner = outer[6], outer[IPV6_HEADER:]
    if inside == Protocol.FRAGMENT and inner:
        inside, inner = inner[0], b""
    mtu = int.from_bytes(message[4:8], "big")
    if inside not in (Protocol.IPV6, Protocol.IPV4) or mtu < MINIMUM_MTU:
        return None
    return _TooBig(IPv6Address(outer[8:24]), IPv6Address(outer[24:40]), mtu, IPV6_HEADER, inner)


def _read4(message: bytes) -> _TooBig | None:
    outer = message[8:]
    if len(outer) < IPV4_HEADER or message[:2] != bytes((IcmpType.DESTINATION_UNREACHABLE, _FRAGMENTATION_NEEDED)):
        return None
    start, mtu = (outer[0] & 15) * 4, int.from_bytes(message[6:8], "big")
    if outer[0] >> 4 != 4 or outer[9] not in (Protocol.IPV6, Protocol.IPV4) or mtu < MINIMUM_IPV4_MTU:
        return None
    first = not int.from_bytes(outer[6:8], "big") & 0x1FFF
    inner = outer[start:] if first else b""
    return _TooBig(IPv4Address(outer[12:16]), IPv4Address(outer[16:20]), mtu, IPV4_HEADER, inner)


def _parse_quoted(inner: bytes) -> tuple[Parsed | None, int]:
    """A packet as far as an error quotes it, and its whole size."""
    if inner[:1] >= b"\x60":
        here = max(len(inner) - IPV6_HEADER, 0).to_bytes(2, "big")
        return parse(inner[:4] + here + inner[6:]), IPV6_HEADER + int.from_bytes(inner[4:6], "big")
    return parse(inner[:2] + len(inner).to_bytes(2, "big") + inner[4:]), int.from_bytes(inner[2:4], "big")
