"""Names of events above a plot: readable, few or many."""

from __future__ import annotations

from labs.eventnames import EventNames


def test_events_far_from_each_other_stand_in_one_row() -> None:
    names = EventNames.of([(1.0, "WLAN cut"), (5.0, "WLAN back")], 10.0)
    assert names.rows == (0, 0) and not names.key


def test_the_line_of_an_event_crosses_no_name() -> None:
    """A name reaches to the right of its line, so an earlier neighbour stands higher."""
    names = EventNames.of([(1.0, "A is clean"), (1.01, "B is clean"), (9.0, "A is cut")], 10.0)
    assert names.rows == (1, 0, 0) and not names.key
    assert names.height > EventNames.of([(9.0, "A is cut")], 10.0).height


def test_many_events_have_numbers_and_one_key() -> None:
    names = EventNames.of([(0.5 * n, ("WLAN cut", "WLAN back")[n % 2]) for n in range(8)], 10.0)
    assert names.key == ("1, 3, 5, 7 WLAN cut   ·   2, 4, 6, 8 WLAN back",)


def test_nothing_happened() -> None:
    assert EventNames.of([], 10.0).rows == ()
