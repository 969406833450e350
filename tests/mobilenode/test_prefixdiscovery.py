"""Mobile prefix discovery: when it is asked for, which answers count, and what they change."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

from mip6.events import PacketReceived
from mip6.icmp6 import MobilePrefixAdvertisement, MobilePrefixSolicitation, build_icmp6, decode_icmp6
from mip6.neighbourdiscovery import PrefixInformation
from mip6.numbers import BindingStatus
from tests.mobilenode.support import AGENT, BOTH, CELL, HOME, SETTINGS, WLAN, World, registered

STRANGER = IPv6Address("2001:db8:bad::1")


def solicitations(world: World) -> list[MobilePrefixSolicitation]:
    found = []
    for packet in world.other:
        if packet.protocol == 58:
            message = decode_icmp6(packet.payload)
            assert isinstance(message, MobilePrefixSolicitation)
            assert packet.destination == AGENT and packet.home_address == HOME and packet.checksum_is_right()
            found.append(message)
    return found


def advertise(
    world: World,
    valid: int = 86400,
    *,
    prefix: str = "2001:db8:100::",
    identifier: int | None = None,
    source: IPv6Address = AGENT,
    route: bool = True,
) -> None:
    number = solicitations(world)[-1].identifier if identifier is None else identifier
    one = PrefixInformation(64, True, True, False, 0, valid, valid // 2, IPv6Address(prefix))
    message = MobilePrefixAdvertisement(number, False, False, 0, (one,))
    packet = build_icmp6(source, WLAN, message, routing_address=HOME if route else None)
    world.give(PacketReceived(packet, "wlan0"))


def asked(lifetime: int = 600) -> World:
    """A mobile node whose home agent accepted with status 1."""
    world = World(replace(SETTINGS, lifetime=lifetime))
    world.links(*BOTH)
    world.answer(status=BindingStatus.PREFIX_DISCOVERY_NECESSARY, lifetime=lifetime)
    assert world.state() == "registered"
    return world


def test_status_1_asks_for_the_prefixes() -> None:
    world = asked()
    assert len(solicitations(world)) == 1 and world.other[0].source == WLAN
    advertise(world)
    world.run(30)
    assert len(solicitations(world)) == 1 and world.reports().count("home prefixes") == 1


def test_the_solicitation_is_repeated_over_every_link_and_given_up() -> None:
    world = asked()
    world.run(60)
    assert len(solicitations(world)) == 4 and len({one.identifier for one in solicitations(world)}) == 1
    assert {packet.source for packet in world.other} == {WLAN, CELL}
    assert "mobile prefix solicitation not answered" in world.reports()
    assert world.state() == "registered"


def test_no_other_status_asks() -> None:
    assert solicitations(registered()) == []


def test_only_the_home_agents_answer_by_routing_header_counts() -> None:
    """RFC 6275 §11.4.3."""
    world = asked()
    advertise(world, source=STRANGER)
    advertise(world, route=False)
    advertise(world, identifier=solicitations(world)[0].identifier ^ 1)
    assert world.count("unexpected_prefix_advertisement") == 3 and "home prefixes" not in world.reports()
    advertise(world)
    advertise(world)  # a second answer to the same question
    assert world.count("prefix_advertisement") == 1 and world.count("unexpected_prefix_advertisement") == 4


def test_an_advertisement_that_nobody_asked_for_is_asked_for() -> None:
    world = registered()
    for _ in range(3):
        advertise(world, identifier=7)
        world.run(0.1)
    world.run(1)
    assert len(solicitations(world)) == 1
    advertise(world)
    assert "home prefixes" in world.reports()


def test_registrations_end_with_the_home_prefix() -> None:
    world = asked(lifetime=20000)
    advertise(world, 12000)
    world.run(11900 - 3500)  # the next question comes an hour before the end
    assert len(solicitations(world)) > 1
    world.links(BOTH[0])
    assert world.sent[-1].update.lifetime <= 3600
    advertise(world, 86400)
    world.answer()
    world.links(*BOTH)
    assert world.sent[-1].update.lifetime == 20000


def test_nobody_can_shorten_it_to_less_than_two_hours() -> None:
    world = asked(lifetime=7000)
    advertise(world, 0)
    world.links(BOTH[0])
    assert world.sent[-1].update.lifetime == 7000


def test_a_home_prefix_that_is_missing_is_reported() -> None:
    world = asked()
    advertise(world, prefix="2001:db8:999::")
    assert "home prefix is not among those of the home link" in world.reports()
