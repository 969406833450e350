"""Monthly volumes of metered links: how much each has carried since its month began, and which are used up. Pure.

What counts is what the kernel counted on the link, both ways, the traffic outside the tunnels included. The counts are
kept over restarts; what passed while no agent ran is counted as far as the kernel still knows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import tzinfo

from mip6.schedule import month_start, next_month
from mobilenode.settings import LinkSettings

EARLIEST = 1735689600.0  # 2025: a time of day before that is of a machine whose clock was not set yet
TRUSTED_AFTER = 900.0  # seconds without a jump; where there is an uplink, NTP has set the clock long before
LONGEST_STEP = 60.0  # seconds between two looks; links are counted more often


@dataclass(frozen=True, slots=True)
class Volume:
    """One link's month: since when (seconds since 1970), octets carried, and the kernel's count when last looked at."""

    begun: float
    used: int
    counter: int


class Volumes:
    """The links that have a volume."""

    def __init__(self, links: Iterable[LinkSettings], zone: tzinfo) -> None:
        self._links = {link.name: link for link in links if link.volume is not None}
        self._zone = zone
        self.found: dict[str, Volume] = {}
        self._wall = 0.0  # when last looked at
        self._running = 0.0  # seconds that the time of day has gone on without a jump

    def restore(self, volumes: Mapping[str, Volume]) -> None:
        """What was kept of an earlier run."""
        self.found = {name: one for name, one in volumes.items() if name in self._links}

    def count(self, counters: Mapping[str, int], wall: float) -> None:
        """The kernel's counts now. One that is lower than before began anew, with the link."""
        for name, counter in counters.items():
            if name not in self._links:
                continue
            before = self.found.get(name)
            if before is None:
                self.found[name] = Volume(self._begins(name, wall), 0, counter)
                continue
            carried = counter - before.counter if counter >= before.counter else counter
            self.found[name] = Volume(before.begun, before.used + carried, counter)
        self.turn(wall)

    def turn(self, wall: float) -> None:
        """Begin new months. A clock that was set back ends none; when it has gone on so for a while, and was not merely
        never set, it was wrong before: a month that it puts into the future has then begun with the present one."""
        step, self._wall = wall - self._wall, wall
        self._running = self._running + step if 0 <= step <= LONGEST_STEP else 0.0
        trusted = self._running >= TRUSTED_AFTER and wall - self._running >= EARLIEST
        for name, one in self.found.items():
            begins = self._begins(name, wall)
            if begins > one.begun:
                self.found[name] = Volume(begins, 0, one.counter)
            elif begins < one.begun and trusted:
                self.found[name] = replace(one, begun=begins)

    def spent(self) -> frozenset[str]:
        """The links whose volume is used up."""
        return frozenset(name for name, one in self.found.items() if one.used >= (self._links[name].volume or 0))

    def next_change(self, wall: float) -> float | None:
        """When the next month of a link that is used up begins, seconds since 1970."""
        return min((next_month(wall, self._links[name].volume_day, self._zone) for name in self.spent()), default=None)

    def _begins(self, name: str, wall: float) -> float:
        return month_start(wall, self._links[name].volume_day, self._zone)
