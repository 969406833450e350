"""Stories of a mobile node whose links have IPv4, NATs and filters (RFC 5555 §4.3, §4.4; RFC 5648 §8)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from mip6.actions import LocalAddress, Route, Rule, SendPacket, UdpEndpoint
from mip6.events import PathChanged, PathMtuChanged
from mip6.forwarding import Encapsulation, Tunnel
from mip6.messages import BindingRevocationIndication
from mip6.numbers import RevocationFlag, RevocationTrigger, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    IPv4AddressAcknowledgement,
    IPv4CareOfAddress,
    IPv4HomeAddress,
    NatDetection,
    Option,
)
from mip6.path import PathSettings, PathState
from mip6.udp import UdpEnds
from mobilenode.settings import LinkSettings, MobileNodeSettings
from tests.mobilenode.support import AGENT, CELL, GATEWAY, HOME, KEY, SETTINGS, WLAN, World, link

AGENT4 = IPv4Address("203.0.113.1")
WLAN4, CELL4 = IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3")
HOME4, NETWORK4 = IPv4Address("192.0.2.5"), IPv4Network("192.0.2.128/28")
SETTINGS4 = replace(SETTINGS, home_agents_ipv4=(AGENT4,))
BEHIND_NAT = NatDetection(False, 110)
NO_NAT = NatDetection(False, 0xFFFFFFFF)
FORCED = NatDetection(True, 110)


def with_links(**changes: str | int) -> MobileNodeSettings:
    links: tuple[LinkSettings, ...] = tuple(replace(one, **changes) for one in SETTINGS.links)  # type: ignore[arg-type]
    return replace(SETTINGS4, links=links)


def tunnel(world: World, bid: int = 1) -> Tunnel:
    return next(one for one in world.node().tunnels if one.bid == bid)


def answer(world: World, *extra: Option, status: int = 0) -> None:
    """To the last Binding Update, in its encapsulation; inside UDP the option of NAT detection is never missing."""
    world.answer(status=status, extra=extra)


def behind_nat(*extra: Option) -> World:
    """Registered from an IPv4-only link behind a NAT."""
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN4))
    answer(world, BEHIND_NAT, *extra)
    assert world.state() == "registered"
    return world


def test_from_an_ipv4_only_link_the_home_address_is_the_source_inside_udp() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN4))
    (sent,) = world.sent
    assert sent.outer == UdpEnds(WLAN4, AGENT4) and sent.interface == "wlan0"
    assert (sent.packet.source, sent.packet.destination, sent.packet.home_address) == (HOME, AGENT, None)
    assert sent.bids() == {1: WLAN4} and sent.update.find(IPv4CareOfAddress) is None  # RFC 5648 §8.1
    assert sent.overwrites() and not sent.update.flags & UpdateFlag.FORCE_UDP
    assert world.engine.kernel_state().sockets == (UdpEndpoint(WLAN4, 4191, "wlan0"),)
    assert Rule(WLAN4, 1000, 1000) in world.engine.kernel_state().rules
    assert Route(IPv4Network("0.0.0.0/0"), "wlan0", GATEWAY, 1000) in world.engine.kernel_state().routes


@pytest.mark.parametrize(
    ("said", "encapsulation", "mtu"),
    [
        (BEHIND_NAT, Encapsulation.UDP, 1472),
        (NO_NAT, Encapsulation.NATIVE, 1480),
        (FORCED, Encapsulation.UDP, 1472),
        (NatDetection(True, 0xFFFFFFFF), Encapsulation.UDP, 1472),
    ],
)
def test_data_goes_as_the_home_agent_says(said: NatDetection, encapsulation: Encapsulation, mtu: int) -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN4))
    answer(world, said)
    found = tunnel(world)
    assert (found.local, found.remote, found.encapsulation, found.mtu) == (WLAN4, AGENT4, encapsulation, mtu)


def test_the_keepalive_is_a_binding_update_at_the_advised_interval() -> None:
    world = behind_nat()
    for _ in range(5):
        before = world.now
        world.run(110)
        sent = world.sent[-1]
        assert 88 <= sent.time - before <= 110 and sent.bids() == {1: WLAN4}
        world.now = sent.time
        answer(world, BEHIND_NAT)


def test_the_keepalive_of_the_link_goes_before_the_advice_and_without_nat_there_is_none() -> None:
    world = World(with_links(keepalive=20))
    world.links(link("wlan0", WLAN4))
    answer(world, BEHIND_NAT)
    world.run(20)
    assert len(world.sent) == 2
    world = World(with_links(keepalive=20))
    world.links(link("wlan0", WLAN4))
    answer(world, NO_NAT)
    world.run(200)
    assert len(world.sent) == 1


def test_a_link_with_both_families_uses_ipv6_and_the_ipv4_one_registers_by_itself() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN, WLAN4), link("wwan0", CELL4))
    (first,) = world.sent
    assert (first.bids(), first.outer, first.overwrites()) == ({1: WLAN}, None, True)
    world.answer()
    second = world.sent[-1]
    assert (second.bids(), second.outer, second.overwrites()) == ({2: CELL4}, UdpEnds(CELL4, AGENT4), False)
    answer(world, BEHIND_NAT)
    assert world.usable() == [1, 2] and world.state() == "registered"


def test_a_link_whose_updates_are_not_answered_lets_the_others_pass() -> None:
    world = World(with_links(encapsulation="native"))
    world.links(link("wlan0", WLAN4), link("wwan0", CELL4))
    assert world.sent[-1].bids() == {1: WLAN4}  # nobody answers
    world.run(1.2)
    assert world.sent[-1].bids() == {2: CELL4}
    answer(world, BEHIND_NAT)
    world.run(60)
    assert world.usable() == [2]
    assert {one.interface for one in world.sent[-3:]} == {"wlan0"}  # tried again, always from itself
    assert all(one.outer == UdpEnds(WLAN4, AGENT4) for one in world.sent[-3:])
    # a flow that is to move goes by the link that is answered
    world.links(link("wlan0", WLAN4), link("wwan0", CELL4), link("eth9", WLAN))
    assert world.state() == "registered"


def test_a_lost_link_is_deleted_over_one_that_works() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN4), link("wwan0", CELL4))
    answer(world, BEHIND_NAT)
    answer(world, BEHIND_NAT)
    world.links(link("wwan0", CELL4))
    sent = world.sent[-1]
    assert (sent.bids(), sent.update.lifetime, sent.outer) == ({1: None}, 0, UdpEnds(CELL4, AGENT4))
    assert [one.bid for one in world.node().tunnels] == [2]


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


def test_without_multiple_bindings_the_care_of_address_is_in_the_ipv4_option() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN4))
    world.answer(status=166, extra=(BEHIND_NAT,))
    sent = world.sent[-1]
    found = sent.update.find(IPv4CareOfAddress)
    assert isinstance(found, IPv4CareOfAddress) and found.care_of_address == WLAN4
    assert not sent.bids() and sent.update.find(AlternateCareOfAddress) is None


def test_what_comes_inside_udp_from_strangers_changes_nothing() -> None:
    world = behind_nat()
    before = world.engine.forwarding_table()
    world.run(111)
    sent, outer = world.sent[-1], UdpEnds(WLAN4, IPv4Address("192.0.2.66"), 4191, 666)
    answers = len(world.other)
    world.answer(sent, key=replace(KEY, key=bytes(16)))
    assert world.count("not_authentic") == 1
    elsewhere = replace(sent, outer=replace(outer, local=IPv4Address("10.9.9.9")))
    world.answer(elsewhere)
    assert world.count("not_for_us") == 1
    revoke = BindingRevocationIndication(RevocationTrigger.ADMINISTRATIVE, 7, RevocationFlag(0), ())
    world.receive(revoke, to=HOME, outer=outer, key=None)
    assert world.count("not_authentic") == 2 and len(world.other) == answers
    assert world.engine.forwarding_table().nodes[HOME].tunnels[0].usable == before.nodes[HOME].tunnels[0].usable


def test_a_revocation_inside_udp_is_answered_inside_udp() -> None:
    world = behind_nat()
    ends = UdpEnds(WLAN4, AGENT4)
    revoke = BindingRevocationIndication(RevocationTrigger.ADMINISTRATIVE, 7, RevocationFlag(0), ())
    done = world.receive(revoke, to=HOME, outer=ends)
    (sent,) = [one for one in done if isinstance(one, SendPacket)]
    assert (sent.outer, sent.interface) == (ends, "wlan0")


def test_the_path_mtu_over_ipv4_may_be_smaller_than_ipv6_allows() -> None:
    world = behind_nat()
    world.give(PathMtuChanged(WLAN4, AGENT4, 1000))
    assert tunnel(world).mtu == 1000 - 28
    world.give(PathMtuChanged(WLAN4, GATEWAY, 900))  # not the home agent
    assert tunnel(world).mtu == 1000 - 28


# --- IPv4 home address -----------------------------------------------------------------------------------------------


def ack(status: int = 0, length: int = 32, address: IPv4Address = HOME4) -> IPv4AddressAcknowledgement:
    return IPv4AddressAcknowledgement(status, length if status < 128 else 0, address)


def test_an_ipv4_home_address_is_asked_for_in_every_update_and_put_on_the_device() -> None:
    settings = replace(SETTINGS4, ipv4_home_address=IPv4Address(0), ipv4_prefixes=(NETWORK4,))
    world = World(settings)
    world.links(link("wlan0", WLAN))
    asked = [(one.home_address, one.prefix_length) for one in world.sent[-1].update.find_all(IPv4HomeAddress)]
    assert asked == [(IPv4Address(0), 32), (NETWORK4.network_address, 28)]
    world.answer(extra=(ack(), ack(length=28, address=NETWORK4.network_address)))
    state = world.engine.kernel_state()
    assert LocalAddress(HOME4, "mip0", 32) in state.addresses
    halves = [one for one in state.routes if one.source == HOME4]
    assert [str(one.destination) for one in halves] == ["0.0.0.0/1", "128.0.0.0/1"]
    assert world.node().prefixes[-2:] == (IPv4Network(HOME4), NETWORK4)
    world.run(451)
    assert world.sent[-1].update.find_all(IPv4HomeAddress)[0].home_address == HOME4  # now it has one
    world.answer(extra=(ack(130), ack(133)))
    assert world.node().prefixes == SETTINGS.prefixes and world.state() == "registered"
    assert world.reports().count("IPv4 home address refused") == 2
    world.run(451)
    assert world.sent[-1].update.find_all(IPv4HomeAddress)[0].home_address == IPv4Address(0)


def test_the_end_of_one_of_several_care_of_addresses_still_names_the_ipv4_home_address() -> None:
    world = World(replace(SETTINGS4, ipv4_home_address=HOME4))
    world.links(link("wlan0", WLAN4), link("wwan0", CELL4))
    answer(world, BEHIND_NAT, ack())
    answer(world, BEHIND_NAT, ack())
    world.links(link("wwan0", CELL4))
    assert world.sent[-1].update.lifetime == 0 and world.sent[-1].update.find(IPv4HomeAddress) is not None
    answer(world, BEHIND_NAT, ack())
    assert world.engine.status(world.now)["ipv4_home_address"] == str(HOME4)


def test_a_home_agent_without_ipv4_home_addresses_is_not_asked_again() -> None:
    world = World(replace(SETTINGS4, ipv4_home_address=HOME4))
    world.links(link("wlan0", WLAN))
    world.answer()
    world.run(451)
    assert world.sent[-1].update.find(IPv4HomeAddress) is None and world.state() == "registered"


def test_the_ipv4_home_address_alone_can_be_revoked() -> None:
    world = World(replace(SETTINGS4, ipv4_home_address=HOME4))
    world.links(link("wlan0", WLAN))
    world.answer(extra=(ack(),))
    option = IPv4HomeAddress(32, False, HOME4)
    revoke = BindingRevocationIndication(RevocationTrigger.ADMINISTRATIVE, 7, RevocationFlag.IPV4, (option,))
    world.receive(revoke)
    assert world.state() == "registered" and world.engine.status(world.now)["ipv4_home_address"] is None


def test_the_two_addresses_of_a_dual_stack_link_do_not_confuse_the_bids() -> None:
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN4))
    answer(world, BEHIND_NAT)
    world.links(link("wlan0", WLAN, WLAN4))  # IPv6 came later: it is the better way
    sent = world.sent[-1]
    assert (sent.bids(), sent.outer) == ({1: WLAN}, None)
    world.answer()
    assert tunnel(world).local == WLAN
    assert CELL not in {one.local for one in world.node().tunnels}


# --- what the probes say ---------------------------------------------------------------------------------------------

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
