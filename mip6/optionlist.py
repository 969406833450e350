"""The option list of a message: padding, alignment, what is unknown or malformed (RFC 6275 §6.2.1)."""

from __future__ import annotations

from mip6.numbers import OptionType
from mip6.options import OPTIONS, BindingIdentifier, MalformedOption, Option, UnknownOption
from mip6.wire import FormError

_PAD1, _PADN = int(OptionType.PAD1), int(OptionType.PADN)  # members of an enumeration take longer to look up
_DECODERS = {number: cls.decode_fields for number, cls in OPTIONS.items()}


def decode_options(data: bytes, start: int, end: int) -> tuple[Option, ...]:
    """The options in `data[start:end]`, padding left out; FormError when one runs over the end (RFC 6275 §6.2.1)."""
    found: list[Option] = []
    at = start
    while at < end:
        number = data[at]
        if number == _PAD1:
            at += 1
            continue
        if at + 1 >= end:
            raise FormError(f"option {number} has no length", at)
        body = at + 2
        stop = body + data[at + 1]
        if stop > end:
            raise FormError(f"option {number} of {stop - body} octets runs over the end", at)
        if number != _PADN:
            decoder = _DECODERS.get(number)
            if decoder is None:
                found.append(UnknownOption(number, data[body:stop]))
            else:
                try:
                    found.append(decoder(data, body, stop))
                except FormError as error:
                    found.append(MalformedOption(number, data[body:stop], str(error), at))
        at = stop
    return tuple(found)


_AS_IT_CAME = (UnknownOption, MalformedOption)
_PADDING = [b"", b"\0", *(bytes((OptionType.PADN, gap - 2)) + bytes(gap - 2) for gap in range(2, 9))]


def encode_options(options: tuple[Option, ...], start: int) -> bytes:
    """The options as they stand at offset `start` of a Mobility Header, padded to a multiple of 8 octets.

    An option that must end the message is moved up to the end by the padding in front of it.
    """
    parts: list[bytes] = []
    at = start
    last = len(options) - 1
    for index, option in enumerate(options):
        number = option.number if isinstance(option, _AS_IT_CAME) else option.NUMBER
        modulus, residue = alignment(option)
        body = option.encode_fields()
        length = len(body)
        if length > 255:
            raise ValueError(f"{type(option).__name__}: {length} octets do not fit into an option")
        if index == last and option.ENDS_MESSAGE:
            modulus, residue = 8, -(2 + length) % 8
        gap = (residue - at) % modulus
        parts += (_PADDING[gap], bytes((number, length)), body)
        at += gap + 2 + length
    parts.append(_PADDING[-at % 8])
    return b"".join(parts)


def alignment(option: Option) -> tuple[int, int]:
    """Where an option may start: a BID with a care-of address needs 8n+2 (RFC 5648 §4.3)."""
    if isinstance(option, BindingIdentifier) and option.care_of_address is not None:
        return 8, 2
    return option.ALIGN
