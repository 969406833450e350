"""What people may ask of a running mobile node at its control socket, besides its status: rules, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mip6.configfile import ConfigurationError
from mip6.system import log
from mip6.system.shell import Shell
from mobilenode import config
from mobilenode.config import Configuration
from mobilenode.engine import MobileNode
from mobilenode.settings import MobileNodeSettings

ANSWER_LIMIT = 5.0  # seconds that the home agent has to agree: three tries of a Binding Update
LONGEST_LIMIT = 60.0


class Operator:
    """Keeps the list of rules beside the engine: a list is taken over when the engine says that both ends have it."""

    def __init__(self, shell: Shell, engine: MobileNode, configuration: Configuration) -> None:
        self._shell, self._engine, self._rules = shell, engine, configuration.rules
        self._path = configuration.path
        self._running = configuration.settings
        shell.commands["flow"] = self._flow
        shell.commands["reload"] = self._reload

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

    async def _reload(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Read the configuration file again: its rules and policies take the place of those that are there, live ones
        too. What else differs needs a restart, and then nothing is changed."""
        try:
            new = config.read(self._path)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        # a zone that was read from /etc/localtime twice is equal by name only
        new_settings = dataclasses.replace(new.settings, flows=self._running.flows)
        if str(new.settings.zone) == str(self._running.zone):
            new_settings = dataclasses.replace(new_settings, zone=self._running.zone)
        fields = (one.name for one in dataclasses.fields(MobileNodeSettings))
        other = [name for name in fields if getattr(new_settings, name) != getattr(self._running, name)]
        if other:
            raise ValueError(
                f"{', '.join(other)}: changed, which needs a restart; only rules and policies are reloaded"
            )
        answer = await self._shell.ask("flows", {"rules": new.settings.flows, "limit": ANSWER_LIMIT})
        if answer.get("ok"):
            self._rules = new.rules
        return answer

    async def reload(self) -> None:
        """The same upon SIGHUP: the log has the outcome."""
        try:
            answer = await self._reload({})
        except ValueError as error:
            answer = {"ok": False, "error": str(error)}
        if answer.get("ok"):
            log.event("reloaded", file=self._path)
        else:
            log.event("not_reloaded", "error", file=self._path, why=answer.get("error"))

    def _listed(self) -> list[dict[str, Any]]:
        """The rules with what they come to now."""
        live = {one.name: one.live for one in self._rules.rules}
        return [{**one, "live": live.get(str(one["name"]), False)} for one in self._engine.rules()]


def _table(request: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = request.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected a table, got {value!r}")
    return value
