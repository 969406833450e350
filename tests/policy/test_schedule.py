"""Schedules and months in Berlin, where 2027 the clocks go forward on 28 March and back on 31 October."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mip6.schedule import Schedule, month_start, next_month

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Schedule(time(22), time(6))
HOUR = 3600.0


def at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("2027-01-05 21:59:59", False),
        ("2027-01-05 22:00", True),
        ("2027-01-06 05:59:59", True),
        ("2027-01-06 06:00", False),
    ],
)
def test_a_night_begins_and_ends_to_the_second(when: str, holds: bool) -> None:
    assert NIGHT.holds(at(when), BERLIN) is holds


def test_days_are_those_on_which_it_starts() -> None:
    weekend = Schedule(time(22), time(6), frozenset((5,)))  # Saturday
    assert weekend.holds(at("2027-01-09 23:00"), BERLIN) and weekend.holds(at("2027-01-10 05:00"), BERLIN)
    assert not weekend.holds(at("2027-01-09 05:00"), BERLIN) and not weekend.holds(at("2027-01-10 23:00"), BERLIN)
    assert weekend.next_change(at("2027-01-10 06:00"), BERLIN) == at("2027-01-16 22:00")


@pytest.mark.parametrize(("evening", "hours"), [("2027-03-26", 8), ("2027-03-27", 7), ("2027-10-30", 9)])
def test_a_night_is_as_long_as_the_clocks_make_it(evening: str, hours: int) -> None:
    begins = at(f"{evening} 22:00")
    ends = NIGHT.next_change(begins, BERLIN)
    assert ends == begins + hours * HOUR


def test_an_hour_that_does_not_exist_is_the_one_after_it() -> None:
    gap = Schedule(time(2, 15), time(2, 45))
    assert gap.next_change(at("2027-03-28 01:00"), BERLIN) == at("2027-03-28 03:15")
    assert gap.holds(at("2027-03-28 03:30"), BERLIN) and not gap.holds(at("2027-03-28 03:45"), BERLIN)


def test_an_hour_that_comes_twice_counts_the_first_time() -> None:
    twice = Schedule(time(2, 15), time(2, 45))
    assert twice.holds(at("2027-10-31 02:30"), BERLIN) and not twice.holds(at("2027-10-31 02:30", fold=1), BERLIN)


def test_every_day_around_the_clock_never_changes() -> None:
    assert Schedule().holds(0, BERLIN) and Schedule().next_change(0, BERLIN) is None
    monday = Schedule(days=frozenset((0,)))
    assert monday.next_change(at("2027-01-04 12:00"), BERLIN) == at("2027-01-05 00:00")


TIMES = st.builds(time, st.integers(0, 23), st.integers(0, 59))
SCHEDULES = st.builds(Schedule, TIMES, TIMES, st.frozensets(st.integers(0, 6)))
YEAR = st.floats(at("2027-01-01 00:00"), at("2028-01-01 00:00"))


@given(SCHEDULES, YEAR)
def test_nothing_changes_before_the_next_change(schedule: Schedule, wall: float) -> None:
    change = schedule.next_change(wall, BERLIN)
    until = wall + 7 * 24 * HOUR if change is None else change
    holds = schedule.holds(wall, BERLIN)
    moments = [one for part in range(50) if (one := wall + (until - wall) * part / 50) < until]
    assert all(schedule.holds(one, BERLIN) is holds for one in moments)
    if change is not None:
        assert change > wall and schedule.holds(change, BERLIN) is not holds


@given(YEAR, st.integers(1, 28))
def test_months_follow_each_other(wall: float, day: int) -> None:
    start, end = month_start(wall, day, BERLIN), next_month(wall, day, BERLIN)
    assert start <= wall < end and month_start(end, day, BERLIN) == end
    assert month_start(start, day, BERLIN) == start and month_start(end - 1, day, BERLIN) == start
    begins = datetime.fromtimestamp(start, BERLIN)
    assert (begins.day, begins.time()) == (day, time(0)) and end - start < timedelta(days=32).total_seconds()


def test_utc_is_a_zone_as_well() -> None:
    assert NIGHT.holds(datetime(2027, 1, 5, 23, tzinfo=UTC).timestamp(), UTC)
