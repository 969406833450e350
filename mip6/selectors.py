"""Traffic selectors: which packets a flow binding is about (RFC 6088).

A selector is a conjunction of conditions; a condition that is None matches everything. Ranges are inclusive pairs
`(start, end)`; a single value is a range of one. Directions are those of RFC 6089: packets from the correspondent
node (source) to the mobile node (destination), as the home agent sees them. For uplink packets the mobile node
swaps source and destination.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from mip6.numbers import Protocol, SelectorFormat
from mip6.values import value
from mip6.wire import FormError

Range = tuple[int, int]
IPv4Range = tuple[IPv4Address, IPv4Address]
IPv6Range = tuple[IPv6Address, IPv6Address]


@value
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


@value
class IPv4Selector:
    """Binary traffic selector for IPv4 packets, TS format 1 (RFC 6088 §3.1)."""

    source: IPv4Range | None = None
    destination: IPv4Range | None = None
    spi: Range | None = None
    source_port: Range | None = None
    destination_port: Range | None = None
    ds_field: Range | None = None
    protocol: Range | None = None


@value
class UnknownSelector:
    """A selector of a format this implementation does not know: answered with status 133, never matched."""

    format: int
    data: bytes


TrafficSelector = IPv6Selector | IPv4Selector | UnknownSelector


# --- wire form (RFC 6088 §3): a word of flags, then the fields whose flag is set, packed without gaps -----------------
# Flags stand in pairs, start then end, from the most significant bit down, in the order of the columns below.


@dataclass(frozen=True, slots=True)
class _Layout:
    """The fields of one selector format: names in wire order, and the width of each in octets."""

    kind: type[IPv6Selector] | type[IPv4Selector]
    fields: tuple[tuple[str, int], ...]


_LAYOUTS = {
    SelectorFormat.IPV4: _Layout(
        IPv4Selector,
        (
            ("source", 4),
            ("destination", 4),
            ("spi", 4),
            ("source_port", 2),
            ("destination_port", 2),
            ("ds_field", 1),
            ("protocol", 1),
        ),
    ),
    SelectorFormat.IPV6: _Layout(
        IPv6Selector,
        (
            ("source", 16),
            ("destination", 16),
            ("spi", 4),
            ("flow_label", 4),
            ("source_port", 2),
            ("destination_port", 2),
            ("traffic_class", 1),
            ("next_header", 1),
        ),
    ),
}
_FORMATS = frozenset(map(int, _LAYOUTS))
_CODES = {1: "B", 2: "H", 4: "I"}
FLOW_LABEL_MASK = 0xFFFFF  # RFC 6088 speaks of 24 bits; the field has 20 (RFC 8200 §3)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to read one combination of flags: what it makes, a struct and, per field, its position and the converter of
    its values."""

    kind: type[IPv6Selector] | type[IPv4Selector]
    size: int  # octets of the struct
    unpack_from: Callable[[bytes, int], tuple[Any, ...]]
    fields: tuple[tuple[str, int, bool, Callable[[Any], Any] | None], ...]  # None: the value as it is


def _label(value: int) -> int:
    return value & FLOW_LABEL_MASK


@lru_cache(maxsize=1024)
def _plan(format_: int, flags: int) -> _Plan | str:
    """The plan for a flags word, or what is wrong with it."""
    code, fields, position = "!", [], 0
    form = _LAYOUTS[SelectorFormat(format_)]
    for index, (name, width) in enumerate(form.fields):
        start, end = bool(flags & 0x8000 >> 2 * index), bool(flags & 0x4000 >> 2 * index)
        if end and not start:
            return f"the end of {name} without its start"
        if not start:
            continue
        address = name in ("source", "destination")
        code += (f"{width}s" if address else _CODES[width]) * (1 + end)
        convert: Callable[[Any], Any] | None = None
        if address:
            convert = IPv6Address if width == 16 else IPv4Address
        elif name == "flow_label":
            convert = _label
        fields.append((name, position, end, convert))
        position += 1 + end
    layout = struct.Struct(code)
    return _Plan(form.kind, layout.size, layout.unpack_from, tuple(fields))


