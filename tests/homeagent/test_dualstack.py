"""Stories of mobile nodes in IPv4 networks, behind NATs and with IPv4 home addresses (RFC 5555 §4.5, RFC 5648 §8)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from homeagent.engine import HomeAgent
from mip6 import actions, events
from mip6.forwarding import Encapsulation, Tunnel
from mip6.headers import build_packet, parse_packet
from mip6.messages import BindingAcknowledgement, BindingRevocationIndication, BindingUpdate, decode_message
from mip6.numbers import BindingStatus as S
from mip6.numbers import IPv4Status, UpdateFlag
from mip6.options import (
    BindingIdentifier,
    IPv4AddressAcknowledgement,
    IPv4CareOfAddress,
    IPv4HomeAddress,
    NatDetection,
)
from mip6.udp import UdpEnds
from tests.homeagent.support import AHR, AHRO, CELLULAR, HA, HOME, ROUTER, SETTINGS, WALL, WLAN, Script, bid

HA4 = IPv4Address("203.0.113.1")
PUBLIC = IPv4Address("198.51.100.7")  # a care-of address without NAT
INSIDE = IPv4Address("10.0.0.2")
NAT = IPv4Address("198.51.100.99")
HOME4 = IPv4Address("192.0.2.5")
NETWORK4 = IPv4Network("192.0.2.128/28")
SETTINGS4 = replace(SETTINGS, ipv4_address=HA4)
WITH_HOME = replace(SETTINGS4, nodes=(replace(ROUTER, ipv4_home_address=HOME4, ipv4_prefixes=(NETWORK4,)),))
ALL_ONES = 0xFFFFFFFF


def ends(remote: IPv4Address, port: int = 4191) -> UdpEnds:
    return UdpEnds(HA4, remote, remote_port=port)


def detection(answer: BindingAcknowledgement) -> tuple[bool, int]:
    found = answer.find(NatDetection)
    assert isinstance(found, NatDetection)
    return found.force_udp, found.refresh_time


def tunnels(script: Script) -> dict[int, Tunnel]:
    nodes = script.agent.forwarding_table().nodes
    return {one.bid: one for one in nodes[HOME].tunnels} if HOME in nodes else {}


def test_behind_a_nat_data_goes_in_udp_to_the_observed_address_and_port() -> None:
    script = Script(SETTINGS4)
    answer = script.update(bid(3, INSIDE), outer=ends(NAT, 20001))
    assert answer.status == S.ACCEPTED and detection(answer) == (False, 110)
    packet, _ = script.answer()
    assert (packet.source, packet.destination, packet.routing_address) == (HA, HOME, None)  # no routing header
    tunnel = tunnels(script)[3]
    assert (tunnel.local, tunnel.remote, tunnel.remote_port) == (HA4, NAT, 20001)
    assert tunnel.encapsulation is Encapsulation.UDP and tunnel.mtu == 1500 - 28


def test_without_nat_data_goes_in_plain_ipv4_and_needs_no_keepalive() -> None:
    script = Script(SETTINGS4)
    answer = script.update(bid(3, PUBLIC), outer=ends(PUBLIC))
    assert detection(answer) == (False, ALL_ONES)
    tunnel = tunnels(script)[3]
    assert (tunnel.remote, tunnel.encapsulation, tunnel.mtu) == (PUBLIC, Encapsulation.NATIVE, 1480)


@pytest.mark.parametrize(
    ("policy", "flag", "status", "said", "encapsulation"),
    [
        ("allow", True, S.ACCEPTED, (True, 110), Encapsulation.UDP),
        ("refuse", True, S.ADMINISTRATIVELY_PROHIBITED, (False, ALL_ONES), None),
        ("refuse", False, S.ACCEPTED, (False, ALL_ONES), Encapsulation.NATIVE),
        ("force", False, S.ACCEPTED, (True, 110), Encapsulation.UDP),
    ],
)
def test_udp_without_need_is_a_matter_of_policy(
    policy: str, flag: bool, status: S, said: tuple[bool, int], encapsulation: Encapsulation | None
) -> None:
    script = Script(replace(SETTINGS4, udp_encapsulation=policy))
    flags = AHR | UpdateFlag.FORCE_UDP if flag else AHR
    answer = script.update(bid(3, PUBLIC), flags=flags, outer=ends(PUBLIC))
    assert answer.status == status and detection(answer) == said
    assert [one.encapsulation for one in tunnels(script).values()] == ([encapsulation] if encapsulation else [])


def test_the_same_encapsulation_over_ipv6_where_nothing_else_gets_through() -> None:
    script = Script(SETTINGS4)
    outer = UdpEnds(HA, WLAN, remote_port=4191)
    answer = script.update(bid(1, WLAN), flags=AHR | UpdateFlag.FORCE_UDP, outer=outer)
    assert detection(answer) == (True, 110)
    tunnel = tunnels(script)[1]
    assert (tunnel.remote, tunnel.encapsulation, tunnel.mtu) == (WLAN, Encapsulation.UDP, 1500 - 48)
    script.update(bid(1, WLAN))  # the next one comes natively: what blocked it is gone
    assert tunnels(script)[1].encapsulation is Encapsulation.NATIVE


def test_a_bulk_registration_that_comes_natively_forces_nothing_either() -> None:
    script = Script(SETTINGS4)
    script.update(bid(1, WLAN), flags=AHR | UpdateFlag.FORCE_UDP, outer=UdpEnds(HA, WLAN, remote_port=4191))
    script.update(bid(1, WLAN), bid(2, CELLULAR))
    assert {one.encapsulation for one in tunnels(script).values()} == {Encapsulation.NATIVE}


def test_a_plain_binding_has_its_address_in_the_ipv4_care_of_address_option() -> None:
    script = Script(SETTINGS4)
    script.update(IPv4CareOfAddress(INSIDE), outer=ends(NAT, 5000))
    assert (tunnels(script)[0].remote, tunnels(script)[0].remote_port) == (NAT, 5000)
    script.update(lifetime=0, outer=ends(NAT, 5000))
    assert tunnels(script) == {}


def test_a_nat_that_rebinds_is_followed_by_the_next_authentic_update() -> None:
    script = Script(SETTINGS4)
    script.update(bid(3, INSIDE), outer=ends(NAT, 20001))
    script.update(bid(3, INSIDE), outer=ends(NAT, 31337))
    assert tunnels(script)[3].remote_port == 31337
    other = IPv4Address("198.51.100.100")
    script.update(bid(3, INSIDE), outer=ends(other, 31337))
    assert tunnels(script)[3].remote == other


def test_nothing_that_is_not_authentic_and_fresh_moves_a_binding() -> None:
    script = Script(SETTINGS4)
    update = script.packet(bid(3, INSIDE), outer=ends(NAT, 20001))
    script.give(update, ends(NAT, 20001))
    before, attacker = script.agent.forwarding_table(), ends(IPv4Address("192.0.2.66"), 666)
    # the same packet again from elsewhere; a forged one; one without any signature
    script.give(update, attacker)
    assert script.answer()[1].status in (S.SEQUENCE_NUMBER_OUT_OF_WINDOW, S.MIPV6_ID_MISMATCH)  # type: ignore[attr-defined]
    forged = bytearray(script.packet(bid(3, INSIDE), outer=attacker))
    forged[-1] ^= 1
    script.give(build_packet(HOME, HA, bytes(forged[40:])), attacker)
    assert script.answer()[1].status == S.MIPV6_AUTH_FAIL  # type: ignore[attr-defined]
    assert script.silence(script.packet(bid(3, INSIDE), signed=False, outer=attacker), attacker)
    assert script.agent.forwarding_table() == before


def test_a_flood_of_forged_keepalives_is_counted_and_answered_at_a_limited_rate() -> None:
    script = Script(SETTINGS4)
    script.update(bid(3, INSIDE), outer=ends(NAT, 20001))
    before, answers = script.agent.forwarding_table(), 0
    for number in range(1000):
        packet = bytearray(script.packet(bid(3, INSIDE), outer=ends(NAT)))
        packet[-1] ^= 1
        actions_ = script.agent.handle(
            events.PacketReceived(build_packet(HOME, HA, bytes(packet[40:])), "", outer=ends(NAT, number)), script.now
        )
        answers += sum(isinstance(one, actions.SendPacket) for one in actions_)
    assert answers == 10
    assert script.agent.status(script.now)["signalling"]["refused_146"] == 1000
    assert script.agent.forwarding_table() == before


def test_strangers_get_no_answer_but_a_limited_number_of_errors() -> None:
    script = Script(SETTINGS4)
    stranger = ends(IPv4Address("192.0.2.66"), 666)
    whole = script.packet(bid(3, INSIDE), outer=stranger)
    for length in range(len(whole)):
        script.give(whole[:length], stranger)
        assert not [one for one in script.seen if isinstance(one, actions.SendPacket)]
    other = replace(ROUTER, home_address=IPv6Network("2001:db8:100::/64")[0x77])
    unknown = Script(SETTINGS4, other)
    assert unknown.silence(unknown.packet(bid(1, INSIDE), outer=stranger), stranger)
    assert script.silence(script.packet(bid(3, INSIDE)), stranger)  # with a Home Address option, inside UDP
    counts = script.agent.status(script.now)["signalling"]
    assert counts["form_error"] + counts.get("bad_checksum", 0) == len(whole)
    assert counts["wrong_encapsulation"] == 1
    assert script.bindings() == {}


def test_an_ipv4_care_of_address_comes_into_a_bulk_only_when_it_is_known() -> None:
    script = Script(SETTINGS4)
    answer = script.update(bid(1, WLAN), bid(3, INSIDE))  # RFC 5648 §8.1: not by bulk at first
    assert answer.status == S.MCOA_NOTCOMPLETE
    assert [one.status for one in answer.find_all(BindingIdentifier)] == [0, S.MCOA_UNKNOWN_COA]
    script.update(bid(3, INSIDE), outer=ends(NAT, 20001))
    answer = script.update(bid(1, WLAN), bid(2, CELLULAR), bid(3, INSIDE), flags=AHRO)
    assert answer.status == S.ACCEPTED
    assert (tunnels(script)[3].remote, tunnels(script)[3].remote_port) == (NAT, 20001)  # as it was
    script.update(bid(1, WLAN), bid(3))  # refreshed by its number alone
    assert tunnels(script)[3].remote == NAT
    # a bulk inside UDP says nothing of where each of them is
    script.update(bid(1, WLAN), bid(3, INSIDE), outer=ends(NAT, 999))
    assert (tunnels(script)[1].remote, tunnels(script)[3].remote_port) == (WLAN, 20001)


def test_an_ipv4_address_needs_a_home_agent_that_has_one_and_is_unicast() -> None:
    assert Script().update(bid(3, INSIDE)).status == S.REASON_UNSPECIFIED
    for wrong in ("0.0.0.1", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"):
        script = Script(SETTINGS4)
        assert script.update(bid(3, IPv4Address(wrong)), outer=ends(NAT)).status == S.MCOA_MALFORMED


def test_a_static_ipv4_home_address_and_prefix() -> None:
    script = Script(WITH_HOME)
    ask = (IPv4HomeAddress(32, False, HOME4), IPv4HomeAddress(28, True, IPv4Address(0)))
    answer = script.update(*ask, bid(1, WLAN))
    acks = [(one.status, one.prefix_length, one.home_address) for one in answer.find_all(IPv4AddressAcknowledgement)]
    assert acks == [(0, 32, HOME4), (0, 28, NETWORK4.network_address)]
    kinds = [type(one) for one in answer.options]
    assert kinds.index(IPv4AddressAcknowledgement) < kinds.index(BindingIdentifier)  # RFC 5648 §8.2
    assert script.agent.forwarding_table().nodes[HOME].prefixes[-2:] == (IPv4Network(HOME4), NETWORK4)
    assert {IPv4Network(HOME4), NETWORK4} <= {one.destination for one in script.agent.kernel_state().routes}
    script.update(bid(2, CELLULAR), *ask)
    script.update(bid(2), lifetime=0)  # the end of one care-of address is none of the IPv4 binding
    assert script.agent.forwarding_table().nodes[HOME].prefixes[-2:] == (IPv4Network(HOME4), NETWORK4)
    script.update(bid(1, WLAN))  # without the option: the IPv4 binding ends (RFC 5555 §4.4.2.1)
    assert IPv4Network(HOME4) not in script.agent.forwarding_table().nodes[HOME].prefixes


@pytest.mark.parametrize(
    ("option", "status"),
    [
        (IPv4HomeAddress(32, False, IPv4Address("192.0.2.6")), IPv4Status.INCORRECT_HOME_ADDRESS),
        (IPv4HomeAddress(0, False, HOME4), IPv4Status.INVALID_ADDRESS),
        (IPv4HomeAddress(24, True, IPv4Address("192.0.2.0")), IPv4Status.PREFIX_UNAUTHORIZED),
    ],
)
def test_what_is_not_the_nodes_is_refused_by_its_own_status(option: IPv4HomeAddress, status: IPv4Status) -> None:
    script = Script(WITH_HOME)
    answer = script.update(option, bid(1, WLAN))
    (acknowledgement,) = answer.find_all(IPv4AddressAcknowledgement)
    assert answer.status == S.ACCEPTED and (acknowledgement.status, acknowledgement.prefix_length) == (status, 0)
    assert script.agent.forwarding_table().nodes[HOME].prefixes == ROUTER.prefixes


def test_addresses_of_the_pool_stay_their_nodes_until_another_needs_them() -> None:
    pool = IPv4Network("192.0.2.0/30")  # two addresses
    nodes = [
        replace(ROUTER, home_address=IPv6Network("2001:db8:100::/64")[n], identifier=f"n{n}", prefixes=())
        for n in (16, 17, 18)
    ]
    settings = replace(SETTINGS4, nodes=tuple(nodes), ipv4_home_pool=pool)
    agent = HomeAgent(settings, random.Random(1))
    agent.handle(events.WallClockSet(WALL), 100.0)
    scripts = [Script(settings, node) for node in nodes]
    for script in scripts:
        script.agent = agent

    def ask(script: Script, lifetime: int = 600) -> tuple[int, IPv4Address]:
        flags = UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION
        answer = script.update(IPv4HomeAddress(32, False, IPv4Address(0)), bid(1, WLAN), flags=flags, lifetime=lifetime)
        found = answer.find(IPv4AddressAcknowledgement)
        return (found.status, found.home_address) if found else (-1, IPv4Address(0))

    assert ask(scripts[0]) == (0, pool[1]) and ask(scripts[1]) == (0, pool[2])
    assert ask(scripts[2])[0] == IPv4Status.DYNAMIC_ASSIGNMENT_UNAVAILABLE
    assert ask(scripts[0]) == (0, pool[1])
    assert ask(scripts[0], lifetime=0) == (-1, IPv4Address(0))
    assert ask(scripts[0]) == (0, pool[1])  # it comes back to its own
    ask(scripts[0], lifetime=0)
    assert ask(scripts[2]) == (0, pool[1])
    assert ask(scripts[0])[0] == IPv4Status.DYNAMIC_ASSIGNMENT_UNAVAILABLE


def test_an_address_of_the_pool_that_went_on_to_another_node_has_one_owner_after_a_restart() -> None:
    nodes = [replace(ROUTER, home_address=HOME + n, identifier=f"n{n}", prefixes=()) for n in range(2)]
    settings = replace(SETTINGS4, nodes=tuple(nodes), ipv4_home_pool=IPv4Network("192.0.2.1/32"))
    scripts = [Script(settings, node) for node in nodes]
    scripts[1].agent = scripts[0].agent
    any_address = IPv4HomeAddress(32, False, IPv4Address(0))
    flags = UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION
    records: dict[IPv6Address, Mapping[str, object] | None] = {}
    for script, lifetime in ((scripts[0], 600), (scripts[0], 0), (scripts[1], 600)):
        script.update(any_address, bid(1, WLAN), flags=flags, lifetime=lifetime)
        records |= {one.home_address: one.record for one in script.seen if isinstance(one, actions.StoreNode)}
    for order in (records, dict(reversed(records.items()))):
        again = Script(settings, nodes[0], sequence=10, now=200.0)
        again.agent.restore({home: record for home, record in order.items() if record}, again.now)
        answer = again.update(any_address, bid(1, WLAN), flags=flags).find(IPv4AddressAcknowledgement)
        assert answer.status == IPv4Status.DYNAMIC_ASSIGNMENT_UNAVAILABLE


def test_all_of_it_survives_a_restart() -> None:
    script = Script(WITH_HOME)
    script.update(IPv4HomeAddress(32, False, HOME4), bid(3, INSIDE), outer=ends(NAT, 20001))
    (store,) = [one for one in script.seen if isinstance(one, actions.StoreNode)]
    assert store.record is not None
    again = HomeAgent(WITH_HOME, random.Random(2))
    again.handle(events.WallClockSet(WALL + 50), script.now - 50)
    again.restore({HOME: store.record}, script.now - 50)
    before, after = script.agent.forwarding_table().nodes[HOME], again.forwarding_table().nodes[HOME]
    assert after.prefixes == before.prefixes
    assert replace(after.tunnels[0], expires=None) == replace(before.tunnels[0], expires=None)
    # without an IPv4 address there is no way to it any more
    without = HomeAgent(replace(WITH_HOME, ipv4_address=None), random.Random(3))
    without.handle(events.WallClockSet(WALL), script.now)
    without.restore({HOME: store.record}, script.now)
    assert without.forwarding_table().nodes == {}
    old = {**store.record, "bindings": [[1, str(WLAN), 10, 600, WALL + script.now + 600]]}
    for name in ("ipv4_home_address", "ipv4_prefixes"):
        del old[name]
    without.restore({HOME: old}, script.now)  # as a version without IPv4 has left it
    assert without.forwarding_table().nodes[HOME].tunnels[0].remote == WLAN


def test_revocation_reaches_a_node_behind_its_nat() -> None:
    script = Script(SETTINGS4)
    script.update(bid(3, INSIDE), outer=ends(NAT, 20001))
    done = script.agent.handle(events.OperatorRequest("revoke", {"home_address": str(HOME)}), script.now)
    (sent,) = [one for one in done if isinstance(one, actions.SendPacket)]
    packet = parse_packet(sent.packet)
    assert sent.outer == ends(NAT, 20001) and (packet.destination, packet.routing_address) == (HOME, None)
    assert isinstance(decode_message(packet.payload), BindingRevocationIndication)


def test_the_sockets_are_those_of_both_addresses() -> None:
    assert {(one.address, one.port) for one in Script(SETTINGS4).agent.kernel_state().sockets} == {
        (HA, 4191),
        (HA4, 4191),
    }


def test_proxy_arp_on_a_home_link() -> None:
    script = Script(replace(WITH_HOME, home_link="home0"))
    packet = script.packet(IPv4HomeAddress(32, False, HOME4), bid(1, WLAN))
    script.give(packet)
    script.agent.handle(events.DuplicateAddressChecked(HOME, False), script.now)
    assert actions.ProxyNeighbour(HOME4, "home0") in script.agent.kernel_state().proxies
    assert isinstance(decode_message(parse_packet(packet).payload), BindingUpdate)
