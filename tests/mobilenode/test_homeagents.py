"""Several home agents: discovery, the next one where one is silent or refuses, and the one that was left behind."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest

from mip6.events import PacketReceived, ShuttingDown
from mip6.icmp6 import (
    HomeAgentDiscoveryReply,
    HomeAgentDiscoveryRequest,
    Icmp6Message,
    build_icmp6,
    decode_icmp6,
    home_agents_anycast,
)
from mip6.messages import BindingAcknowledgement
from mip6.numbers import AckFlag, BindingStatus
from mip6.options import MessageIdentification
from tests.mobilenode.support import AGENT, BOTH, CELL, HOME, SETTINGS, WLAN, Sent, World, link

SECOND, THIRD = IPv6Address("2001:db8:200::1"), IPv6Address("2001:db8:300::1")
TWO = replace(SETTINGS, home_agents=(AGENT, SECOND))
DISCOVERED = replace(SETTINGS, home_agents=())
ANYCAST = IPv6Address("2001:db8:100:0:fdff:ffff:ffff:fffe")


def agents(world: World) -> list[IPv6Address]:
    return [one.packet.destination for one in world.sent]


def accept(world: World, sent: Sent | None = None, agent: IPv6Address | None = None, status: int = 0) -> None:
    """A Binding Acknowledgement of the home agent that the Binding Update went to."""
    sent = sent or world.sent[-1]
    stamp = sent.update.find(MessageIdentification)
    flags = AckFlag.MOBILE_ROUTER
    lifetime = sent.update.lifetime if status < 128 else 0
    options = tuple(one for one in sent.update.options if type(one).__name__ == "BindingIdentifier")
    message = BindingAcknowledgement(status, flags, sent.update.sequence, lifetime, (*options, stamp))
    world.receive(message, to=sent.packet.source, source=agent or sent.packet.destination)


def requests(world: World) -> list[HomeAgentDiscoveryRequest]:
    found = []
    for packet in world.other:
        if packet.protocol == 58:
            message = decode_icmp6(packet.payload)
            if isinstance(message, HomeAgentDiscoveryRequest):
                assert packet.destination == ANYCAST and packet.home_address is None and packet.checksum_is_right()
                found.append(message)
    return found


def reply(world: World, *found: IPv6Address, identifier: int | None = None) -> None:
    number = requests(world)[-1].identifier if identifier is None else identifier
    give(world, AGENT, HomeAgentDiscoveryReply(number, True, 0, found))


def give(world: World, source: IPv6Address, message: Icmp6Message) -> None:
    world.give(PacketReceived(build_icmp6(source, WLAN, message), "wlan0"))


# --- one after the other ---------------------------------------------------------------------------------------------


def test_a_silent_home_agent_is_left_after_three_binding_updates() -> None:
    world = World(TWO)
    world.links(*BOTH)
    world.run(10.4)
    assert agents(world) == [AGENT] * 3
    world.run(0.2)
    assert agents(world)[3:] == [SECOND]
    accept(world)
    assert world.state() == "registered" and world.engine.status(0)["home_agent"] == str(SECOND)
    assert {one.remote for one in world.node().tunnels} == {SECOND}


def test_a_home_agent_that_holds_bindings_has_more_patience() -> None:
    world = World(TWO)
    world.links(*BOTH)
    accept(world)
    world.run(1)
    world.links(link("wlan0", WLAN))
    began = len(world.sent)
    world.run(30.9)
    assert set(agents(world)[began - 1 :]) == {AGENT}
    world.run(0.2)
    assert agents(world)[-1] == SECOND
    assert world.engine.status(0)["home_agents"] == [str(AGENT), str(SECOND)]


def test_the_one_that_accepted_stays_when_the_first_is_back() -> None:
    world = World(TWO)
    world.links(*BOTH)
    world.run(11)
    accept(world)
    accept(world, next(one for one in world.sent if one.update.lifetime == 0))  # the first one hears the goodbye
    for _ in range(5):
        sent = len(world.sent)
        while len(world.sent) == sent:
            world.run(1)  # to the refresh
        accept(world)
    assert agents(world)[:5] == [AGENT] * 3 + [SECOND, AGENT] and set(agents(world)[5:]) == {SECOND}


def test_round_and_round_while_all_are_silent() -> None:
    world = World(TWO)
    world.links(*BOTH)
    world.run(45)
    order = [agent for agent, before in zip(agents(world), [None, *agents(world)], strict=False) if agent != before]
    assert order[:4] == [AGENT, SECOND, AGENT, SECOND]


def test_silence_counts_only_while_there_is_a_link() -> None:
    world = World(TWO)
    world.links(*BOTH)
    world.run(5)
    world.links()
    world.run(600)
    world.links(*BOTH)
    world.run(1)
    assert set(agents(world)) == {AGENT}


def test_one_that_refuses_is_left_at_once_and_all_that_refuse_have_a_rest() -> None:
    world = World(TWO)
    world.links(*BOTH)
    accept(world, status=BindingStatus.ADMINISTRATIVELY_PROHIBITED)
    assert agents(world)[-1] == SECOND
    accept(world, status=BindingStatus.INSUFFICIENT_RESOURCES)
    sent = len(world.sent)
    world.run(29)
    assert len(world.sent) == sent
    world.run(2)
    assert agents(world)[-1] == AGENT  # a new round begins with the first
    accept(world)
    assert world.state() == "registered"


def test_one_that_says_never_is_not_asked_again() -> None:
    world = World(TWO)
    world.links(*BOTH)
    accept(world, status=BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED)
    assert agents(world)[-1] == SECOND
    accept(world, status=BindingStatus.INSUFFICIENT_RESOURCES)
    world.run(3000)
    assert agents(world).count(AGENT) == 1 and agents(world)[-1] == SECOND


def test_the_one_that_was_left_is_told_so_until_it_answers() -> None:
    world = World(TWO)
    world.links(*BOTH)
    accept(world)
    world.run(1)
    world.links(link("wwan0", CELL))
    world.run(31)
    assert agents(world)[-1] == SECOND
    accept(world)
    goodbye = world.sent[-1]
    assert goodbye.packet.destination == AGENT and goodbye.update.lifetime == 0 and goodbye.bids() == {}
    world.run(4.1)
    again = world.sent[-1]
    assert again.packet.destination == AGENT and again.update.lifetime == 0
    accept(world, again)
    world.run(60)
    assert world.sent[-1] is again and world.count("farewell_answered") == 1
    assert world.state() == "registered"


def test_nobody_but_the_current_home_agent_is_listened_to() -> None:
    world = World(TWO)
    world.links(*BOTH)
    accept(world, agent=SECOND)
    assert world.state() == "registering" and world.count("not_from_home_agent") == 1


def test_deregistration_goes_to_the_one_that_holds_the_bindings() -> None:
    world = World(TWO)
    world.links(*BOTH)
    accept(world)
    world.run(1)
    world.give(ShuttingDown())
    world.run(2.9)
    assert world.sent[-1].update.lifetime == 0 and set(agents(world)) == {AGENT}


# --- discovery -------------------------------------------------------------------------------------------------------


def test_discovered_home_agents_are_tried_in_their_order() -> None:
    """RFC 6275 §11.4.1."""
    world = World(DISCOVERED)
    assert world.engine.status(0)["home_agent"] is None
    world.links(*BOTH)
    assert world.sent == [] and [one.mobile_router for one in requests(world)] == [True]
    assert world.state() == "registering"
    reply(world, SECOND, THIRD)
    assert agents(world) == [SECOND]
    world.run(11)
    assert agents(world)[-1] == THIRD
    accept(world)
    world.run(100)
    assert world.state() == "registered" and len(requests(world)) == 1


def test_the_request_is_repeated_unchanged_at_doubled_intervals_over_every_link() -> None:
    world = World(DISCOVERED)
    world.links(*BOTH)
    times = [0.0]
    while len(requests(world)) < 5:
        deadline = world.engine.next_deadline()
        assert deadline is not None
        before = len(requests(world))
        world.run(deadline[0] - world.now)
        times += [world.now] * (len(requests(world)) - before)
    assert times == [0, 3, 9, 21, 45]
    assert len({one.identifier for one in requests(world)}) == 1
    assert {packet.source for packet in world.other} == {WLAN, CELL}
    world.run(29)
    assert len(requests(world)) == 5 and world.reports().count("no home agent found") == 1
    world.run(2)
    assert len(requests(world)) == 6 and requests(world)[5].identifier != requests(world)[0].identifier


def test_a_new_link_is_asked_over_at_once() -> None:
    world = World(DISCOVERED)
    world.links(link("wlan0", WLAN))
    world.run(50)
    asked = len(requests(world))
    world.links(*BOTH)
    assert len(requests(world)) == asked + 1


@pytest.mark.parametrize("why", ["identifier", "empty", "own", "not asked"])
def test_replies_that_say_nothing(why: str) -> None:
    world = World(DISCOVERED)
    world.links(*BOTH)
    if why == "identifier":
        reply(world, SECOND, identifier=requests(world)[0].identifier ^ 1)
    elif why == "empty":
        reply(world)
    elif why == "own":
        reply(world, HOME, IPv6Address("2001:db8:f00::1"), IPv6Address("ff02::1"))
    else:
        reply(world, AGENT)
        reply(world, SECOND)
    assert world.count("unexpected_discovery_reply") == 1
    assert agents(world) == ([AGENT] if why == "not asked" else [])


def test_when_all_that_were_discovered_fail_they_are_asked_for_again() -> None:
    world = World(DISCOVERED)
    world.links(*BOTH)
    reply(world, SECOND)
    world.run(11)
    assert len(requests(world)) == 2
    reply(world, THIRD)
    assert agents(world)[-1] == THIRD
    accept(world)
    assert world.state() == "registered"


def test_the_anycast_address_of_the_home_agents() -> None:
    """RFC 2526 §2: by the length of the interface identifier."""
    assert home_agents_anycast(IPv6Network("2001:db8:100::/64")) == ANYCAST
    assert home_agents_anycast(IPv6Network("2001:db8::/112")) == IPv6Address("2001:db8::fffe")
