"""What a mobile node does when its probes say that a path is down: its own table at once, then a Binding Update."""

from __future__ import annotations

from dataclasses import replace

from mip6.actions import ForwardingChanged
from mip6.events import PathChanged
from mip6.flowextension import DEFAULT_ENTERPRISE, flow_extensions
from mip6.options import BindingIdentifier
from mip6.path import PathSettings, PathState
from mip6.probeflows import is_probe_rule, probe_rules
from mip6.selectors import IPv6Selector
from mobilenode.registration import LOWEST_PRIORITY
from mobilenode.settings import FlowSettings, copy, via
from tests.mobilenode.support import AGENT, BOTH, CELL, HOME, SETTINGS, WLAN, Sent, World, registered, with_flows

VOICE = FlowSettings(10, 10, "voice", IPv6Selector(next_header=(17, 17)), via("wwan0", "wlan0"))
VIDEO = FlowSettings(20, 20, "video", IPv6Selector(next_header=(6, 6)), via("wlan0"))
NATIVE = tuple(replace(one, encapsulation="native") for one in SETTINGS.links)  # no other way is to be tried
MEASURED = replace(with_flows(VOICE, VIDEO), links=NATIVE, paths=PathSettings())
CELLULAR = 2


def is_now(world: World, state: PathState, bid: int = 1) -> list[object]:
    return [type(one) for one in world.give(PathChanged(HOME, bid, state))]


def flows(world: World) -> dict[int, tuple[int, ...]]:
    return {rule.fid: rule.bids for rule in world.node().rules if not is_probe_rule(rule)}


def priorities(sent: Sent) -> dict[int, int]:
    return {one.bid: one.priority for one in sent.update.find_all(BindingIdentifier)}


def order(world: World) -> list[int]:
    return [tunnel.bid for tunnel in world.node().tunnels]


def test_flows_leave_a_path_that_is_down_in_the_same_turn() -> None:
    world = registered(MEASURED)
    assert (order(world), flows(world)) == ([1, 2], {10: (2,), 20: (1,)})
    assert ForwardingChanged in is_now(world, PathState.DOWN)
    assert (order(world), flows(world)) == ([2, 1], {10: (2,), 20: ()})
    assert world.usable() == [2, 1], "its probes go on"


def test_the_home_agent_is_told_by_a_path_that_works() -> None:
    world = registered(MEASURED)
    is_now(world, PathState.DOWN)
    update = world.sent[-1]
    assert update.interface == "wwan0"
    assert update.bids() == {1: WLAN, 2: CELL}, "the binding stays"
    assert priorities(update) == {1: LOWEST_PRIORITY, 2: 20}
    assert update.flows() == {} and update.summary() == (10,), "the flow that has no other link ends there"
    world.answer()
    before = len(world.sent)
    is_now(world, PathState.RECOVERING)
    assert len(world.sent) == before, "held back"
    is_now(world, PathState.UP)
    assert priorities(world.sent[-1]) == {1: 10, 2: 20}
    assert world.sent[-1].flows() == {20: (1,)}
    world.answer()
    assert flows(world) == {10: (2,), 20: (1,)}


def test_when_all_paths_are_down_nothing_moves() -> None:
    world = registered(MEASURED)
    before, sent = world.node(), len(world.sent)
    is_now(world, PathState.SILENT)
    is_now(world, PathState.SILENT, CELLULAR)
    assert world.node() == before and len(world.sent) == sent
    is_now(world, PathState.DOWN)
    is_now(world, PathState.DOWN, CELLULAR)
    world.answer()
    assert flows(world) == flows(registered(MEASURED))


def test_probes_are_nailed_to_their_tunnels_and_only_where_paths_are_measured() -> None:
    rules = registered(MEASURED).node().rules
    assert rules[:4] == probe_rules(HOME, AGENT, (1, 2))
    assert not [rule for rule in registered(SETTINGS).node().rules if is_probe_rule(rule)]
    assert probe_rules(HOME, AGENT, (5000,)) == (), "its port would be beyond the last one"


def test_a_link_that_returns_while_its_path_is_held_back_takes_no_flows() -> None:
    world = registered(MEASURED)
    world.links(BOTH[1])
    world.answer()
    is_now(world, PathState.DOWN)
    world.links(*BOTH)
    world.answer()
    world.run(1)
    assert (order(world), flows(world)[20]) == ([2, 1], ())
    is_now(world, PathState.UP)
    assert flows(world)[20] == (1,)


def test_a_link_that_comes_later_takes_flows_when_a_probe_has_got_through_it() -> None:
    """A login page lets an address and a router advertisement through, and nothing else."""
    world = registered(MEASURED)
    is_now(world, PathState.UP, CELLULAR)
    world.links(BOTH[1])
    world.answer()
    is_now(world, PathState.UNMEASURED)  # it was away for so long that nothing is remembered
    world.links(*BOTH)
    assert priorities(world.sent[-1]) == {1: LOWEST_PRIORITY, 2: 20} and world.sent[-1].flows() == {}
    world.answer()
    assert (order(world), flows(world)[20], world.usable()) == ([2, 1], (), [2, 1])
    answer = world.engine.explain({"source": str(HOME), "destination": "2001:db8:c::2", "protocol": "esp"})
    assert [one["why"] for one in answer["bindings"] if one["bid"] == 1] == ["no probe has got through it yet"]
    is_now(world, PathState.UP)
    assert priorities(world.sent[-1]) == {1: 10, 2: 20} and world.sent[-1].flows() == {20: (1,)}
    world.answer()
    assert (order(world), flows(world)[20]) == ([1, 2], (1,))


def test_a_link_that_comes_later_is_used_at_once_when_no_other_answers_or_it_is_not_probed() -> None:
    for probe, other in ((True, PathState.UNMEASURED), (True, PathState.SILENT), (False, PathState.UP)):
        links = tuple(replace(one, probe=one.name == "wwan0" or probe) for one in NATIVE)
        world = registered(replace(MEASURED, links=links))
        is_now(world, other, CELLULAR)
        world.links(BOTH[1])
        world.answer()
        world.links(*BOTH)
        world.answer()
        assert (order(world), flows(world)[20]) == ([1, 2], (1,)), (probe, other)


def test_a_link_that_waits_for_its_first_answer_is_used_when_the_other_fails() -> None:
    world = registered(MEASURED)
    is_now(world, PathState.UP, CELLULAR)
    world.links(BOTH[1])
    world.answer()
    world.links(*BOTH)
    world.answer()
    assert order(world) == [2, 1]
    is_now(world, PathState.DOWN, CELLULAR)
    assert order(world) == [1, 2]


def test_a_flow_that_is_copied_is_said_to_be_while_one_link_is_left() -> None:
    """The other is copied to before the home agent knows: it eliminates duplicates all the time."""
    world = registered(replace(MEASURED, flows=(FlowSettings(30, 30, "call", IPv6Selector(), copy("wlan0", "wwan0")),)))
    is_now(world, PathState.DOWN)
    said = flow_extensions(world.sent[-1].update.options, DEFAULT_ENTERPRISE)
    assert world.sent[-1].flows() == {30: (2,)} and said[30].copied
