"""Frozen values that are cheap to make.

The `__init__` of a frozen dataclass sets each field by `object.__setattr__`, which looks the name up first; the one
that `value` generates sets it by its slot, in half the time. All else is the dataclass's.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make a frozen dataclass with slots of `cls`; of `field`, it knows `default` and what does not concern making."""
    made: Any = dataclass(frozen=True, slots=True)(cls)
    scope: dict[str, Any] = {}
    parameters, lines = ["self"], []
    for one in fields(made):
        if not one.init or one.kw_only or one.default_factory is not MISSING:
            raise TypeError(f"{made.__name__}.{one.name}: a value has no such field")
        scope[f"set_{one.name}"], scope[f"default_{one.name}"] = made.__dict__[one.name].__set__, one.default
        parameters.append(one.name if one.default is MISSING else f"{one.name}=default_{one.name}")
        lines.append(f"set_{one.name}(self, {one.name})")
    if hasattr(made, "__post_init__"):
        lines.append("self.__post_init__()")
    text = f"def __init__({', '.join(parameters)}):\n    " + "\n    ".join(lines or ["pass"])
    exec(compile(text, f"<making of {made.__name__}>", "exec"), scope)
    scope["__init__"].__annotations__ = made.__init__.__annotations__
    scope["__init__"].__qualname__ = made.__init__.__qualname__
    made.__init__ = scope["__init__"]
    return made  # type: ignore[no-any-return]
