"""Hypothesis strategies made from the declarations: what a class says of its fields is what is drawn.

Each is made once: to make and check them takes longer than to draw from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

from hypothesis import strategies as st

from mip6.messages import MESSAGES, BadHeader, ExperimentalMessage, HomeAgentSwitch, Message
from mip6.options import OPTIONS, FlowIdentification, Option
from mip6.selectors import IPv4Selector, IPv6Selector, TrafficSelector, UnknownSelector
from mip6.suboptions import SUBOPTIONS, SubOption, TrafficSelectorSubOption
from mip6.wire import FormError, Wire

__all__ = ["BadHeader", "messages", "options", "selectors", "suboptions"]

Make = TypeVar("Make", bound=Callable[..., Any])


def _once(make: Make) -> Make:
    """`cache` with the types of what it decorates: mypy takes classes for unhashable where their values have a hash."""
    return cast(Make, cache(make))


def _range(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.tuples(values, values).map(lambda pair: tuple(sorted(pair)))


def _number(width: int) -> st.SearchStrategy[Any]:
    return _range(st.integers(0, 2**width - 1))


@_once
def selectors() -> st.SearchStrategy[TrafficSelector]:
    v6, v4 = st.ip_addresses(v=6), st.ip_addresses(v=4)
    ports: dict[str, Any] = {"spi": _number(32), "source_port": _number(16), "destination_port": _number(16)}
    return st.one_of(
        st.builds(
            IPv6Selector,
            source=_range(v6),
            destination=_range(v6),
            flow_label=_number(20),
            traffic_class=_number(8),
            next_header=_number(8),
            **ports,
        ),
        st.builds(
            IPv4Selector, source=_range(v4), destination=_range(v4), ds_field=_number(8), protocol=_number(8), **ports
        ),
        st.builds(UnknownSelector, format=st.integers(3, 255), data=st.binary(max_size=40)),
    )


def _field(wire: Wire) -> st.SearchStrategy[Any]:
    match wire.kind:
        case "bool":
            return st.booleans()
        case "ip6":
            return st.ip_addresses(v=6)
        case "ip4":
            return st.ip_addresses(v=4)
        case "octets":
            assert wire.width is not None
            return st.binary(min_size=wire.width // 8, max_size=wire.width // 8)
        case "flags":
            assert wire.flags is not None and wire.width is not None
            return st.integers(0, 2**wire.width - 1).map(wire.flags)
        case "tail":
            assert wire.tail is not None
            return _tail(wire)
    assert wire.width is not None
    return st.integers(0, 2**wire.width - 1).map(lambda value: value * wire.unit)


def _tail(wire: Wire) -> st.SearchStrategy[Any]:
    """What a variable rest accepts is asked of its own reader, so the strategy cannot drift from the codec."""
    assert wire.tail is not None
    read, _ = wire.tail

    def parse(data: bytes) -> Any:
        return read(data, 0, len(data))

    candidates = [0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 32, 48, 64]
    sizes = st.sampled_from([n for n in candidates if _accepts(read, bytes(n)) or _accepts(read, b"a" * n)])
    text = st.text("aé漢", min_size=1, max_size=20).map(str.encode)
    drawn = sizes.flatmap(lambda n: st.binary(min_size=n, max_size=n))
    return (text if _is_text(read) else drawn).filter(lambda data: _accepts(read, data)).map(parse)


def _is_text(read: Any) -> bool:
    return _accepts(read, b"a") and isinstance(read(b"a", 0, 1), str)


def _accepts(read: Any, data: bytes) -> bool:
    try:
        read(data, 0, len(data))
    except FormError:
        return False
    return True


def _build(cls: Any, special: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    parts = {
        field.name: special[field.name] if field.name in special else _field(cls.WIRES[field.name])
        for field in dataclasses.fields(cls)
        if field.name in special or field.name in cls.WIRES
    }
    return st.builds(cls, **parts)


@_once
def suboptions(cls: type[SubOption] | None = None) -> st.SearchStrategy[SubOption]:
    if cls is None:
        return st.one_of(*(suboptions(one) for one in SUBOPTIONS.values()))
    return _build(cls, {"selector": selectors()} if cls is TrafficSelectorSubOption else {})


@_once
def options(cls: type[Option] | None = None) -> st.SearchStrategy[Option]:
    if cls is None:
        return st.one_of(*(options(one) for one in OPTIONS.values()))
    if cls is FlowIdentification:
        return _build(cls, {"suboptions": st.lists(suboptions(), max_size=3).map(tuple)})
    return _build(cls, {})


@_once
def messages(cls: type[Message] | None = None) -> st.SearchStrategy[Message]:
    if cls is None:
        return st.one_of(*(messages(one) for one in MESSAGES))
    if cls is ExperimentalMessage:  # padded to 8 octets and without a length of its own
        return st.integers(0, 20).flatmap(lambda n: st.binary(min_size=8 * n + 2, max_size=8 * n + 2)).map(cls)
    special: dict[str, st.SearchStrategy[Any]] = {"options": st.lists(options(), max_size=6).map(tuple)}
    if cls is HomeAgentSwitch:
        special["addresses"] = st.lists(st.ip_addresses(v=6), max_size=5).map(tuple)
    return _build(cls, special)
