"""Packets that are no registration: Binding Errors and Parameter Problems, at a limited rate."""

from __future__ import annotations

from mip6 import actions
from mip6.headers import build_packet, parse_packet
from mip6.messages import (
    BindingError,
    BindingUpdate,
    HomeTestInit,
    encode_message,
)
from mip6.numbers import BindingStatus
from tests.homeagent.support import (
    AHR,
    HA,
    HOME,
    WLAN,
    Script,
    bid,
)

S = BindingStatus


def test_binding_error_for_unknown_messages_and_home_addresses() -> None:
    script = Script()
    mh = bytearray(encode_message(BindingUpdate(1, AHR, 0)))
    mh[2] = 99
    script.give(build_packet(WLAN, HA, bytes(mh), home_address=HOME))
    _, error = script.answer()
    assert isinstance(error, BindingError)
    assert (error.status, error.home_address) == (2, HOME)
    script.give(build_packet(WLAN, HA, HomeTestInit(bytes(8))))
    assert isinstance(script.answer()[1], BindingError)
    # data with a Home Address option: status 1 without a binding, delivered as from the home address with one
    datagram = bytearray(build_packet(WLAN, HA, encode_message(BindingUpdate(1, AHR, 0)), home_address=HOME))
    datagram[40] = 17
    script.give(bytes(datagram))
    _, error = script.answer()
    assert isinstance(error, BindingError)
    assert (error.status, error.home_address) == (1, HOME)
    script.update(bid(1, WLAN))
    (delivered,) = script.give(bytes(datagram))
    assert isinstance(delivered, actions.DeliverLocally)
    assert parse_packet(delivered.packet).source == HOME


def test_header_mistakes_earn_a_parameter_problem_that_points_at_them() -> None:
    script = Script()
    mh = bytearray(encode_message(BindingUpdate(1, AHR, 0)))
    mh[0] = 6
    script.give(build_packet(WLAN, HA, bytes(mh), home_address=HOME))
    (sent,) = script.seen
    assert isinstance(sent, actions.SendPacket)
    icmp = parse_packet(sent.packet)
    assert icmp.checksum_is_right()
    assert (icmp.payload[0], icmp.payload[1], int.from_bytes(icmp.payload[4:8], "big")) == (4, 0, 64)
    mh = bytearray(encode_message(BindingUpdate(1, AHR, 0)))
    mh[1] = 0
    script.give(build_packet(WLAN, HA, bytes(mh[:8]), home_address=HOME))
    (sent,) = script.seen
    assert isinstance(sent, actions.SendPacket)
    assert int.from_bytes(parse_packet(sent.packet).payload[4:8], "big") == 65
    packet = bytearray(script.packet(bid(1, WLAN)))
    packet[68] ^= 1  # checksum
    assert script.silence(bytes(packet))
    assert script.bindings() == {}


def test_errors_are_rate_limited() -> None:
    script = Script()
    packet = build_packet(WLAN, HA, HomeTestInit(bytes(8)))
    sent = sum(not script.silence(packet) for _ in range(100))
    assert 10 <= sent <= 21  # 100 packets in one second: 10 at once and 10 a second
