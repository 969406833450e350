"""Declared options and messages as JSON can hold them."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from mip6.wire import Declared


def to_dict(value: Any) -> dict[str, Any]:
    """The declared fields of an option or message by name, as JSON can hold them; numbers with names get `NAME (n)`."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        wire = value.WIRES.get(field.name)
        if wire is not None and wire.names is not None and item in set(wire.names):
            item = f"{wire.names(item).name} ({item})"
        elif wire is not None and wire.flags is not None:
            item = [one.name for one in wire.flags if one in item] + ([hex(extra)] if (extra := _unnamed(item)) else [])
        result[field.name] = _plain(item)
    return result


def _unnamed(value: Any) -> int:
    known = 0
    for one in type(value):
        known |= int(one)
    return int(value) & ~known


def _plain(item: Any) -> Any:
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, IPv4Address | IPv6Address):
        return str(item)
    if isinstance(item, tuple):
        return [_plain(one) for one in item]
    if isinstance(item, Declared):
        return {"name": type(item).__name__, **to_dict(item)}
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        plain = {f.name: _plain(getattr(item, f.name)) for f in dataclasses.fields(item)}
        return {"name": type(item).__name__} | {name: one for name, one in plain.items() if one is not None}
    return item
