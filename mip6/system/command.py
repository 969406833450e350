"""The command line that both daemons have: `--config FILE` and `--check`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from mip6.configfile import ConfigurationError
from mip6.system import log
from mip6.system.control import ControlError
from mip6.system.sockets import GuardError


class Settings(Protocol):
    """What both ends' settings have for the log."""

    @property
    def log(self) -> str: ...
    @property
    def log_format(self) -> str: ...


class UnusableError(Exception):
    """The machine lacks something the daemon cannot do without; the text names it."""


SomeSettings = TypeVar("SomeSettings", bound=Settings)


def main_of(
    name: str,
    description: str,
    load: Callable[[Path], SomeSettings],
    run: Callable[[SomeSettings], Awaitable[None]],
) -> int:
    """Read the arguments and the file, then run; the exit status."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="configuration file (TOML)")
    parser.add_argument("--check", action="store_true", help="only say whether the file is right")
    arguments = parser.parse_args()
    try:
        settings = load(arguments.config)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.check:
        print(f"{arguments.config}: ok")
        return 0
    log.configure(settings.log, settings.log_format)

    async def life() -> None:
        await run(settings)

    try:
        asyncio.run(life())
    except (ControlError, GuardError, UnusableError, PermissionError) as error:
        log.event("cannot_run", "error", problem=str(error))
        return 1
    return 0
