"""Stories of a mobile node whose links have IPv4, NATs and filters (RFC 5555 §4.3, §4.4; RFC 5648 §8)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from mip6.actions import LocalAddress, Route, Rule, SendPacket, UdpEndpoint
from mip6.events import PathMtuChanged
from mip6.forwarding import Encapsulation
from mip6.messages import BindingRevocationIndication
from mip6.numbers import RevocationFlag, RevocationTrigger, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    IPv4AddressAcknowledgement,
    IPv4CareOfAddress,
    IPv4HomeAddress,
    NatDetection,
)
from mip6.udp import UdpEnds
from tests.mobilenode.nat import (
    AGENT4,
    BEHIND_NAT,
    CELL4,
    FORCED,
    NO_NAT,
    SETTINGS4,
    WLAN4,
    answer,
    behind_nat,
    tunnel,
    with_links,
)
from tests.mobilenode.support import AGENT, CELL, GATEWAY, HOME, KEY, SETTINGS, WLAN, World, link

HOME4, NETWORK4 = IPv4Address("192.0.2.5"), IPv4Network("192.0.2.128/28")


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


def test_udp_goes_without_checksum_where_the_configuration_says_so() -> None:
    for zero_checksum in (True, False):
        world = World(replace(SETTINGS4, udp_zero_checksum=zero_checksum))
        world.links(link("wlan0", WLAN4))
        assert world.engine.forwarding_table().zero_checksum is zero_checksum


def test_the_path_mtu_over_ipv4_may_be_smaller_than_ipv6_allows() -> None:
    world = behind_nat()
    world.give(PathMtuChanged(WLAN4, AGENT4, 1000))
    assert tunnel(world).mtu == 1000 - 28
    world.give(PathMtuChanged(WLAN4, GATEWAY, 900))  # not the home agent
    assert tunnel(world).mtu == 1000 - 28


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
    assert world.engine.forwarding_table().ipv4_address == HOME4  # the source of ICMPv4 errors
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
