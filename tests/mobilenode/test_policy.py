"""Where a mobile node's flows go: orders of preference, shares, copies, directions, last resorts; both ends' view."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mip6.flowextension import DEFAULT_ENTERPRISE, FlowExtension, encode_applied, flow_extensions
from mip6.selectors import IPv6Selector
from mobilenode.policy import Picked, pick
from mobilenode.settings import Choice, FlowSettings, LastResort, Member, copy, share, via
from tests.mobilenode.support import BOTH, CELL, SETTINGS, WLAN, World, registered, with_flows

VIDEO = FlowSettings(10, 10, "video", IPv6Selector(next_header=(17, 17)), share(wlan0=3, wwan0=1))


@pytest.mark.parametrize(
    ("choice", "bids", "picked"),
    [
        (via("a", "b"), {"a": 1, "b": 2}, Picked((1,))),
        (via("a", "b"), {"b": 2}, Picked((2,))),
        (via("a"), {"b": 2}, Picked()),
        (copy("a", "b"), {"a": 1, "b": 2}, Picked((1, 2))),
        (share(a=3, b=1), {"a": 1, "b": 2}, Picked((1, 2), (3, 1), lead=1)),
        (share(a=3, b=1), {"b": 2}, Picked((2,))),
        (Choice(((Member("a"),), (Member("b", 2), Member("c", 5)))), {"b": 2, "c": 3}, Picked((2, 3), (2, 5), lead=3)),
        (Choice(((Member("a"),),), last_resort=LastResort.DROP), {"b": 2}, Picked(drop=True)),
        (Choice(last_resort=LastResort.DROP), {"a": 1}, Picked(drop=True)),
        (replace(via("a", "b"), stay=True), {"a": 1, "b": 2}, Picked((1, 2), (1, 0), lead=1)),
        (replace(via("a", "b"), stay=True), {"b": 2}, Picked((2,), (1,), lead=2)),
        (replace(via("a"), stay=True), {}, Picked()),
    ],
)
def test_the_first_tier_with_a_working_link(choice: Choice, bids: dict[str, int], picked: Picked) -> None:
    assert pick(choice, bids) == picked


def test_a_shared_flow_names_one_bid_and_the_extension_the_rest() -> None:
    world = registered(with_flows(VIDEO))
    assert world.sent[0].flows() == {10: (1,)}  # the larger weight, for a home agent without the extension
    extensions = flow_extensions(world.sent[0].update.options, DEFAULT_ENTERPRISE)
    assert extensions == {10: FlowExtension(10, ((1, 3), (2, 1)))}
    [rule] = world.node().rules
    assert (rule.bids, rule.weights) == ((1, 2), (3, 1))


@pytest.mark.parametrize("knows", [True, False])
def test_a_home_agent_that_does_not_share_is_told_in_the_log(knows: bool) -> None:
    world = World(with_flows(VIDEO))
    world.links(*BOTH)
    world.answer(extra=encode_applied(DEFAULT_ENTERPRISE, (10,)) if knows else ())
    assert ("home agent applies no flow extension" in world.reports()) is not knows
    assert world.node().rules[0].weights == (3, 1)


def test_a_shared_flow_shrinks_to_the_link_that_is_left() -> None:
    world = registered(with_flows(VIDEO))
    world.links(BOTH[1])
    assert world.sent[-1].flows() == {10: (2,)}
    assert not flow_extensions(world.sent[-1].update.options, DEFAULT_ENTERPRISE)
    [rule] = world.node().rules
    assert (rule.bids, rule.weights) == ((2,), ())


def test_each_direction_goes_its_own_way() -> None:
    world = registered(with_flows(replace(VIDEO, down=via("wwan0"), up=via("wlan0"))))
    assert world.sent[0].flows() == {10: (2,)}
    assert [rule.bids for rule in world.node().rules] == [(1,)]


def test_a_flow_whose_last_resort_is_to_drop_says_so_to_the_home_agent() -> None:
    world = registered(with_flows(replace(VIDEO, down=replace(via("wwan0"), last_resort=LastResort.DROP))))
    extensions = flow_extensions(world.sent[0].update.options, DEFAULT_ENTERPRISE)
    assert extensions == {10: FlowExtension(10, drop=True)}
    world.links(BOTH[0])
    [rule] = world.node().rules
    assert rule.drop and not rule.bids and not rule.unreachable
    assert world.sent[-1].summary() == (10,)


def test_a_flow_whose_last_resort_is_unreachable_answers_at_both_ends() -> None:
    world = registered(with_flows(replace(VIDEO, down=replace(via("wwan0"), last_resort=LastResort.UNREACHABLE))))
    extensions = flow_extensions(world.sent[0].update.options, DEFAULT_ENTERPRISE)
    assert extensions == {10: FlowExtension(10, drop=True, unreachable=True)}
    world.links(BOTH[0])
    [rule] = world.node().rules
    assert rule.drop and rule.unreachable


@pytest.mark.parametrize("down", [via("wwan0"), copy("wlan0", "wwan0")])
def test_a_flow_that_is_copied_upwards_only_says_so(down: Choice) -> None:
    world = registered(with_flows(replace(VIDEO, down=down, up=copy("wlan0", "wwan0"))))
    extensions = flow_extensions(world.sent[0].update.options, DEFAULT_ENTERPRISE)
    assert extensions == ({} if down.copy else {10: FlowExtension(10, copied=True)})


SATELLITE = replace(
    with_flows(replace(VIDEO, down=via("wwan0", "wlan0"), up=via("wlan0"))),
    links=(replace(SETTINGS.links[0], priority=20), replace(SETTINGS.links[1], priority=10, receive_only=True)),
)


def test_nothing_is_sent_over_a_receive_only_link_that_is_registered() -> None:
    world = registered(SATELLITE)
    assert world.sent[0].interface == "wlan0" and world.sent[0].bids() == {1: WLAN, 2: CELL}
    assert world.sent[0].flows() == {10: (2,)}  # television comes down the satellite
    assert world.binding(2) == "registered" and world.usable() == [1]
    assert [rule.bids for rule in world.node().rules] == [(1,)]
    world.run(2000)
    assert {one.interface for one in world.sent} == {"wlan0"}  # retransmissions take no other


def test_a_receive_only_link_alone_can_say_nothing() -> None:
    world = registered(SATELLITE)
    count = len(world.sent)
    world.links(BOTH[1])
    world.run(100)
    assert len(world.sent) == count and world.usable() == []
