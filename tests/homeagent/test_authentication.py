"""Who may register: RFC 4285 authentication and replay protection, and doing without."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

from homeagent.settings import HomeAgentSettings
from mip6.auth import Algorithm, SecurityAssociation, ntp_timestamp
from mip6.headers import build_packet, parse_packet
from mip6.numbers import BindingStatus
from mip6.options import (
    MessageIdentification,
)
from tests.homeagent.support import (
    CELLULAR,
    HA,
    HOME,
    HOST,
    KEY256,
    ROUTER,
    SETTINGS,
    WALL,
    WLAN,
    Script,
    U,
    bid,
)

S = BindingStatus


def test_authentication() -> None:
    script = Script()
    assert script.update(bid(1, WLAN), association=KEY256).status == S.ACCEPTED
    forged = SecurityAssociation(4096, Algorithm.HMAC_SHA1, bytes(16))
    script.give(script.packet(bid(2, CELLULAR), association=forged))
    _, message = script.answer()
    assert message.status == S.MIPV6_AUTH_FAIL  # type: ignore[attr-defined]
    unknown = replace(KEY256, spi=9999)
    assert script.silence(script.packet(bid(2, CELLULAR), association=unknown))
    assert script.silence(script.packet(bid(2, CELLULAR), signed=False))
    stranger = Script(node=replace(HOST, home_address=IPv6Address("2001:db8:100::99")))
    assert stranger.silence(stranger.packet(bid(1, WLAN)))
    assert script.bindings() == {1: str(WLAN)}


def test_a_signed_update_cannot_be_moved_to_another_care_of_address() -> None:
    script = Script()
    packet = parse_packet(script.packet(bid(1, WLAN)))
    script.give(build_packet(CELLULAR, HA, packet.payload, home_address=HOME))
    assert script.answer()[1].status == S.MIPV6_AUTH_FAIL  # type: ignore[attr-defined]


def test_timestamps() -> None:
    script = Script()
    assert script.update(bid(1, WLAN), stamp=0).status == S.MIPV6_MESG_ID_REQD
    late = ntp_timestamp(script.now + WALL - 8)
    ack = script.update(bid(1, WLAN), stamp=late)
    assert ack.status == S.MIPV6_ID_MISMATCH
    echoed = ack.find(MessageIdentification).timestamp
    assert echoed & 0xFFFFFFFF == late & 0xFFFFFFFF
    assert abs((echoed >> 32) - (ntp_timestamp(script.now + WALL) >> 32)) <= 1
    packet = script.packet(bid(1, WLAN))
    script.give(packet)
    assert script.bindings() == {1: str(WLAN)}
    script.give(packet)  # replayed
    assert script.answer()[1].status == S.MIPV6_ID_MISMATCH  # type: ignore[attr-defined]


def test_sequence_replay_protection_outlives_the_binding() -> None:
    node = replace(ROUTER, replay="sequence")
    script = Script(replace(SETTINGS, nodes=(node,)), node)
    script.update(bid(1, WLAN), sequence=50, lifetime=8)
    old = script.packet(bid(1, WLAN), sequence=50, lifetime=8)
    script.pass_time(1000)
    assert script.bindings() == {}
    script.give(old)
    assert script.answer()[1].status == S.SEQUENCE_NUMBER_OUT_OF_WINDOW  # type: ignore[attr-defined]


def test_insecure_has_to_be_asked_for() -> None:
    open_house = HomeAgentSettings(HA, SETTINGS.home_prefixes, insecure=True)
    script = Script(open_house, HOST)
    assert script.update(bid(1, WLAN), flags=U.ACKNOWLEDGE | U.HOME_REGISTRATION, signed=False).status == S.ACCEPTED
