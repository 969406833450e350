"""An inner packet taken apart as far as classification needs it. Total: anything malformed is None.

The header checksum of IPv4 is not looked at: the kernel that receives the packet in the end does.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mip6.forwarding import IPV4_HEADER, IPV6_HEADER, IPAddress
from mip6.numbers import Protocol

PORT_PROTOCOLS = frozenset((Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.DCCP))
_OPTION_HEADERS = frozenset((Protocol.HOP_BY_HOP, Protocol.DESTINATION_OPTIONS, Protocol.ROUTING))


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a fragment header (RFC 8200 §4.5) or the IPv4 header (RFC 791 §3.1) says; `offset` in octets."""

    identification: int
    offset: int
    more: bool


@dataclass(frozen=True, slots=True)
class Parsed:
    """One IP packet of either version. `protocol` is the upper-layer protocol, behind the extension headers of IPv6 or
    as the IPv4 header names it; `upper` is where it starts.

    `traffic_class` is the TOS octet of IPv4, `hop_limit` its time to live, `flow_label` 0. `ports` are source and
    destination port, `spi` that of ESP or of the first AH; None where the packet has none, also because it is cut short
    or because the first fragment has it. `dont_fragment`: nobody on the way may; never in IPv6.
    """

    version: int
    source: IPAddress
    destination: IPAddress
    traffic_class: int
    flow_label: int
    hop_limit: int
    length: int  # of the whole packet, header included
    protocol: int
    upper: int
    ports: tuple[int, int] | None = None
    spi: int | None = None
    fragment: Fragment | None = None
    dont_fragment: bool = True


def parse(packet: bytes) -> Parsed | None:
    """None when this is no IP packet or its payload is cut short. What stands behind the packet's end is left out."""
    version = packet[0] >> 4 if packet else 0
    if version == 6:
        return _parse6(packet)
    return _parse4(packet) if version == 4 else None


def _parse6(packet: bytes) -> Parsed | None:
    if len(packet) < IPV6_HEADER:
        return None
    end = IPV6_HEADER + int.from_bytes(packet[4:6], "big")
    if end > len(packet):
        return None
    word = int.from_bytes(packet[:4], "big")
    protocol, at = packet[6], IPV6_HEADER
    fragment: Fragment | None = None
    spi: int | None = None
    ports: tuple[int, int] | None = None
    later = False  # this is a fragment without the upper-layer header
    while at + 8 <= end and not later:
        if protocol in _OPTION_HEADERS:
            size = 8 * (packet[at + 1] + 1)
        elif protocol == Protocol.FRAGMENT:
            size, field = 8, int.from_bytes(packet[at + 2 : at + 4], "big")
            fragment = Fragment(int.from_bytes(packet[at + 4 : at + 8], "big"), field & 0xFFF8, bool(field & 1))
            later = fragment.offset > 0
        elif protocol == Protocol.AH:
            size = 4 * (packet[at + 1] + 2)  # RFC 4302 §2.2
            spi = spi if spi is not None else int.from_bytes(packet[at + 4 : at + 8], "big")
        else:
            break
        if at + size > end:
            break
        protocol, at = packet[at], at + size
    if not later and at + 4 <= end:
        first = int.from_bytes(packet[at : at + 4], "big")
        if protocol in PORT_PROTOCOLS:
            ports = (first >> 16, first & 0xFFFF)
        elif protocol == Protocol.ESP and spi is None:
            spi = first
    return Parsed(
        version=6,
        source=IPv6Address(packet[8:24]),
        destination=IPv6Address(packet[24:40]),
        traffic_class=word >> 20 & 0xFF,
        flow_label=word & 0xFFFFF,
        hop_limit=packet[7],
        length=end,
        protocol=protocol,
        upper=at,
        ports=ports,
        spi=spi,
        fragment=fragment,
    )


def _parse4(packet: bytes) -> Parsed | None:
    if len(packet) < IPV4_HEADER:
        return None
    upper, end = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    if not IPV4_HEADER <= upper <= end <= len(packet):
        return None
    field, protocol = int.from_bytes(packet[6:8], "big"), packet[9]
    offset, more = (field & 0x1FFF) * 8, bool(field & 0x2000)
    ports: tuple[int, int] | None = None
    spi: int | None = None
    if not offset and upper + 4 <= end:
        first = int.from_bytes(packet[upper : upper + 4], "big")
        if protocol in PORT_PROTOCOLS:
            ports = (first >> 16, first & 0xFFFF)
        elif protocol == Protocol.ESP:
            spi = first
        elif protocol == Protocol.AH and upper + 8 <= end:
            spi = int.from_bytes(packet[upper + 4 : upper + 8], "big")
    return Parsed(
        version=4,
        source=IPv4Address(packet[12:16]),
        destination=IPv4Address(packet[16:20]),
        traffic_class=packet[1],
        flow_label=0,
        hop_limit=packet[8],
        length=end,
        protocol=protocol,
        upper=upper,
        ports=ports,
        spi=spi,
        fragment=Fragment(int.from_bytes(packet[4:6], "big"), offset, more) if offset or more else None,
        dont_fragment=bool(field & 0x4000),
    )
