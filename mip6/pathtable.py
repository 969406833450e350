"""The table [paths] of both configuration files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import model_validator

from mip6 import config, configfile
from mip6.configfile import Mistakes
from mip6.path import PathSettings

DEFAULT = PathSettings()


def seconds(low: float, high: float) -> config.Expected:
    """A time from `low` to `high` seconds."""

    def parse(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError
        return float(value)

    return config.Expected(f"seconds from {low:g} to {high:g}", parse)


class PathsTable(config.Table):
    """[paths]"""

    probe: config.Boolean = True
    interval: Annotated[float, seconds(0.02, 60)] = DEFAULT.interval
    idle_interval: Annotated[float, seconds(0.02, 3600)] = DEFAULT.idle_interval
    lost: Annotated[int, config.integer(2, 100)] = DEFAULT.lost
    hold: Annotated[float, seconds(0, 3600)] = DEFAULT.hold
    longest_hold: Annotated[float, seconds(0, 86400)] = DEFAULT.longest_hold

    @model_validator(mode="after")
    def _consistent(self) -> PathsTable:
        if self.idle_interval < self.interval:
            raise ValueError(f"expected idle_interval to be at least interval ({self.interval:g})")
        if self.longest_hold < self.hold:
            raise ValueError(f"expected longest_hold to be at least hold ({self.hold:g})")
        return self

    def settings(self) -> PathSettings:
        """What the engine takes."""
        return PathSettings(**self.model_dump())


def read_paths(mistakes: Mistakes, data: Mapping[str, Any]) -> PathSettings:
    """[paths] of the file, or what holds without it."""
    table = configfile.table(mistakes, data, "paths", PathsTable) if "paths" in data else PathsTable()
    return PathSettings() if table is None else table.settings()
