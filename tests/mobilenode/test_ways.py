"""Which way each link takes to the home agent: found out by Binding Updates without an answer and by probes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mip6.events import PathChanged
from mip6.forwarding import Encapsulation
from mip6.numbers import UpdateFlag
from mip6.path import PathSettings, PathState
from mip6.udp import UdpEnds
from mobilenode.settings import MobileNodeSettings
from tests.mobilenode.nat import (
    AGENT4,
    BEHIND_NAT,
    FORCED,
    NO_NAT,
    SETTINGS4,
    WLAN4,
    answer,
    tunnel,
    with_links,
)
from tests.mobilenode.support import AGENT, HOME, WLAN, World, link


def test_after_three_unanswered_updates_ipv4_is_tried_and_kept() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN, WLAN4))
    world.run(7)
    assert [one.outer for one in world.sent] == [None, None, None, UdpEnds(WLAN4, AGENT4)]
    answer(world, BEHIND_NAT)
    assert tunnel(world).local == WLAN4
    world.links(link("wlan0", up=False))
    world.links(link("wlan0", WLAN, WLAN4))  # the same network again: what was found out holds (RFC 5555 §4.4.1)
    assert world.sent[-1].outer == UdpEnds(WLAN4, AGENT4)


def test_where_there_is_no_ipv4_udp_over_ipv6_is_tried_with_the_f_flag() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN))
    world.run(7)
    sent = world.sent[-1]
    assert sent.outer == UdpEnds(WLAN, AGENT) and sent.update.flags & UpdateFlag.FORCE_UDP
    assert (sent.packet.source, sent.bids()) == (HOME, {1: WLAN})
    answer(world, FORCED)
    found = tunnel(world)
    assert (found.encapsulation, found.remote, found.mtu) == (Encapsulation.UDP, AGENT, 1452)
    assert world.engine.status(world.now)["bindings"][0]["encapsulation"] == "udp"


def test_the_best_way_is_tried_again_after_an_hour() -> None:
    world = World(replace(SETTINGS4, lifetime=3600))
    world.links(link("wlan0", WLAN))
    world.run(7)
    answer(world, FORCED)
    while world.sent[-1].outer is not None and world.now < 4000:
        count = len(world.sent)
        world.run(30)
        if len(world.sent) > count and world.sent[-1].outer is not None:
            answer(world, FORCED)
    assert world.sent[-1].outer is None and 3500 < world.now < 3700
    world.answer()
    assert tunnel(world).encapsulation is Encapsulation.NATIVE


def test_rounds_without_any_answer_become_rare() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN, WLAN4))
    world.run(3600)
    # three ways a round; a round takes about 15 s, the pauses between them are 60, 120, 240, 480 s, then 600 s
    assert world.reports().count("another way to the home agent") == 9 * 3
    assert len(world.sent) < 210
    assert {one.outer for one in world.sent} == {None, UdpEnds(WLAN4, AGENT4), UdpEnds(WLAN, AGENT)}


@pytest.mark.parametrize(
    ("changes", "outer", "forced"),
    [
        ({"encapsulation": "udp", "family": "ipv6"}, UdpEnds(WLAN, AGENT), True),
        ({"encapsulation": "udp", "family": "ipv4"}, UdpEnds(WLAN4, AGENT4), True),
        ({"family": "ipv4"}, UdpEnds(WLAN4, AGENT4), False),
        ({"encapsulation": "native", "family": "ipv6"}, None, False),
    ],
)
def test_fixed_ways(changes: dict[str, str], outer: UdpEnds | None, forced: bool) -> None:
    world = World(with_links(**changes))
    world.links(link("wlan0", WLAN, WLAN4))
    world.run(200)
    assert {one.outer for one in world.sent} == {outer}
    assert {bool(one.update.flags & UpdateFlag.FORCE_UDP) for one in world.sent} == {forced}


def test_a_refused_f_flag_is_no_endless_loop() -> None:
    world = World(with_links(encapsulation="udp", family="ipv4"))
    world.links(link("wlan0", WLAN4))
    world.answer(status=129, extra=(NO_NAT,))
    world.run(25)
    assert len(world.sent) == 1 and world.state() == "refused"


def test_a_home_agent_that_refuses_udp_gets_it_natively() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN))
    world.run(7)
    assert world.sent[-1].update.flags & UpdateFlag.FORCE_UDP
    world.answer(status=129, extra=(NO_NAT,))
    assert world.sent[-1].outer is None
    world.run(3600)
    assert not any(one.update.flags & UpdateFlag.FORCE_UDP for one in world.sent[4:])  # not asked again


PROBED = replace(SETTINGS4, paths=PathSettings())


def native(settings: MobileNodeSettings = PROBED) -> World:
    """Registered natively over IPv6, a moment ago, on the only link."""
    world = World(settings)
    world.links(link("wlan0", WLAN, WLAN4))
    world.answer()
    return world


def path(world: World, state: PathState, bid: int = 1) -> None:
    world.give(PathChanged(HOME, bid, state))


def test_a_native_tunnel_that_no_probe_gets_through_is_given_up_for_udp() -> None:
    world = native()
    world.run(2.1)
    sent = world.sent[-1]
    assert sent.outer == UdpEnds(WLAN, AGENT) and sent.update.flags & UpdateFlag.FORCE_UDP
    answer(world, FORCED)
    path(world, PathState.UP)
    world.run(60)
    assert tunnel(world).encapsulation is Encapsulation.UDP and world.sent[-1] is sent


def test_a_peer_that_answers_no_probes_keeps_the_native_tunnel() -> None:
    world = native()
    world.run(2.1)
    answer(world, FORCED)
    world.run(2.1)
    assert world.sent[-1].outer is None  # UDP was no better: nobody answers probes there
    world.answer()
    count = len(world.sent)
    world.run(300)
    assert len(world.sent) == count and tunnel(world).encapsulation is Encapsulation.NATIVE


def test_a_tunnel_whose_probes_get_through_stays() -> None:
    world = native()
    path(world, PathState.UP)
    world.run(300)
    assert len(world.sent) == 1


def test_a_path_that_falls_silent_is_asked_and_only_a_tunnel_that_is_blocked_changes() -> None:
    world = native()
    path(world, PathState.UP)
    world.run(10)
    path(world, PathState.SILENT)
    assert len(world.sent) == 2 and world.sent[-1].outer is None
    world.run(20)  # nobody answers: the link is dead, or the home agent; the way is not to blame
    assert {one.outer for one in world.sent} == {None}
    world.answer()  # the home agent is there after all
    world.run(1.9)
    assert {one.outer for one in world.sent} == {None}, "it may only just have started: probes are given their time"
    world.run(0.2)
    sent = world.sent[-1]
    assert sent.outer == UdpEnds(WLAN, AGENT) and sent.update.flags & UpdateFlag.FORCE_UDP


def test_a_home_agent_that_was_away_and_answers_probes_again_changes_no_way() -> None:
    world = native()
    path(world, PathState.UP)
    world.run(10)
    path(world, PathState.SILENT)
    world.run(20)
    world.answer()
    path(world, PathState.UP)
    world.run(30)
    assert {one.outer for one in world.sent} == {None}


def test_a_link_that_is_back_is_no_sign_of_a_blocked_tunnel() -> None:
    world = native()
    path(world, PathState.UP)
    sent = len(world.sent)
    path(world, PathState.UNMEASURED)  # its carrier came back: nothing is known of the path yet
    world.run(20)
    assert len(world.sent) == sent


def test_a_nat_that_forgot_its_mapping_gets_a_binding_update_at_once() -> None:
    world = World(PROBED)
    world.links(link("wlan0", WLAN4))
    answer(world, BEHIND_NAT)
    path(world, PathState.UP)
    world.run(10)
    path(world, PathState.SILENT)
    assert len(world.sent) == 2 and world.sent[-1].time == world.now
    answer(world, BEHIND_NAT)
    path(world, PathState.UP)
    world.run(60)
    assert len(world.sent) == 2


def test_the_new_try_of_the_best_way_is_kept_when_its_probes_get_through() -> None:
    world = native(replace(PROBED, lifetime=7200))
    world.run(2.1)
    answer(world, FORCED)
    path(world, PathState.UP)
    while world.sent[-1].outer is not None and world.now < 4000:
        count = len(world.sent)
        world.run(30)
        if len(world.sent) > count and world.sent[-1].outer is not None:
            answer(world, FORCED)
    assert world.sent[-1].outer is None
    world.answer(lifetime=7200)
    count = len(world.sent)
    world.run(100)  # the path is up all the time: no news of it
    assert len(world.sent) == count and tunnel(world).encapsulation is Encapsulation.NATIVE
