"""Whether a traffic selector matches a packet (RFC 6088 §3, RFC 6089 §4.3): every condition that is there must hold."""

from __future__ import annotations

from typing import TypeVar

from mip6.forwarding import IPAddress
from mip6.packet import Parsed
from mip6.selectors import FLOW_LABEL_MASK, IPv4Selector, IPv6Selector, TrafficSelector

_Address = TypeVar("_Address", bound=IPAddress)


def matches(selector: TrafficSelector, packet: Parsed, reverse: bool = False, partly: bool = False) -> bool:
    """`reverse`: an uplink packet, whose source and destination stand the other way round than in the selector.
    `partly`: conditions on ports and SPI hold for a later fragment, which has neither.

    A selector of one IP version never matches a packet of the other, and one of an unknown format matches none.
    """
    if isinstance(selector, IPv6Selector) and packet.version == 6:
        label, codepoint, protocol = selector.flow_label, selector.traffic_class, selector.next_header
    elif isinstance(selector, IPv4Selector) and packet.version == 4:
        label, codepoint, protocol = None, selector.ds_field, selector.protocol
    else:
        return False
    source, destination = packet.source, packet.destination
    source_port, destination_port = packet.ports or (None, None)
    if reverse:
        source, destination = destination, source
        source_port, destination_port = destination_port, source_port
    hidden = partly and packet.fragment is not None and packet.fragment.offset > 0
    return (
        _in_address(source, selector.source)
        and _in_address(destination, selector.destination)
        and (hidden or _within(packet.spi, selector.spi))
        and (label is None or label[0] & FLOW_LABEL_MASK <= packet.flow_label <= label[1] & FLOW_LABEL_MASK)
        and (hidden or _within(source_port, selector.source_port))
        and (hidden or _within(destination_port, selector.destination_port))
        # only the DSCP is compared, RFC 6088 §3.1, §3.2
        and (codepoint is None or codepoint[0] >> 2 <= packet.traffic_class >> 2 <= codepoint[1] >> 2)
        and _within(packet.protocol, protocol)
    )


def _in_address(value: IPAddress, span: tuple[_Address, _Address] | None) -> bool:
    return span is None or int(span[0]) <= int(value) <= int(span[1])


def _within(value: int | None, span: tuple[int, int] | None) -> bool:
    return span is None or (value is not None and span[0] <= value <= span[1])
