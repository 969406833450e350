"""Ordinary packets: those whose first octets tell all that a decision depends on, so that it holds for their flow."""

from __future__ import annotations

from mip6.dataplane.offload import upper_protocol
from mip6.forwarding import IPV4_HEADER, IPV6_HEADER
from mip6.numbers import Protocol
from mip6.packet import PORT_PROTOCOLS

FLOWS = 65536  # remembered in each direction
PORTS, TCP_HEADER = 4, 20
PLAIN_IPV4 = 0x45  # the first octet of an IPv4 packet without options
_ORDINARY = PORT_PROTOCOLS | {Protocol.ESP}  # what a flow rule can look at is in the first 4 octets behind the header


def is_ordinary(data: bytes, behind: int) -> bool:
    """Whether a header has `behind` octets of an upper layer directly behind it, with the rest of what a flow rule can
    look at."""
    if data[0] >> 4 == 6:
        return len(data) >= IPV6_HEADER + behind and data[6] in _ORDINARY
    return data[0] == PLAIN_IPV4 and len(data) >= IPV4_HEADER + behind and upper_protocol(data) in _ORDINARY


def flow6(data: bytes) -> bytes:
    """What a decision about an ordinary IPv6 packet depends on, but for its length and hop limit."""
    return data[:4] + data[6:7] + data[8:44]


def flow4(data: bytes) -> bytes:
    """The same of IPv4."""
    return data[:2] + data[6:8] + data[9:10] + data[12:24]
