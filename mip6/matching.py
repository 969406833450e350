"""Whether a traffic selector matches a packet (RFC 6088 §3, RFC 6089 §4.3): every condition that is there must hold."""

from __future__ import annotations

from ipaddress import IPv6Address

from mip6.packet import Parsed
from mip6.selectors import FLOW_LABEL_MASK, IPv6Selector, TrafficSelector


def matches(selector: TrafficSelector, packet: Parsed, reverse: bool = False) -> bool:
    """`reverse`: an uplink packet, whose source and destination stand the other way round than in the selector.

    IPv4 and unknown selectors never match an IPv6 packet.
    """
    if not isinstance(selector, IPv6Selector):
        return False
    source, destination = packet.source, packet.destination
    source_port, destination_port = packet.ports or (None, None)
    if reverse:
        source, destination = destination, source
        source_port, destination_port = destination_port, source_port
    traffic_class = selector.traffic_class
    label = selector.flow_label
    return (
        _in_address(source, selector.source)
        and _in_address(destination, selector.destination)
        and _within(packet.spi, selector.spi)
        and (label is None or label[0] & FLOW_LABEL_MASK <= packet.flow_label <= label[1] & FLOW_LABEL_MASK)
        and _within(source_port, selector.source_port)
        and _within(destination_port, selector.destination_port)
        # only the DSCP is compared, RFC 6088 §3.2
        and (traffic_class is None or traffic_class[0] >> 2 <= packet.traffic_class >> 2 <= traffic_class[1] >> 2)
        and _within(packet.protocol, selector.next_header)
    )


def _in_address(value: IPv6Address, span: tuple[IPv6Address, IPv6Address] | None) -> bool:
    return span is None or span[0] <= value <= span[1]


def _within(value: int | None, span: tuple[int, int] | None) -> bool:
    return span is None or (value is not None and span[0] <= value <= span[1])
