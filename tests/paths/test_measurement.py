"""What is measured is what happened: loss and delay of each direction, whatever networks, restarts and clocks do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mip6.measurement import Loss, Measurement, Reflection, between
from mip6.stamp import PTP_FORMAT, Reply
from tests.paths.support import End, Line, Way, World

SHARES = st.sampled_from([0.0, 0.02, 0.1, 0.3])
SECOND = 1 << 32


def settle(world: World) -> None:
    """Fair weather, so that the fate of every probe before is known."""
    for line in world.lines.values():
        for way in (line.out, line.back):
            way.loss = way.repetition = way.jitter = 0.0
            way.cut = False
    world.run(30)


def believed(world: World, end: End, bid: int = 1) -> tuple[int, int]:
    quality = end.paths.paths[bid].measurement.quality()
    return quality.probes_lost_out, quality.probes_lost_in


def really(end: End, bid: int = 1) -> tuple[int, int]:
    return end.counts[bid, "lost out"], end.counts[bid, "lost in"]


@given(st.integers(0, 10_000), SHARES, SHARES, SHARES, SHARES, st.sampled_from([0.0, 0.05, 0.35]))
@settings(max_examples=25, deadline=None)
def test_losses_are_counted_exactly_in_each_direction(
    seed: int, out: float, back: float, again_out: float, again_back: float, jitter: float
) -> None:
    """Jitter beyond the interval reorders."""
    world = World({1: Line(Way(0.02, jitter, out, again_out), Way(0.03, jitter, back, again_back)), 2: Line()}, seed)
    world.run(10)
    settle(world)
    for end in world.ends():
        assert believed(world, end) == really(end)


@given(st.integers(0, 10_000), st.lists(st.sampled_from(["home agent", "mobile node", "clock", "cut"]), max_size=4))
@example(8343, ["mobile node", "mobile node"])  # a probe of the process before is lost on its way back
@settings(max_examples=25, deadline=None)
def test_restarts_and_clocks_do_not_confuse_the_counts(seed: int, events: list[str]) -> None:
    world = World({1: Line(Way(0.02, 0.01, 0.05), Way(0.02, 0.01, 0.05)), 2: Line()}, seed)
    world.run(5)
    for event in events:
        match event:
            case "home agent":
                world.home_agent.alive = False
                world.run(0.7)
                world.restart(world.home_agent)
            case "mobile node":
                world.restart(world.mobile_node)
            case "clock":
                world.home_agent.clock += world.random.choice([-3600.0, -0.2, 0.3, 86400.0])
            case "cut":
                world.lines[1].cut()
                world.run(1)
                world.lines[1].cut(False)
        world.run(5)
    settle(world)
    believes, was = believed(world, world.mobile_node), really(world.mobile_node)
    assert sum(believes) == sum(was)
    # around a restart nobody knows whether a probe still arrived: at most what was under way then
    assert abs(believes[0] - was[0]) <= 2 * events.count("home agent")
    quality = world.path(1).measurement.quality()
    assert quality.rtt_last == pytest.approx(0.04, abs=0.002)
    assert quality.loss_out == quality.loss_in == 0, "the last ten seconds were fair"
    assert quality.variation_out is not None and quality.variation_out < 0.02


def test_the_recent_loss_is_that_of_each_direction() -> None:
    world = World({1: Line(Way(0.02, loss=0.2), Way(0.02)), 2: Line()}, 3)
    world.run(60)
    quality = world.path(1).measurement.quality()
    assert 0.1 < quality.loss_out < 0.3 and quality.loss_in == 0
    settle(world)
    quality = world.path(1).measurement.quality()
    assert quality.loss_out == 0 and quality.probes_lost_out > 50


def test_delay_and_variation_are_those_of_each_direction() -> None:
    world = World({1: Line(Way(0.04, 0.0), Way(0.01, 0.02))}, 3)
    world.run(60)
    quality = world.path(1).measurement.quality()
    assert quality.rtt == pytest.approx(0.06, abs=0.008)
    assert quality.rtt_minimum == pytest.approx(0.05, abs=0.002)
    assert quality.variation_out == pytest.approx(0, abs=1e-6)
    assert quality.variation_in == pytest.approx(0.02 / 3, rel=0.5)  # the mean difference of two uniform delays


def test_the_recent_minimum_forgets() -> None:
    world = World({1: Line(Way(0.01), Way(0.01))}, 3)
    world.run(20)
    world.lines[1].out.delay = 0.11
    world.run(20)
    assert world.path(1).measurement.quality().rtt_minimum == pytest.approx(0.12, abs=0.001)


# --- single answers --------------------


def reply(sequence: int, number: int, stamp: int, **how: int) -> Reply:
    received = how.get("received", stamp + 77 * SECOND)
    return Reply(number, how.get("left", received), how.get("estimate", 1), 5, received, sequence, stamp, 1, 64)


def timeout_after(*round_trips: float) -> float:
    """The time-out of a path whose probes were answered after these many seconds, one after the other."""
    measurement = Measurement()
    for sequence, seconds in enumerate(round_trips):
        stamp = sequence * SECOND + 1000
        measurement.probe(sequence, stamp, float(sequence))
        measurement.answer(reply(sequence, sequence, stamp), stamp + int(seconds * SECOND), sequence + seconds)
    return measurement.timeout()


def test_first_probes_that_waited_for_a_neighbour_do_not_lengthen_the_timeout() -> None:
    assert timeout_after(0.3, 0.2, 0.1, 0.004) < 0.03


def test_later_a_quick_answer_among_slow_ones_does_not_shorten_it() -> None:
    assert timeout_after(*[0.2, 0.3] * 10, 0.004) > 0.4


def test_an_answer_counts_once_and_only_to_its_own_probe() -> None:
    measurement = Measurement()
    measurement.probe(0, 1000, 0.0)
    assert measurement.answer(replace(reply(0, 0, 1000), sender_timestamp=1001), 2000, 0.1) is None, "forged"
    assert measurement.answer(reply(1, 0, 1000), 2000, 0.1) is None, "never sent"
    assert measurement.answer(reply(0, 0, 1000), 2000, 0.1) == 0.0
    assert measurement.answer(reply(0, 0, 1000), 2000, 0.2) is None
    assert measurement.answers == 1


def test_a_late_answer_makes_a_lost_probe_one_that_was_not() -> None:
    loss = Loss()
    loss.answered(0, 0, 1, 0.0, 0, 0.1)
    loss.answered(2, 2, 3, 0.2, 2, 0.3)
    assert loss.totals() == (3, 0, 1)
    loss.answered(1, 1, 2, 0.1, 9, 5.0)
    assert loss.totals() == (3, 0, 0)


def test_a_reflector_that_answers_repetitions_too_is_understood() -> None:
    """Another implementation: the probe came twice and was answered twice, with two numbers."""
    measurement = Measurement()
    for sequence in range(3):
        measurement.probe(sequence, sequence, sequence * 0.1)
    measurement.answer(reply(0, 0, 0), 1, 0.05)
    measurement.answer(reply(1, 1, 1), 1, 0.15)
    measurement.answer(reply(1, 2, 1), 1, 0.16)
    measurement.answer(reply(2, 3, 2), 1, 0.25)
    assert measurement.quality().probes_lost_out == measurement.quality().probes_lost_in == 0


def test_the_time_in_the_reflector_does_not_count() -> None:
    measurement = Measurement()
    measurement.probe(0, 0, 0.0)
    measurement.answer(reply(0, 0, 0, received=100 * SECOND, left=101 * SECOND), 3 * SECOND, 3.0)
    assert measurement.quality().rtt == 2.0
    measurement.probe(1, 0, 3.0)
    measurement.answer(reply(1, 1, 0, received=100 * SECOND, left=9 * SECOND), 3 * SECOND, 6.0)
    assert measurement.quality().rtt_last == 3.0, "its clock jumped in between: the whole is the best that is known"


def test_another_timestamp_format_is_understood() -> None:
    measurement = Measurement()
    measurement.probe(0, 0, 0.0)
    half = reply(0, 0, 0, received=9 << 32, left=9 << 32 | 500_000_000, estimate=PTP_FORMAT | 1)
    measurement.answer(half, SECOND, 1.0)
    assert measurement.quality().rtt == 0.5


@given(st.integers(0, (1 << 64) - 1), st.floats(-(2.0**30), 2.0**30))
def test_timestamps_may_wrap(start: int, seconds: float) -> None:
    later = start + round(seconds * SECOND) & (1 << 64) - 1
    assert between(later, start) == pytest.approx(seconds, abs=1e-9)


def test_the_reflector_answers_each_probe_once_and_counts_for_each_session() -> None:
    reflection = Reflection()
    assert [reflection.arrived(5, number) for number in (0, 1, 1, 3, 2, 0)] == [0, 1, None, 2, 3, None]
    assert reflection.arrived(6, 0) == 0, "the sender was restarted"
    assert reflection.arrived(5, 4) == 4, "one of the session before, overtaken"
    assert reflection.arrived(6, 1) == 1
    assert (reflection.answered, reflection.repeated) == (7, 2)


def test_a_sender_without_session_identifier_may_restart() -> None:
    reflection = Reflection()
    for number in range(2000):
        assert reflection.arrived(0, number) == number
    assert reflection.arrived(0, 0) == 0
    assert reflection.arrived(0, 1) == 1
