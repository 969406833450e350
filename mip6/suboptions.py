"""Sub-options of the Flow Identification option (RFC 6089 §4.2.1, RFC 7109 §5)."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar

from mip6.numbers import FlowAction, SubOptionType
from mip6.selectors import TrafficSelector, decode_selector, encode_selector
from mip6.wire import Checked, FormError, bits, declared, numbers_tail, octets_tail, optional_address_tail, rest


class SubOption(Checked):
    """A sub-option: type, length, data, like a mobility option."""

    __slots__ = ()
    NUMBER: ClassVar[int]
    SOURCE: ClassVar[str]


@declared
class UnknownSubOption(SubOption):
    """A sub-option of a number nobody declared here: skipped."""

    SOURCE: ClassVar[str] = "RFC 6089 §4.2.1"
    number: int = dataclasses.field()
    data: bytes = rest(octets_tail())


@declared
class MalformedSubOption(SubOption):
    """A declared sub-option whose body is wrong: the flow is answered with status 130 (RFC 6089 §5.3.2)."""

    SOURCE: ClassVar[str] = "RFC 6089 §5.3.2"
    number: int = dataclasses.field()
    data: bytes = rest(octets_tail())
    reason: str = dataclasses.field(default="", compare=False)


@declared
class BindingReference(SubOption):
    """The BIDs a flow goes to; several mean one copy to each."""

    NUMBER: ClassVar[int] = SubOptionType.BINDING_REFERENCE
    SOURCE: ClassVar[str] = "RFC 6089 §4.2.1.3"
    bids: tuple[int, ...] = rest(numbers_tail(1, 127))


@declared
class TrafficSelectorSubOption(SubOption):
    """Which packets belong to the flow."""

    NUMBER: ClassVar[int] = SubOptionType.TRAFFIC_SELECTOR
    SOURCE: ClassVar[str] = "RFC 6089 §4.2.1.4"
    selector: TrafficSelector = rest((decode_selector, encode_selector))


@declared
class FlowBindingAction(SubOption):
    """What a home agent asks the mobile node to do with a flow."""

    NUMBER: ClassVar[int] = SubOptionType.FLOW_BINDING_ACTION
    SOURCE: ClassVar[str] = "RFC 7109 §5.1"
    action: int = bits(8, reserved=8, names=FlowAction)


@declared
class TargetCareOfAddress(SubOption):
    """The care-of address a flow is to be moved to."""

    NUMBER: ClassVar[int] = SubOptionType.TARGET_CARE_OF_ADDRESS
    SOURCE: ClassVar[str] = "RFC 7109 §5.2"
    reserved: int = bits(16)
    care_of_address: IPv6Address | IPv4Address = rest(optional_address_tail(4, 16))


SUBOPTIONS: dict[int, type[SubOption]] = {
    cls.NUMBER: cls for cls in (BindingReference, TrafficSelectorSubOption, FlowBindingAction, TargetCareOfAddress)
}
_PAD1, _PADN = int(SubOptionType.PAD1), int(SubOptionType.PADN)  # members of an enumeration take longer to look up
_AS_IT_CAME = (UnknownSubOption, MalformedSubOption)
_DECODERS = {number: cls.decode_fields for number, cls in SUBOPTIONS.items()}


def decode_suboptions(data: bytes, start: int, end: int) -> tuple[SubOption, ...]:
    """The sub-options in `data[start:end]`; FormError when one runs over the end."""
    found: list[SubOption] = []
    at = start
    while at < end:
        number = data[at]
        if number == _PAD1:
            at += 1
            continue
        if at + 1 >= end:
            raise FormError(f"sub-option {number} has no length", at)
        body = at + 2
        stop = body + data[at + 1]
        if stop > end:
            raise FormError(f"sub-option {number} of {stop - body} octets runs over the end", at)
        if number != _PADN:
            decoder = _DECODERS.get(number)
            if decoder is None:
                found.append(UnknownSubOption(number, data[body:stop]))
            else:
                try:
                    found.append(decoder(data, body, stop))
                except FormError as error:
                    found.append(MalformedSubOption(number, data[body:stop], str(error)))
        at = stop
    return tuple(found)


def encode_suboptions(suboptions: tuple[SubOption, ...]) -> bytes:
    """The sub-options in a row, each aligned to 2n.

    The option starts at 2n and its fixed part has 8 octets, so 2n holds for the Mobility Header too. RFC 6088 §3 would
    like up to 8n for selectors with addresses; no receiver needs it and the padding would cost more than it saves.
    """
    result = b""
    for one in suboptions:
        number, body = (one.number, one.data) if isinstance(one, _AS_IT_CAME) else (one.NUMBER, one.encode_fields())
        if len(body) > 255:
            raise ValueError(f"{type(one).__name__}: {len(body)} octets do not fit into a sub-option")
        result += (b"\0" if len(result) % 2 else b"") + bytes((number, len(body))) + body
    return result
