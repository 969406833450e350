"""Dynamic home agent address discovery and mobile prefix discovery at the home agent."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random

import pytest

from homeagent.engine import HomeAgent
from homeagent.settings import HomeAgentSettings
from mip6.actions import Action, SendPacket
from mip6.events import PacketReceived, RouterAdvertised
from mip6.headers import parse_packet
from mip6.icmp6 import (
    HomeAgentDiscoveryReply,
    HomeAgentDiscoveryRequest,
    Icmp6Message,
    MobilePrefixAdvertisement,
    MobilePrefixSolicitation,
    build_icmp6,
    decode_icmp6,
)
from mip6.messages import BindingError, decode_message
from mip6.neighbourdiscovery import (
    HomeAgentInformation,
    NeighbourOption,
    PrefixInformation,
    RouterAdvertisement,
    build_router_advertisement,
)
from tests.homeagent.support import CELLULAR, HA, HOME, HOST, ROUTER, SETTINGS, WLAN, Script, bid

ANYCAST = IPv6Address("2001:db8:100:0:fdff:ffff:ffff:fffe")
ONE, TWO, THREE = (IPv6Address(f"2001:db8:100::a{n}") for n in (1, 2, 3))
ROUTER_ONE, ROUTER_TWO = IPv6Address("fe80::1"), IPv6Address("fe80::2")
AT_HOME = replace(SETTINGS, home_link="eth1")


def request(
    agent: HomeAgent, *, to: IPv6Address = ANYCAST, mobile_router: bool = False, now: float = 0
) -> list[Action]:
    packet = build_icmp6(WLAN, to, HomeAgentDiscoveryRequest(77, mobile_router))
    return agent.handle(PacketReceived(packet, "eth0"), now)


def reply(actions: list[Action]) -> HomeAgentDiscoveryReply:
    (sent,) = (one for one in actions if isinstance(one, SendPacket))
    packet = parse_packet(sent.packet)
    assert (packet.source, packet.destination) == (HA, WLAN) and packet.checksum_is_right()
    message = decode_icmp6(packet.payload)
    assert isinstance(message, HomeAgentDiscoveryReply) and message.identifier == 77
    assert len(sent.packet) <= 1280
    return message


def listed(agent: HomeAgent, *, mobile_router: bool = False, now: float = 0) -> list[IPv6Address]:
    return list(reply(request(agent, mobile_router=mobile_router, now=now)).addresses)


def advertise(
    agent: HomeAgent,
    source: IPv6Address,
    *addresses: IPv6Address,
    home_agent: bool = True,
    lifetime: int = 1800,
    told: HomeAgentInformation | None = None,
    now: float = 0.0,
) -> None:
    options: list[NeighbourOption] = [PrefixInformation(64, True, True, True, prefix=one) for one in addresses]
    options += [told] if told is not None else []
    message = RouterAdvertisement(64, False, False, home_agent, 0, 0, lifetime, options=tuple(options))
    packet = build_router_advertisement(source, IPv6Address("ff02::1"), message)
    agent.handle(RouterAdvertised("eth1", source, packet[40:]), now)


def make(settings: HomeAgentSettings = AT_HOME) -> HomeAgent:
    return HomeAgent(settings, Random(3))


def test_it_names_itself() -> None:
    agent = make(replace(SETTINGS, nodes=(HOST,)))
    message = reply(request(agent))
    assert message.addresses == (HA,) and not message.mobile_router
    assert reply(request(agent, to=HA)).addresses == (HA,)  # asked by its own address
    assert reply(request(agent, mobile_router=True)).addresses == (HA,)  # better than nobody, and says R=0


def test_mobile_routers_are_told_of_those_that_serve_them() -> None:
    """RFC 3963 §7.1."""
    agent = make()
    advertise(agent, ROUTER_ONE, ONE, told=HomeAgentInformation(True, 0, 0, 1800))
    advertise(agent, ROUTER_TWO, TWO)
    message = reply(request(agent, mobile_router=True))
    assert message.mobile_router and set(message.addresses) == {HA, ONE}
    assert set(listed(agent)) == {HA, ONE, TWO}


def test_by_falling_preference_and_in_random_order_among_equals() -> None:
    agent = make(replace(AT_HOME, preference=5, other_home_agents=(THREE,)))
    advertise(agent, ROUTER_ONE, ONE, told=HomeAgentInformation(False, 0, 9, 1800))
    advertise(agent, ROUTER_TWO, TWO, told=HomeAgentInformation(False, 0, 5, 1800))
    orders = {tuple(listed(agent, now=float(now))) for now in range(20)}
    assert orders == {(ONE, HA, TWO, THREE), (ONE, TWO, HA, THREE)}


def test_entries_end_with_their_lifetime_or_when_they_say_so() -> None:
    agent = make()
    advertise(agent, ROUTER_ONE, ONE, lifetime=10)
    advertise(agent, ROUTER_TWO, TWO, lifetime=10, told=HomeAgentInformation(False, 0, 0, 100))
    assert set(listed(agent, now=9)) == {HA, ONE, TWO}
    assert set(listed(agent, now=11)) == {HA, TWO}
    advertise(agent, ROUTER_TWO, home_agent=False, now=12)
    assert listed(agent, now=13) == [HA]
    advertise(agent, ROUTER_ONE, ONE, now=20)
    advertise(agent, ROUTER_ONE, ONE, lifetime=0, now=21)
    assert listed(agent, now=22) == [HA]


def test_addresses_of_one_home_agent_add_up() -> None:
    agent = make()
    advertise(agent, ROUTER_ONE, ONE)
    advertise(agent, ROUTER_ONE, TWO, now=1)
    assert set(listed(agent, now=2)) == {HA, ONE, TWO}


def test_prefixes_without_the_routers_address_name_nobody() -> None:
    agent = make()
    option = PrefixInformation(64, True, True, False, prefix=IPv6Address("2001:db8:100::"))
    message = RouterAdvertisement(64, False, False, True, 0, 0, 1800, options=(option,))
    packet = build_router_advertisement(ROUTER_ONE, IPv6Address("ff02::1"), message)
    agent.handle(RouterAdvertised("eth1", ROUTER_ONE, packet[40:]), 0.0)
    assert listed(agent) == [HA]


def test_advertisements_that_are_not_well_formed_are_counted() -> None:
    agent = make()
    advertise(agent, IPv6Address("2001:db8::1"), ONE)
    agent.handle(RouterAdvertised("eth1", ROUTER_ONE, b"\x86\0\0\0"), 0.0)
    assert listed(agent) == [HA] and agent.status(0)["signalling"]["form_error"] == 2


def test_the_reply_fits_into_1280_octets_with_the_best() -> None:
    agent = make()
    for number in range(100):
        told = HomeAgentInformation(False, 0, 1 if number < 10 else 2, 1800)
        link = IPv6Address(int(IPv6Address("fe80::")) + number + 1)
        advertise(agent, link, IPv6Address(int(IPv6Address("2001:db8:100::1000")) + number), told=told)
    found = listed(agent)
    assert len(found) == 77 and HA not in found
    assert all(int(one) & 0xFFF >= 10 for one in found)


def test_requests_are_answered_at_a_limited_rate() -> None:
    agent = make()
    answered = sum(bool(request(agent, now=0.0)) for _ in range(100))
    assert answered == 10 and agent.status(0)["signalling"]["discovery_reply_held_back"] == 90
    assert listed(agent, now=1.0) == [HA]


def test_the_anycast_address_is_for_discovery_only() -> None:
    agent = make()
    packet = build_icmp6(WLAN, ANYCAST, MobilePrefixSolicitation(1), home_address=HOME)
    assert agent.handle(PacketReceived(packet, "eth0"), 0.0) == []
    update = Script().packet(bid(1, WLAN))
    data = update[:24] + ANYCAST.packed + update[40:]
    assert agent.handle(PacketReceived(data, "eth0"), 0.0) == []
    assert agent.status(0)["signalling"] == {"ignored": 1, "not_for_us": 1}


# --- prefixes --------------------------------------------------------------------------------------------------------


def solicit(script: Script, source: IPv6Address = WLAN, home: IPv6Address | None = HOME) -> list[Action]:
    packet = build_icmp6(source, HA, MobilePrefixSolicitation(99), home_address=home)
    return script.agent.handle(PacketReceived(packet, "eth0"), script.now)


def bound(settings: HomeAgentSettings = SETTINGS) -> Script:
    script = Script(settings)
    script.update(bid(1, WLAN), bid(2, CELLULAR))
    return script


def test_a_solicitation_is_answered_with_the_home_prefixes() -> None:
    """RFC 6275 §10.6.3: by type 2 routing header, to the source of the solicitation."""
    (sent,) = (one for one in solicit(bound()) if isinstance(one, SendPacket))
    packet = parse_packet(sent.packet)
    assert (packet.source, packet.destination, packet.routing_address) == (HA, WLAN, HOME)
    assert packet.checksum_is_right()
    message: Icmp6Message = decode_icmp6(packet.payload)
    assert isinstance(message, MobilePrefixAdvertisement) and message.identifier == 99
    assert [(one.prefix, one.length) for one in message.prefixes()] == [(IPv6Address("2001:db8:100::"), 64)]
    assert not message.prefixes()[0].on_link  # it is routed here, there is no link


def test_one_second_between_two_advertisements_to_a_mobile_node() -> None:
    script = bound()
    assert len(solicit(script)) == 1 and solicit(script, CELLULAR) == []
    script.now += 1.0
    assert len(solicit(script)) == 1


@pytest.mark.parametrize(("source", "home"), [(WLAN, ROUTER.home_address), (IPv6Address("2001:db8:bad::1"), HOME)])
def test_without_a_binding_there_is_a_binding_error(source: IPv6Address, home: IPv6Address) -> None:
    script = Script() if source == WLAN else bound()
    (sent,) = solicit(script, source, home)
    assert isinstance(sent, SendPacket)
    assert isinstance(decode_message(parse_packet(sent.packet).payload), BindingError)


def test_a_solicitation_without_home_address_option_is_not_answered() -> None:
    script = bound()
    assert solicit(script, WLAN, None) == []
    assert script.agent.status(script.now)["signalling"]["no_home_address_option"] == 1


def test_home_prefixes_of_other_lengths_have_an_anycast_address_too() -> None:
    agent = make(replace(SETTINGS, home_prefixes=(IPv6Network("2001:db8:100::/56"),)))
    assert reply(request(agent, to=IPv6Address("2001:db8:100:ff:ffff:ffff:ffff:fffe"))).addresses == (HA,)
