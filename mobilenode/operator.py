"""What people may ask of a running mobile node at its control socket, besides its status: rules, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mip6.system.shell import Shell
from mobilenode.engine import MobileNode
from mobilenode.liverules import LiveRules

ANSWER_LIMIT = 5.0  # seconds that the home agent has to agree: three tries of a Binding Update
LONGEST_LIMIT = 60.0


class Operator:
    """Keeps the list of rules beside the engine: a list is taken over when the engine says that both ends have it."""

    def __init__(self, shell: Shell, engine: MobileNode, rules: LiveRules) -> None:
        self._shell, self._engine, self._rules = shell, engine, rules
        shell.commands["flow"] = self._flow

    async def _flow(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """`{"command": "flow", "verb": "add" | "move" | "delete" | "list", ...}`; ValueError says what is wrong."""
        verb, name = request.get("verb"), str(request.get("name"))
        limit = request.get("limit", ANSWER_LIMIT)
        if type(limit) not in (int, float) or not 0 < limit <= LONGEST_LIMIT:
            raise ValueError(f"limit: expected seconds, more than 0 and at most {LONGEST_LIMIT:g}, got {limit!r}")
        match verb:
            case "list":
                return {"ok": True, "rules": self._listed()}
            case "add":
                before = request.get("before")
                changed = self._rules.add(_table(request, "rule"), None if before is None else str(before))
            case "move":
                changed = self._rules.move(name, _table(request, "way"))
            case "delete":
                changed = self._rules.delete(name)
            case _:
                raise ValueError(f'verb: expected one of "add", "move", "delete", "list", got {verb!r}')
        answer = await self._shell.ask("flows", {"rules": changed.flows(), "limit": float(limit)})
        if answer.get("ok"):
            self._rules = changed
        return {**answer, "rules": self._listed()}

    def _listed(self) -> list[dict[str, Any]]:
        """The rules with what they come to now."""
        live = {one.name: one.live for one in self._rules.rules}
        return [{**one, "live": live.get(str(one["name"]), False)} for one in self._engine.rules()]


def _table(request: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = request.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected a table, got {value!r}")
    return value
