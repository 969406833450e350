"""Events and actions as JSON can hold them, and back: what a recorded run is made of.

An engine is a function of its settings, its seed, its stored records and its events, so these are a whole run. The
actions stand beside them to be compared. Values are read back by the type hints of their dataclasses.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterable, Mapping
from datetime import time
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Union, get_args, get_origin, get_type_hints

from mip6 import events
from mip6.actions import Action

VERSION = 1
EVENTS: dict[str, type] = {cls.__name__: cls for cls in get_args(events.Event)}
_ADDRESSES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)


class JournalError(ValueError):
    """A line is not what a journal has there."""


def plain(value: Any) -> Any:
    """A frozen value as JSON can hold it; octets in hexadecimal, dataclasses by their fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    return str(value)


def named(value: Any) -> dict[str, Any]:
    """An event or action with the name of its class. The arguments of a request, which may be anything, are tagged."""
    found = {"type": type(value).__name__, **plain(value)}
    if isinstance(value, events.OperatorRequest):
        found["arguments"] = {name: _tagged(one) for name, one in value.arguments.items()}
    return found


def _tagged(value: Any) -> Any:
    if isinstance(value, tuple):
        return {"tuple": [_tagged(one) for one in value]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **plain(value)}
    return plain(value)


def _untagged(value: Any, values: Mapping[str, type]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tuple"} and isinstance(value["tuple"], list):
            return tuple(_untagged(one, values) for one in value["tuple"])
        cls = values.get(str(value.get("type")))
        if cls is not None:
            return _dataclass(cls, {key: one for key, one in value.items() if key != "type"})
    return value


def plain_actions(actions: Iterable[Action]) -> list[dict[str, Any]]:
    """Actions as they look when they were written and read again, so that they compare."""
    found: list[dict[str, Any]] = json.loads(json.dumps([named(one) for one in actions]))
    return found


def read_event(found: Mapping[str, Any], values: Mapping[str, type] = types.MappingProxyType({})) -> events.Event:
    """The event of its JSON form; `values` are the dataclasses that may be arguments of a request, by name.

    JournalError says what is wrong with it.
    """
    name = found.get("type")
    cls = EVENTS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise JournalError(f"no event is called {name!r}")
    event: events.Event = _dataclass(cls, {key: value for key, value in found.items() if key != "type"})
    if isinstance(event, events.OperatorRequest):
        arguments = {name: _untagged(one, values) for name, one in event.arguments.items()}
        return dataclasses.replace(event, arguments=arguments)
    return event


def _dataclass(cls: type, found: Any) -> Any:
    if not isinstance(found, Mapping):
        raise JournalError(f"{cls.__name__}: expected an object, got {found!r}")
    hints = _hints(cls)
    if unknown := found.keys() - hints.keys():
        raise JournalError(f"{cls.__name__}: unknown {', '.join(sorted(unknown))}")
    try:
        return cls(**{name: _read(hints[name], value) for name, value in found.items()})
    except (TypeError, ValueError) as error:
        raise JournalError(f"{cls.__name__}: {error}") from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _read(hint: Any, value: Any) -> Any:
    """`value` as `hint` wants it; ValueError or TypeError when it is not so."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value)
    if origin is frozenset:
        return frozenset(_read(arguments[0], one) for one in value)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(_read(arguments[0], one) for one in value)
    if origin is tuple:
        return tuple(_read(one, part) for one, part in zip(arguments, value, strict=True))
    if hint is time:
        return time.fromisoformat(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value)  # type: ignore[arg-type]
    if hint is bytes:
        return bytes.fromhex(value)
    if hint in _ADDRESSES and isinstance(value, str):
        return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and not isinstance(value, hint):
        raise ValueError(f"expected {hint.__name__}, got {value!r}")
    return value


def _one_of(hints: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in hints:
        return None
    problems = []
    for hint in hints:
        if hint is not type(None):
            try:
                return _read(hint, value)
            except (TypeError, ValueError) as error:
                problems.append(str(error))
    raise ValueError("; ".join(problems))
