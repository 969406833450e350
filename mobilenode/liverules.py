"""The rules of a running mobile node: those of its file, and what was added, moved or deleted since.

Each verb makes a whole new list, checked like the file; the engine then agrees on it with the home agent or leaves all
as it was. Such changes last until the daemon restarts or reads its file again: the file is what the owner wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mip6 import configfile
from mip6.configfile import ConfigurationError, Mistakes
from mobilenode.rules import STEP, FlowTable, Layers
from mobilenode.settings import FlowSettings

WAYS = ("via", "copy", "share", "balance", "policy", "drop", "up", "down")


@dataclass(frozen=True)
class Rule:
    """One rule as it was written, with its name and numbers filled in. `live`: it is not the file's."""

    name: str
    written: Mapping[str, Any]
    table: FlowTable
    live: bool = False


@dataclass(frozen=True)
class LiveRules:
    """The list, and the layers that the rules name. Every method gives a new one; ValueError says what is wrong."""

    layers: Layers
    rules: tuple[Rule, ...]

    @classmethod
    def of_file(cls, layers: Layers, written: Sequence[Mapping[str, Any]], tables: Sequence[FlowTable]) -> LiveRules:
        """The rules of a file that was found right, as they were written and read."""
        rules = (
            _rule(name, {**one, "fid": fid, "priority": priority}, live=False)
            for one, (name, fid, priority) in zip(written, layers.numbers(tables), strict=True)
        )
        return cls(layers, tuple(rules))

    def flows(self) -> tuple[FlowSettings, ...]:
        """What the engine takes."""
        mistakes = Mistakes()
        found = self.layers.flows(mistakes, [(f"rule {one.name}", one.table) for one in self.rules])
        _refuse(mistakes)
        return found

    def add(self, written: Mapping[str, Any], before: str | None = None) -> LiveRules:
        """With one more rule: the last one, or in front of another."""
        name = written.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError("a rule needs a name")
        if any(one.name == name for one in self.rules):
            raise ValueError(f"there is a rule {name} already: move it or delete it first")
        table = _rule(name, written, live=True).table
        flows = self.flows()
        size = len(self.layers.selectors(table))
        numbers = {
            "fid": table.fid or _after(flow.fid for flow in flows),
            "priority": table.priority or _after(flow.priority for flow in flows),
        }
        if before is not None:
            if table.priority is not None:
                raise ValueError("expected either a priority or a rule to stand before")
            numbers["priority"] = self._room(before, size)
        return replace(self, rules=(*self.rules, _rule(name, {**written, **numbers}, live=True)))

    def move(self, name: str, way: Mapping[str, Any]) -> LiveRules:
        """With a rule going another way: `way` has the keys of a rule that say which links."""
        old = self._find(name)
        if not way or set(way) - {*WAYS, "last_resort", "stay"}:
            raise ValueError(f"expected one of {', '.join(WAYS)}")
        dropped = {*WAYS, *(("last_resort", "stay") if "policy" in way or "drop" in way else ())}
        written = {key: value for key, value in old.written.items() if key not in dropped}
        new = _rule(name, {**written, **way}, live=True)
        return replace(self, rules=tuple(new if one is old else one for one in self.rules))

    def delete(self, name: str) -> LiveRules:
        """Without a rule."""
        old = self._find(name)
        return replace(self, rules=tuple(one for one in self.rules if one is not old))

    def _find(self, name: str) -> Rule:
        for one in self.rules:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.rules) or "none"
        raise ValueError(f"there is no rule {name}; the rules are: {known}")

    def _room(self, before: str, size: int) -> int:
        """The first of `size` FID-PRIs that are free in front of a rule."""
        self._find(before)
        flows = self.flows()
        limit = min(flow.priority for flow in flows if flow.name == before)
        last = max((flow.priority for flow in flows if flow.priority < limit), default=0)
        if limit - last <= size:
            raise ValueError(f"there is no room before {before}: {limit - last - 1} priorities are free, not {size}")
        return limit - size


def _rule(name: str, written: Mapping[str, Any], *, live: bool) -> Rule:
    mistakes = Mistakes()
    tables = configfile.tables(mistakes, {"rule": [{**written, "name": name}]}, "rule", FlowTable)
    _refuse(mistakes)
    return Rule(name, {**written, "name": name}, tables[0][1], live)


def _refuse(mistakes: Mistakes) -> None:
    try:
        mistakes.finish()
    except ConfigurationError as error:
        raise ValueError("; ".join(one.replace("rule[0]", "rule") for one in error.mistakes)) from None


def _after(numbers: Iterable[int]) -> int:
    return (max(numbers, default=0) // STEP + 1) * STEP