def decode_selector(data: bytes, start: int, end: int) -> TrafficSelector:
    """Read TS format, reserved octet, flags and fields from `data[start:end]` (RFC 6089 §4.2.1.4, RFC 6088 §3)."""
    try:
        return _read(data[start:end])
    except FormError as error:
        raise FormError(str(error), start + error.offset) from None


@lru_cache(maxsize=1024)  # the nodes of a fleet have the same selectors, and say them with each refresh
def _read(data: bytes) -> TrafficSelector:
    if len(data) < 2:
        raise FormError(f"traffic selector of {len(data)} octets")
    format_ = data[0]
    if format_ not in _FORMATS:
        return UnknownSelector(format_, data[2:])
    if len(data) < 6:
        raise FormError(f"traffic selector of {len(data)} octets has no flags")
    plan = _plan(format_, (data[2] << 8 | data[3]) & (0xFFFC if format_ == 1 else 0xFFFF))
    if isinstance(plan, str):
        raise FormError(f"traffic selector has {plan}", 2)
    if len(data) != 6 + plan.size:
        raise FormError(f"traffic selector of {len(data)} octets, its flags say {6 + plan.size}")
    values = plan.unpack_from(data, 6)
    found: dict[str, Any] = {}
    for name, position, ranged, convert in plan.fields:
        first, last = values[position], values[position + ranged]
        if convert is not None:
            first = convert(first)
            last = convert(last) if ranged else first
        if last < first:
            raise FormError(f"traffic selector: {name} ends before it starts", 6)
        found[name] = (first, last)
    return plan.kind(**found)


def encode_selector(selector: TrafficSelector) -> bytes:
    """The wire form, TS format octet first. ValueError when a value does not fit its field."""
    if isinstance(selector, UnknownSelector):
        return bytes((selector.format, 0)) + selector.data
    format_ = SelectorFormat.IPV6 if isinstance(selector, IPv6Selector) else SelectorFormat.IPV4
    flags, fields = 0, b""
    for index, (name, width) in enumerate(_LAYOUTS[format_].fields):
        value = getattr(selector, name)
        if value is None:
            continue
        first, last = value
        if last < first:
            raise ValueError(f"traffic selector: {name} {first} to {last} ends before it starts")
        flags |= 0x8000 >> 2 * index
        if first != last:
            flags |= 0x4000 >> 2 * index
        for one in (first, last) if first != last else (first,):
            try:
                fields += int(one).to_bytes(width, "big")
            except OverflowError:
                raise ValueError(f"traffic selector: {name} {one} does not fit into {width} octets") from None
    return bytes((format_, 0)) + flags.to_bytes(2, "big") + b"\0\0" + fields


def describe(selector: TrafficSelector) -> str:
    """The conditions in one line, in the words of the configuration: `destination_port 5000-5010, protocol udp`."""
    if isinstance(selector, UnknownSelector):
        return f"unknown format {selector.format}"
    parts = []
    for name, _ in _LAYOUTS[SelectorFormat.IPV6 if isinstance(selector, IPv6Selector) else SelectorFormat.IPV4].fields:
        span = getattr(selector, name)
        if span is not None:
            parts.append(_condition(name, *span))
    return ", ".join(parts) or "all"


def _condition(name: str, first: Any, last: Any) -> str:
    if name in ("next_header", "protocol"):
        name = "protocol"
        if first == last and first in list(Protocol):
            return f"{name} {Protocol(first).name.lower()}"
    if name in ("traffic_class", "ds_field") and not first & 3 and last & 3 == 3:  # whatever ECN says
        name, first, last = "dscp", first >> 2, last >> 2
    return f"{name} {first}" if first == last else f"{name} {first}-{last}"
