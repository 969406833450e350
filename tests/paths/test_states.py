"""When a path is up: detection, damping, and what the sisters of a path say about it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip6.path import PathState
from mip6.paths import best
from tests.paths.support import SETTINGS, Line, Way, World

U, D, R, S, N = PathState.UP, PathState.DOWN, PathState.RECOVERING, PathState.SILENT, PathState.UNMEASURED


def lines(count: int = 2, delay: float = 0.01) -> dict[int, Line]:
    return {bid: Line(Way(delay), Way(delay)) for bid in range(1, count + 1)}


def running(world: World, seconds: float = 5.0) -> World:
    world.run(seconds)
    assert set(world.states().values()) == {U}
    return world


@given(st.integers(0, 1000), st.floats(0, 0.2), st.floats(0.001, 0.03))
@settings(max_examples=60, deadline=None)
def test_a_silent_loss_is_detected_in_time_at_both_ends(seed: int, phase: float, delay: float) -> None:
    world = running(World(lines(delay=delay), seed))
    world.run(phase)
    cut = world.now
    world.lines[1].cut()
    world.run(1)
    # the home agent first misses the other's probes; mostly it hears of it sooner, by Binding Update
    limits = 0.3, max(0.34 + delay, 0.26 + 5 * delay)
    for end, limit in zip(world.ends(), limits, strict=True):
        ((after, bid, state),) = world.since(cut, end)
        assert (bid, state) == (1, D) and after < limit


def test_one_direction_lost_is_as_bad_as_both() -> None:
    for way in ("out", "back"):
        world = running(World(lines()))
        getattr(world.lines[1], way).cut = True
        world.run(0.3)
        assert world.states() == {1: D, 2: U}


def test_the_time_out_follows_the_round_trip_time() -> None:
    world = running(World({1: Line(Way(0.3, 0.02), Way(0.3, 0.02)), 2: Line()}), 60)
    assert not [one for one in world.since(5.0) if one[1] == 1], "600 ms are no reason to be down"
    cut = world.now
    world.lines[1].cut()
    world.run(2)
    ((after, bid, state),) = world.since(cut)
    assert (bid, state) == (1, D) and 0.5 < after < 1.2


def test_a_path_returns_after_the_hold_time_and_not_before() -> None:
    world = running(World(lines()))
    world.lines[1].cut()
    world.run(10)
    mended = world.now
    world.lines[1].cut(False)
    world.run(10)
    (first, _, recovering), (second, _, up) = world.since(mended)
    assert (recovering, up) == (R, U)
    assert first <= 1.1 and second - first == pytest.approx(3.0, abs=0.1)


def test_flapping_is_damped_up_to_the_longest_hold() -> None:
    world = running(World(lines(), settings=replace(SETTINGS, longest_hold=20)))
    holds = []
    for _ in range(6):
        world.lines[1].cut()
        world.run(2)
        mended = world.now
        world.lines[1].cut(False)
        world.run(22)
        (recovering, up) = [when for when, _, state in world.since(mended) if state in (R, U)]
        holds.append(round(up - recovering))
    assert holds[:4] == [3, 6, 12, 20] and max(holds) == 20
    world.run(25)  # up for longer than the longest hold time: forgiven
    world.lines[1].cut()
    world.run(2)
    world.lines[1].cut(False)
    mended = world.now
    world.run(22)
    (recovering, up) = [when for when, _, state in world.since(mended)]
    assert round(up - recovering) == 3


def test_a_path_that_fails_again_while_it_is_held_back_stays_down() -> None:
    world = running(World(lines()))
    for _ in range(10):
        world.lines[1].cut()
        world.run(1.5)
        world.lines[1].cut(False)
        world.run(1.5)
    states = [state for _, bid, state in world.since(5.0) if bid == 1]
    assert U not in states
    assert all(bid == 1 for _, bid, _ in world.since(5.0)), "the other path is left alone"


def test_a_silent_far_end_is_no_paths_fault() -> None:
    """The home agent restarts: all paths stay as good as they were, and serve at once when it is back."""
    world = running(World(lines(3)))
    world.home_agent.alive = False
    began = world.now
    world.run(5)
    assert set(world.states().values()) == {S}
    assert best({1, 2, 3}, world.states()) == {1, 2, 3}
    world.restart(world.home_agent)
    world.run(2)
    assert set(world.states().values()) == {U}
    assert not [one for one in world.since(began) if one[2] in (D, R)]


def test_a_path_that_died_with_the_far_end_is_down_when_the_others_are_back() -> None:
    world = running(World(lines(2)))
    world.home_agent.alive = False
    world.run(2)
    world.lines[1].cut()
    world.restart(world.home_agent)
    back = world.now
    world.run(2)
    assert world.states() == {1: D, 2: U}
    assert next(when for when, bid, state in world.since(back) if bid == 1 and state is D) < 1.6


def test_the_only_path_is_silent_and_never_down() -> None:
    world = running(World(lines(1)))
    world.lines[1].cut()
    world.run(5)
    assert world.states() == {1: S}


def test_a_far_end_without_reflector_is_unmeasured_for_ever() -> None:
    world = World(lines())
    world.home_agent.alive = False
    world.run(600)
    assert world.states() == {1: N, 2: N}
    before = world.mobile_node.counts[1, "probes"]
    world.run(100)
    assert world.mobile_node.counts[1, "probes"] - before <= 13, "it is asked rarely"


def test_a_new_path_that_never_answers_is_down_where_the_others_answer() -> None:
    """A hotspot before its login page: the link is up, registered over the other one, and carries nothing."""
    every = lines()
    every[1].cut()
    world = World(every)
    world.run(3)
    assert world.states() == {1: D, 2: U}


def test_all_paths_dead_but_one_by_one_leaves_the_last_one_in_use() -> None:
    world = running(World(lines(3)))
    for bid in (1, 2, 3):
        world.lines[bid].cut()
        world.run(1)
    assert world.states() == {1: D, 2: D, 3: S}
    assert best({1, 2, 3}, world.states()) == {3}


def test_the_first_of_dead_paths_to_answer_is_used_at_once() -> None:
    world = running(World(lines(2)))
    world.lines[1].cut()
    world.run(1)
    world.lines[2].cut()
    world.run(1)
    world.lines[1].cut(False)
    world.run(1.5)
    assert world.states()[1] is R
    world.lines[2].cut(False)
    world.run(10)
    assert world.states() == {1: U, 2: U}


@pytest.mark.parametrize("loss", [0.02, 0.05, 0.1])
def test_a_lossy_path_is_not_taken_for_dead(loss: float) -> None:
    """Loss both ways, for five minutes: chance takes it down at most once."""
    every = lines(2)
    every[1].out.loss = every[1].back.loss = loss
    world = World(every, seed=7)
    world.run(300)
    assert len([one for one in world.since(0) if one[1:] == (1, D)]) <= 1
    cut = world.now
    world.lines[1].cut()
    world.run(1)
    detected = next((when for when, bid, state in world.since(cut) if (bid, state) == (1, D)), None)
    assert world.states()[1] is D
    assert detected is None or detected < 0.6


@pytest.mark.parametrize("seed", [44, 121, 164, 247])
def test_a_young_path_that_has_lost_a_probe_is_not_taken_for_dead_by_the_next_three(seed: int) -> None:
    """Four seconds in which chance takes three in a row, before there are probes enough to know the path's loss."""
    every = lines(2)
    for line in every.values():
        line.out.loss = line.back.loss = 0.1
    world = World(every, seed=seed)
    world.run(4)
    assert not [one for one in world.since(0) if one[2] is D]


