"""An inner packet taken apart as far as classification needs it. Total: anything malformed is None."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address

from mip6.numbers import Protocol

IPV6_HEADER = 40
PORT_PROTOCOLS = frozenset((Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.DCCP))
_OPTION_HEADERS = frozenset((Protocol.HOP_BY_HOP, Protocol.DESTINATION_OPTIONS, Protocol.ROUTING))


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a fragment header says (RFC 8200 §4.5); `offset` in octets."""

    identification: int
    offset: int
    more: bool


@dataclass(frozen=True, slots=True)
class Parsed:
    """One IPv6 packet. `protocol` is the upper-layer protocol behind the extension headers; `upper` is where it starts.

    `ports` are source and destination port, `spi` that of ESP or of the first AH; None where the packet has none, also
    because it is cut short or because the first fragment has it.
    """

    source: IPv6Address
    destination: IPv6Address
    traffic_class: int
    flow_label: int
    hop_limit: int
    length: int  # of the whole packet, header included
    protocol: int
    upper: int
    ports: tuple[int, int] | None = None
    spi: int | None = None
    fragment: Fragment | None = None


def parse(packet: bytes) -> Parsed | None:
    """None when this is no IPv6 packet or its payload is cut short. Octets behind the payload length are left out."""
    if len(packet) < IPV6_HEADER or packet[0] >> 4 != 6:
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
