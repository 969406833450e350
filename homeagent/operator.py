"""What people may ask of a running home agent at its control socket, besides status and revocation: to read its file
again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from homeagent import config
from homeagent.engine import HomeAgent
from homeagent.reload import needs_restart
from homeagent.settings import HomeAgentSettings
from mip6.actions import Action
from mip6.configfile import ConfigurationError
from mip6.system import log
from mip6.system.clock import clock
from mip6.system.shell import Shell


class Operator:
    """`changed` is told of settings that hold from now on."""

    def __init__(
        self, shell: Shell, engine: HomeAgent, path: Path, changed: Callable[[HomeAgentSettings], None]
    ) -> None:
        self._shell, self._engine, self._path, self._changed = shell, engine, path, changed
        shell.commands["reload"] = self._reload

    async def _reload(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Read the configuration file again; ValueError says why nothing was changed."""
        try:
            new = config.load(self._path)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        old = self._engine.settings
        if old.record is not None:
            raise ValueError("a run is being recorded (record), and could not be replayed: that needs a restart")
        if other := needs_restart(old, new):
            raise ValueError(f"{', '.join(other)}: changed, which needs a restart")
        before = {one.home_address: one for one in old.nodes}
        after = {one.home_address: one for one in new.nodes}
        actions: list[Action] = self._engine.reconfigure(new, clock())
        self._changed(new)
        self._shell.perform(actions)
        counts = {
            "new": len(after.keys() - before.keys()),
            "gone": len(before.keys() - after.keys()),
            "changed": sum(after[home] != before[home] for home in after.keys() & before.keys()),
        }
        told = ", ".join(f"{count} nodes {word}" for word, count in counts.items() if count) or "no node differs"
        log.event("reloaded", file=self._path, nodes=told)
        return {"ok": True, "done": f"the file holds: {told}"}

    async def reload(self) -> None:
        """The same upon SIGHUP: the log has the outcome."""
        try:
            await self._reload({})
        except ValueError as error:
            log.event("not_reloaded", "error", file=self._path, why=str(error))
