"""Configuration files: TOML in, every mistake out, each with file, key and what was expected.

Tables are validated one by one, so that a mistake in one hides none in another; what concerns several tables is
checked by the caller on those that are right. Array tables count from 0: `link[1].bid` stands in the second [[link]].
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from mip6.config import Expected, Table, shown


class ConfigurationError(Exception):
    """The file cannot be used; `mistakes` has one line for each thing that is wrong with it."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class Mistakes:
    """The mistakes found so far in one file, or (None) in what came otherwise."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.found: list[str] = []

    def add(self, key: str, text: str) -> None:
        """`text` says what is wrong with `key` and what was expected."""
        self.found.append(f"{key}: {text}" if self.file is None else f"{self.file}: {key}: {text}")

    def unique(self, values: Iterable[tuple[str, object]]) -> None:
        """Every value, given with its key, may stand only once."""
        first: dict[object, str] = {}
        for key, value in values:
            if value in first:
                self.add(key, f"expected a value of its own, but {value} is taken by {first[value]}")
            else:
                first[value] = key

    def finish(self) -> None:
        """ConfigurationError when there were any."""
        if self.found:
            raise ConfigurationError(self.found)


def read_toml(path: Path) -> dict[str, Any]:
    """The file as nested dicts; ConfigurationError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: octet {error.start}: expected text in UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{path}: expected TOML: {error}"]) from None


SomeTable = TypeVar("SomeTable", bound=Table)


def check_names(mistakes: Mistakes, data: Mapping[str, Any], known: Iterable[str]) -> None:
    """The tables at the top of the file."""
    for name in data:
        if name not in known:
            mistakes.add(name, _unknown(name, known))


def table(mistakes: Mistakes, data: Mapping[str, Any], name: str, model: type[SomeTable]) -> SomeTable | None:
    """The table [name] that must be there; None if it has mistakes."""
    if name not in data:
        mistakes.add(name, f"missing; expected a table [{name}]")
        return None
    return _validate(mistakes, data[name], name, model)


def tables(
    mistakes: Mistakes, data: Mapping[str, Any], name: str, model: type[SomeTable]
) -> list[tuple[str, SomeTable]]:
    """Those of the array tables [[name]] that are right, each with its key."""
    entries = data.get(name, [])
    if not isinstance(entries, list):
        mistakes.add(name, f"expected [[{name}]], got {shown(entries)}")
        return []
    read = ((key := f"{name}[{index}]", _validate(mistakes, one, key, model)) for index, one in enumerate(entries))
    return [(key, one) for key, one in read if one is not None]


def _validate(mistakes: Mistakes, value: Any, name: str, model: type[SomeTable]) -> SomeTable | None:
    try:
        return model.model_validate(value, context={"directory": (mistakes.file or Path()).parent})
    except ValidationError as error:
        for one in error.errors(include_url=False):
            key = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"])
            mistakes.add(key, _message(one, model))
        return None


def _message(error: Any, model: type[Table]) -> str:
    """One error of pydantic in our words. Never the value of a key: only `Expected` shows values."""
    owner, metadata = _declaration(model, error["loc"])
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "extra_forbidden":
            return _unknown(str(error["loc"][-1]), owner.model_fields)
        case "missing":
            wanted = next((f": expected {one.text}" for one in metadata if isinstance(one, Expected)), "")
            return f"missing{wanted}"
        case "list_type":
            return "expected a list"
        case "model_type":
            return "expected a table"
    return str(error["msg"])


def _declaration(model: type[Table], location: tuple[int | str, ...]) -> tuple[type[Table], list[Any]]:
    """The table in which the last name of `location` stands, and what is declared for it."""
    metadata: list[Any] = []
    names = [part for part in location if isinstance(part, str)]
    for depth, name in enumerate(names):
        if name not in model.model_fields:
            break
        metadata = model.model_fields[name].metadata
        inner = _table_in(model.model_fields[name].annotation)
        if inner is None or depth == len(names) - 1:
            break
        model = inner
    return model, metadata


def _table_in(annotation: Any) -> type[Table] | None:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next((found for part in get_args(annotation) if (found := _table_in(part))), None)


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; known are {', '.join(sorted(known))}"
