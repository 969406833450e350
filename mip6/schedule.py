"""When a rule holds: from one time of day to another on some days of the week. Pure: the zone comes in as data.

Everything is decided on instants, never on the local clock's face, so a day of 23 or 25 hours needs no case of its own:
a local time that a change to summer time skips becomes the instant as far behind the change as it lies in the gap, one
that occurs twice is its first occurrence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY = frozenset(range(7))
MIDNIGHT = time(0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """From `start` to `end`, local time; an `end` that is not later than `start` is on the next day.

    `days` are those on which it starts, Monday is 0.
    """

    start: time = MIDNIGHT
    end: time = MIDNIGHT
    days: frozenset[int] = EVERY_DAY

    def holds(self, wall: float, zone: tzinfo) -> bool:
        """Whether it holds at `wall`, seconds since 1970."""
        return any(start <= wall < end for start, end in self._around(wall, zone, 1))

    def next_change(self, wall: float, zone: tzinfo) -> float | None:
        """When it starts or ends next, seconds since 1970; None if never."""
        changes = [one for span in self._around(wall, zone, 8) if span[0] < span[1] for one in span if one > wall]
        return min((one for one in changes if self.holds(one, zone) != self.holds(wall, zone)), default=None)

    def describe(self) -> str:
        """For people: `22:00 to 06:00 on sat, sun`."""
        days = "" if self.days == EVERY_DAY else " on " + ", ".join(DAYS[day] for day in sorted(self.days))
        if self.start == self.end:
            return f"the whole day{days}"
        return f"{self.start:%H:%M} to {self.end:%H:%M}{days}"

    def _around(self, wall: float, zone: tzinfo, ahead: int) -> Iterator[tuple[float, float]]:
        """The spans that start from the day before `wall` to `ahead` days after it."""
        today = datetime.fromtimestamp(wall, zone).date()
        for offset in range(-1, ahead + 1):
            day = today + timedelta(days=offset)
            if day.weekday() in self.days:
                last = day if self.end > self.start else day + timedelta(days=1)
                yield _instant(day, self.start, zone), _instant(last, self.end, zone)


def _instant(day: date, at: time, zone: tzinfo) -> float:
    return datetime.combine(day, at, zone).timestamp()


def month_start(wall: float, day: int, zone: tzinfo) -> float:
    """When the month of a metered link began that `wall` lies in: midnight of its `day`, 1 to 28."""
    today = datetime.fromtimestamp(wall, zone).date()
    first = today.replace(day=day)
    if _instant(first, MIDNIGHT, zone) > wall:
        first = (first.replace(day=1) - timedelta(days=1)).replace(day=day)
    return _instant(first, MIDNIGHT, zone)


def next_month(wall: float, day: int, zone: tzinfo) -> float:
    """When the month after the one of `month_start` begins."""
    begun = datetime.fromtimestamp(month_start(wall, day, zone), zone).date()
    return _instant((begun.replace(day=1) + timedelta(days=32)).replace(day=day), MIDNIGHT, zone)