def test_carrier_that_flaps_is_held_back_like_a_path_that_fails() -> None:
    world = running(World(lines()))
    world.detach(1)
    world.run(1)
    world.attach(1)
    attached = world.now
    assert best({1, 2}, world.states()) == {2}, "not yet"
    world.run(5)
    (_, _, recovering), (when, _, up) = world.since(attached)
    assert (recovering, up) == (R, U) and when == pytest.approx(3.0, abs=0.2)


def test_after_the_last_path_is_gone_no_path_is_held_back() -> None:
    world = running(World(lines()))
    world.detach(1)
    world.run(1)
    world.detach(2)
    world.run(1)
    world.attach(2)
    world.attach(1)
    assert best({1, 2}, world.states()) == {1, 2}
    assert world.mobile_node.changes[-1][2] is N


@given(st.permutations([1, 2, 3]), st.lists(st.floats(0, 2), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_the_order_in_which_paths_come_up_makes_no_difference(order: list[int], waits: list[float]) -> None:
    world = World({})
    world.lines = lines(3)
    for bid, wait in zip(order, waits, strict=True):
        world.attach(bid)
        world.run(wait)
    world.run(3)
    assert world.states() == {1: U, 2: U, 3: U}
    assert best({1, 2, 3}, world.states()) == {1, 2, 3}


# --- how much is probed --------------------


def probes(world: World, seconds: float, bid: int = 1) -> tuple[int, int]:
    """What both ends send on a path in that time."""
    before = [end.counts[bid, "probes"] for end in world.ends()]
    world.run(seconds)
    mine, yours = (end.counts[bid, "probes"] - one for end, one in zip(world.ends(), before, strict=True))
    return mine, yours


def idle(world: World, *, needed: bool = False) -> None:
    for end in world.ends():
        for path in end.paths.paths.values():
            path.busy, path.needed = False, needed


def test_the_mobile_node_probes_and_the_home_agent_follows() -> None:
    mine, yours = probes(running(World(lines())), 100)
    assert 1000 <= mine <= 1250
    assert 100 <= yours <= 125


def test_an_idle_path_is_probed_slowly_and_by_the_mobile_node_alone() -> None:
    world = running(World(lines()))
    idle(world)
    mine, yours = probes(world, 100)
    assert 100 <= mine <= 126
    assert yours == 0


def test_an_idle_metered_path_is_left_alone_unless_it_is_needed() -> None:
    world = running(World(lines(), settings=replace(SETTINGS, metered=True)))
    idle(world)
    assert probes(world, 100) == (0, 0)
    idle(world, needed=True)
    assert 100 <= probes(world, 100)[0] <= 126
    world.mobile_node.paths.paths[1].busy = True
    assert probes(world, 10)[0] >= 100


def test_nothing_is_probed_where_that_is_off() -> None:
    world = World(lines(), settings=replace(SETTINGS, probe=False))
    assert probes(world, 10) == (0, 0)
    assert world.states() == {1: N, 2: N}


def test_a_path_that_only_receives_is_not_probed_and_not_judged() -> None:
    world = running(World(lines()))
    world.mobile_node.paths.sendable(1, False)
    assert probes(world, 10)[0] == 0
    assert world.states() == {1: U, 2: U}


def test_a_failing_path_asks_its_idle_sister() -> None:
    """The home agent restarts while one path carries traffic and the other is idle: neither is taken for dead."""
    for seed in range(20):
        world = running(World(lines(), seed))
        for end in world.ends():
            end.paths.paths[2].busy = False
        world.run(2.5)
        world.home_agent.alive = False
        began = world.now
        world.run(2)
        assert not [one for one in world.since(began) if one[2] is D], f"seed {seed}"


@pytest.mark.parametrize("cut", [False, True])
def test_a_path_that_the_node_does_not_probe_is_dead_at_neither_end(cut: bool) -> None:
    """Traffic flows on it, and its sister is answered: nobody may conclude anything."""
    world = World(lines())
    world.mobile_node.paths.attach(2, replace(SETTINGS, probe=False), world.now, new=False)
    if cut:
        world.lines[2].cut()
    world.lines[1].out.loss = 0.1  # the sister has troubles of its own, and asks
    world.run(120)
    for end in world.ends():
        assert world.states(end)[2] is N and not [one for one in end.changes if one[1] == 2]
        assert end.counts[2, "probes"] == 0


def test_the_home_agent_keeps_to_the_pace_of_the_node() -> None:
    world = World(lines())
    slow = replace(SETTINGS, interval=2.0, idle_interval=2.0)
    world.mobile_node.paths.attach(2, slow, world.now, new=False)
    world.run(200)
    assert world.states() == world.states(world.home_agent) == {1: U, 2: U}
    assert 100 <= world.mobile_node.counts[2, "probes"] <= 130
    assert world.home_agent.counts[2, "probes"] <= 250  # one in an idle interval, not ten a second
    cut = world.now
    world.lines[2].cut()
    world.run(10)
    for end in world.ends():
        ((after, bid, state),) = world.since(cut, end)
        assert (bid, state) == (2, D) and after < 7
