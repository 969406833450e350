"""Received signalling other than acknowledgements: the ladder, Binding Error, Refresh Request, Revocation."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from mip6.actions import SendPacket
from mip6.auth import ntp_timestamp, verify
from mip6.events import PacketReceived
from mip6.forwarding import Encapsulation
from mip6.headers import SignallingPacket, build_packet, ipv6_header
from mip6.messages import (
    BindingError,
    BindingRefreshRequest,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    Heartbeat,
    Message,
    decode_message,
)
from mip6.numbers import HeartbeatFlag, RevocationFlag
from mip6.options import BindingIdentifier, MessageIdentification, NatDetection
from mobilenode.settings import LinkSettings
from tests.mobilenode.support import AGENT, CELL, HOME, KEY, NOON, SETTINGS, WLAN, World, link, registered

NO_FLAGS = RevocationFlag(0)
STRANGER = IPv6Address("2001:db8:c::9")


def message_of(packet: SignallingPacket) -> object:
    return decode_message(packet.payload)


def raw(world: World, mh: bytes, source: IPv6Address = STRANGER) -> list[object]:
    return [*world.give(PacketReceived(build_packet(source, WLAN, mh), "wlan0"))]


def test_unknown_types_are_answered_with_binding_error_2() -> None:
    world = registered()
    raw(world, bytes((59, 0, 99, 0, 0, 0, 0, 0)))
    error = message_of(world.other[-1])
    assert error == BindingError(2, IPv6Address(0)) and world.other[-1].destination == STRANGER
    assert world.other[-1].checksum_is_right() and world.count("unknown_message") == 1


def test_errors_are_limited() -> None:
    world = registered()
    for _ in range(100):
        raw(world, bytes((59, 0, 99, 0, 0, 0, 0, 0)))
    assert len(world.other) == 10 and world.count("unknown_message") == 100


@pytest.mark.parametrize(
    ("mh", "pointer"),
    [
        (bytes((58, 1, 6, 0)) + bytes(12), 40),  # Payload Proto
        (bytes((59, 0, 6, 0)) + bytes(4), 41),  # too short for its type
        (bytes((59, 9, 6, 0)) + bytes(12), 41),  # longer than the packet
    ],
)
def test_bad_headers_are_answered_with_a_parameter_problem(mh: bytes, pointer: int) -> None:
    world = registered()
    raw(world, mh)
    problem = world.other[-1]
    assert problem.protocol == 58 and problem.payload[:2] == b"\x04\0" and problem.checksum_is_right()
    assert int.from_bytes(problem.payload[4:8], "big") == pointer
    assert world.count("parameter_problem") == 1


def test_wrong_checksums_cut_off_packets_and_strangers_are_counted() -> None:
    world = registered()
    good = build_packet(AGENT, WLAN, BindingRefreshRequest())
    world.give(PacketReceived(good[:-1] + b"\1", "wlan0"))
    world.give(PacketReceived(good[:45], "wlan0"))
    world.give(PacketReceived(b"", "wlan0"))
    world.give(PacketReceived(build_packet(AGENT, STRANGER, BindingRefreshRequest()), "wlan0"))
    raw(world, build_packet(STRANGER, WLAN, BindingRefreshRequest())[40:])
    world.receive(Heartbeat(HeartbeatFlag(0), 1))
    names = ("bad_checksum", "form_error", "not_for_us", "not_from_home_agent", "ignored")
    assert [world.count(name) for name in names] == [1, 2, 1, 1, 1]
    assert len(world.sent) == 1 and world.other == []


def test_data_with_a_home_address_option_finds_no_binding_here() -> None:
    world = registered()
    option = bytes((17, 2, 1, 2, 0, 0, 0xC9, 16)) + HOME.packed + bytes(8)
    world.give(PacketReceived(ipv6_header(STRANGER, WLAN, 60, len(option)) + option, "wlan0"))
    assert message_of(world.other[-1]) == BindingError(1, HOME)


@pytest.mark.parametrize("message", [BindingError(1, HOME), BindingRefreshRequest()])
def test_what_anybody_can_say_ends_no_binding_and_no_encapsulation(message: Message) -> None:
    inside = IPv4Address("10.0.0.3")
    ipv4 = (LinkSettings("wlan0", 1, 10), LinkSettings("wwan0", 2, 20, family="ipv4"))
    world = World(replace(SETTINGS, home_agents_ipv4=(IPv4Address("203.0.113.1"),), links=ipv4))
    world.links(link("wlan0", WLAN), link("wwan0", inside))
    world.answer()
    world.answer(extra=(NatDetection(False, 110),))
    world.run(5)
    before, sent = world.engine.forwarding_table(), len(world.sent)
    assert [one.encapsulation for one in before.nodes[HOME].tunnels] == [Encapsulation.NATIVE, Encapsulation.UDP]
    world.receive(message, key=None)
    assert world.engine.forwarding_table() == before
    assert len(world.sent) == sent + 1 and not world.sent[-1].overwrites()


def test_binding_error_1_registers_again_but_not_at_every_one() -> None:
    world = registered()
    for _ in range(20):
        world.receive(BindingError(1, HOME), key=None)
    assert len(world.sent) == 2 and world.sent[1].overwrites()
    world.answer()
    world.run(1)
    assert len(world.sent) == 2
    world.receive(BindingError(2, HOME), key=None)
    world.receive(BindingError(1, STRANGER), key=None)
    world.run(10)
    assert len(world.sent) == 2 and world.count("binding_error_1") == 21


def test_a_refresh_request_is_followed_when_there_is_something_to_refresh() -> None:
    world = World()
    world.receive(BindingRefreshRequest(), key=None)
    assert world.sent == []
    world = registered()
    world.receive(BindingRefreshRequest(), key=None)
    assert len(world.sent) == 2 and world.sent[1].summary() == (10,)
    world.answer()
    world.run(60)
    assert len(world.sent) == 2


def revocation(
    sequence: int, trigger: int, *bids: int, flags: RevocationFlag = NO_FLAGS
) -> BindingRevocationIndication:
    return BindingRevocationIndication(trigger, sequence, flags, tuple(BindingIdentifier(bid) for bid in bids))


def test_a_revoked_bid_is_given_up_for_a_while() -> None:
    world = registered()
    world.receive(revocation(7, 1, 2))
    packet = world.other[-1]
    answer = message_of(packet)
    assert isinstance(answer, BindingRevocationAcknowledgement)
    assert (answer.status, answer.sequence) == (0, 7)
    assert packet.source == WLAN and packet.home_address == HOME
    assert verify(packet.payload, answer, KEY, WLAN, HOME)
    assert world.usable() == [1] and world.binding(2) == "refused"
    assert world.sent[-1].bids() == {1: WLAN} and world.sent[-1].flows() == {10: (1,)}
    world.answer()
    world.receive(revocation(7, 1, 2))  # the answer was lost: the same again
    again = message_of(world.other[-1])
    assert isinstance(again, BindingRevocationAcknowledgement) and again.status == 0
    world.run(30)
    assert world.sent[-1].bids() == {1: WLAN, 2: CELL}


def test_a_revocation_of_everything_that_is_not_administrative_registers_at_once() -> None:
    world = registered()
    world.receive(revocation(1, 7))
    assert world.sent[-1].bids() == {1: WLAN, 2: CELL} and world.state() == "registering"


def test_an_administrative_revocation_of_everything_is_obeyed() -> None:
    world = registered()
    world.receive(revocation(1, 1))
    world.run(29)
    assert len(world.sent) == 1 and world.state() == "refused" and world.usable() == []
    world.run(1.5)
    assert len(world.sent) == 2


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (revocation(1, 1, 2, flags=RevocationFlag.PROXY), 135),
        (revocation(1, 1, 2, flags=RevocationFlag.IPV4), 129),
        (revocation(1, 128, 2), 134),
        (revocation(1, 77, 2), 133),
        (revocation(1, 1, 9), 128),
        (revocation(1, 7, 2, 9), 1),
    ],
)
def test_revocations_that_cannot_be_followed(message: BindingRevocationIndication, status: int) -> None:
    world = registered()
    world.receive(message)
    answer = message_of(world.other[-1])
    assert isinstance(answer, BindingRevocationAcknowledgement) and answer.status == status
    assert answer.flags == message.flags
    assert world.usable() == ([1] if status == 1 else [1, 2])


def test_revocations_must_be_authentic() -> None:
    world = registered()
    actions = world.receive(revocation(1, 1, 2), key=None)
    assert not any(isinstance(one, SendPacket) for one in actions)
    assert world.count("not_authentic") == 1 and world.usable() == [1, 2]


def test_a_revocation_that_is_replayed_later_revokes_nothing() -> None:
    world = registered()
    world.receive(revocation(7, 1, 2))
    world.answer()
    world.run(31)
    world.answer()
    assert world.usable() == [1, 2]
    world.receive(revocation(8, 5, 1))  # another one in between
    world.answer()
    world.receive(revocation(7, 1, 2))
    answer = message_of(world.other[-1])
    assert isinstance(answer, BindingRevocationAcknowledgement) and (answer.status, answer.sequence) == (0, 7)
    assert world.usable() == [1, 2]


def test_a_revocation_of_another_time_is_not_obeyed_even_after_a_restart() -> None:
    world = registered()
    old, fresh = (ntp_timestamp(NOON + world.now + seconds) for seconds in (-3600, -3))
    message = revocation(7, 1, 2)
    done = world.receive(message.with_options((*message.options, MessageIdentification(old))))
    assert world.usable() == [1, 2] and not any(isinstance(one, SendPacket) for one in done)
    world.receive(message.with_options((*message.options, MessageIdentification(fresh))))
    assert world.usable() == [1]
