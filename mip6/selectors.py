"""Traffic selectors: which packets a flow binding is about (RFC 6088).

A selector is a conjunction of conditions; a condition that is None matches everything. Ranges are inclusive pairs
`(start, end)`; a single value is a range of one. Directions are those of RFC 6089: packets from the correspondent
node (source) to the mobile node (destination), as the home agent sees them. For uplink packets the mobile node
swaps source and destination.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Range = tuple[int, int]
IPv4Range = tuple[IPv4Address, IPv4Address]
IPv6Range = tuple[IPv6Address, IPv6Address]


@dataclass(frozen=True, slots=True)
class IPv6Selector:
    """Binary traffic selector for IPv6 packets, TS format 2 (RFC 6088 §3.2).

    `flow_label` is 20 bits. `traffic_class` holds whole octets, but only its upper six bits (the DSCP) are compared.
    `next_header` is the upper-layer protocol behind extension headers.
    """

    source: IPv6Range | None = None
    destination: IPv6Range | None = None
    spi: Range | None = None
    flow_label: Range | None = None
    source_port: Range | None = None
    destination_port: Range | None = None
    traffic_class: Range | None = None
    next_header: Range | None = None


@dataclass(frozen=True, slots=True)
class IPv4Selector:
    """Binary traffic selector for IPv4 packets, TS format 1 (RFC 6088 §3.1)."""

    source: IPv4Range | None = None
    destination: IPv4Range | None = None
    spi: Range | None = None
    source_port: Range | None = None
    destination_port: Range | None = None
    ds_field: Range | None = None
    protocol: Range | None = None


@dataclass(frozen=True, slots=True)
class UnknownSelector:
    """A selector of a format this implementation does not know: answered with status 133, never matched."""

    format: int
    data: bytes


TrafficSelector = IPv6Selector | IPv4Selector | UnknownSelector
