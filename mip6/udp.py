"""UDP encapsulation (RFC 5555 §4.1): an IP packet straight behind a UDP header, over IPv4, or over IPv6 where nothing
else gets through (an extension of ours: docs/decisions/udp-encapsulation.md).

The first nibble behind the UDP header says what is inside. Signalling is told from data by looking there too: it is an
IPv6 packet to this agent whose Mobility Header follows at once, for inside UDP the IPv6 source is the home address
itself and no Home Address option is needed (RFC 5555 §4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address

from mip6.forwarding import DSMIP_PORT, IPV6_HEADER, IPAddress
from mip6.numbers import Protocol


@dataclass(frozen=True, slots=True)
class UdpEnds:
    """Both ends of a UDP encapsulation as this agent sees them, addresses of one family. An answer goes to the same."""

    local: IPAddress
    remote: IPAddress
    local_port: int = DSMIP_PORT
    remote_port: int = DSMIP_PORT


def is_signalling(inner: bytes, own: IPv6Address) -> bool:
    """Whether what was inside UDP is a Mobility Header message for the agent whose inner address is `own`."""
    return (
        len(inner) >= IPV6_HEADER
        and inner[0] >> 4 == 6
        and inner[6] == Protocol.MOBILITY
        and inner[24:40] == own.packed
    )
