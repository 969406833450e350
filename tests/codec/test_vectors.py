"""Byte-exact vectors: whole packets worked out by hand from the RFCs' figures, and single options at their offsets."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from mip6 import optionlist
from mip6 import options as o
from mip6.auth import Algorithm, SecurityAssociation, ntp_difference, ntp_timestamp, sign, verify
from mip6.headers import build_packet, finish_message, parse_packet
from mip6.messages import (
    BadHeader,
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingRevocationIndication,
    BindingUpdate,
    FlowBindingAcknowledgement,
    FlowBindingIndication,
    Heartbeat,
    HomeAgentSwitch,
    HomeTest,
    Message,
    UnknownType,
    decode_message,
    encode_message,
)
from mip6.numbers import AckFlag, HeartbeatFlag, RevocationFlag, UpdateFlag
from mip6.optionlist import decode_options, encode_options
from mip6.selectors import IPv4Selector, IPv6Selector, describe, encode_selector
from mip6.suboptions import BindingReference, TrafficSelectorSubOption
from mip6.wire import FormError, internet_checksum

HOA, HA = IPv6Address("2001:db8:100::5"), IPv6Address("2001:db8:100::1")
COA, CN = IPv6Address("2001:db8:a::77"), IPv6Address("2001:db8:c::9")
AHR = UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION | UpdateFlag.MOBILE_ROUTER

BU_PACKET = bytes.fromhex(
    "60000000 00503c40 20010db8000a00000000000000000077 20010db8010000000000000000000001"
    "87020102 0000c910 20010db8010000000000000000000005"
    "3b060500 07b50064 c400004b 06120038 20010db80f0000000000000000000000"
    "01002314 0002000a 20010db8000a00000000000000000077"
)
BA_PACKET = bytes.fromhex(
    "60000000 00302b40 20010db8010000000000000000000001 20010db8000a00000000000000000077"
    "87020201 00000000 20010db8010000000000000000000005"
    "3b020600 3be30040 0064004b 23040002 000a0104 00000000"
)
AUTH_MH = bytes.fromhex(
    "3b070500 04f90065 c400004b 080f016d 7240657861 6d706c652e636f6d 010300"
    "00000a08 e8754700 40000000 00091101 00001000 8489046b bf129012 f750426e"
)
RR_MH = bytes.fromhex("3b030500 8f070007 8000003c 04040003 0004050c cb6f00af 2ecd872d 3c988bb5")
KEY = SecurityAssociation(4096, Algorithm.HMAC_SHA1, bytes(range(15, -1, -1)))


def test_binding_update_with_prefix_and_bid() -> None:
    update = BindingUpdate(
        100,
        AHR,
        300,
        (o.MobileNetworkPrefix(56, IPv6Address("2001:db8:f00::")), o.BindingIdentifier(2, 0, False, 10, COA)),
    )
    assert build_packet(COA, HA, update, home_address=HOA) == BU_PACKET
    packet = parse_packet(BU_PACKET)
    assert packet.checksum_is_right()
    assert decode_message(packet.payload) == update


def test_binding_acknowledgement_with_routing_header() -> None:
    ack = BindingAcknowledgement(0, AckFlag.MOBILE_ROUTER, 100, 300, (o.BindingIdentifier(2, 0, False, 10),))
    assert build_packet(HA, COA, ack, routing_address=HOA) == BA_PACKET
    packet = parse_packet(BA_PACKET)
    assert packet.checksum_is_right()
    assert decode_message(packet.payload) == ack


def test_update_to_a_correspondent_node() -> None:
    authenticator = bytes.fromhex("cb6f00af2ecd872d3c988bb5")
    update = BindingUpdate(
        7, UpdateFlag.ACKNOWLEDGE, 240, (o.NonceIndices(3, 4), o.BindingAuthorizationData(authenticator))
    )
    assert finish_message(encode_message(update), HOA, CN) == RR_MH
    assert decode_message(RR_MH) == update


def test_authentication_option() -> None:
    update = BindingUpdate(
        101,
        AHR,
        300,
        (
            o.MobileNodeIdentifier(1, b"mr@example.com"),
            o.MessageIdentification(ntp_timestamp(3900000000.25 - 2208988800)),
        ),
    )
    signed = sign(update, KEY, COA, HOA)
    assert finish_message(signed, HOA, HA) == AUTH_MH
    message = decode_message(AUTH_MH)
    assert verify(AUTH_MH, message, KEY, COA, HOA)
    assert not verify(AUTH_MH, message, KEY, CN, HOA)
    for octet in (6, 9, 30, 40, 50, 60):
        broken = bytearray(AUTH_MH)
        broken[octet] ^= 1
        assert not verify(bytes(broken), decode_message(bytes(broken)), KEY, COA, HOA)
    assert "0f0e" not in repr(KEY) and str(KEY.key) not in repr(KEY)


def test_ntp_era_change() -> None:
    before, after = ntp_timestamp(2085978495.5), ntp_timestamp(2085978496.5)  # 2036-02-07
    assert before >> 32 == 0xFFFFFFFF and after >> 32 == 0
    assert ntp_difference(after, before) == pytest.approx(1.0)
    assert ntp_difference(before, after) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("option", "octets"),
    [  # as they stand at offset 12 of a Binding Update or Acknowledgement, with the padding to 8
        (o.BindingRefreshAdvice(80), "02020014"),
        (o.AlternateCareOfAddress(COA), "0100 0310 20010db8000a00000000000000000077"),
        (o.NonceIndices(3, 4), "0404 0003 0004 0104 00000000"),
        (o.MobileNetworkPrefix(56, COA), "0612 0038 20010db8000a00000000000000000077"),
        (o.LinkLayerAddress(2, bytes(6)), "0707 02 000000000000 0101 00"),
        (o.MobileNodeIdentifier(1, b"a@b"), "0804 01 614062 0104 00000000"),
        (o.Authentication(1, 256, bytes(12)), "00 0911 01 00000100 000000000000000000000000"),
        (o.MessageIdentification(1), "0104 00000000 0a08 0000000000000001 0102 0000"),
        (o.VendorSpecific(32473, 7, b"x"), "0100 1306 00007ed9 07 78 0100"),
        (o.ServiceSelection("ims"), "1403 696d73 0105 0000000000"),
        (o.RestartCounter(9), "0100 1c04 00000009 0102 0000"),
        (o.IPv4HomeAddress(32, True, IPv4Address("192.0.2.9")), "1d06 8200 c0000209 0102 0000"),
        (o.IPv4AddressAcknowledgement(128, 24, IPv4Address("192.0.2.9")), "1e06 80 60 c0000209 0102 0000"),
        (o.NatDetection(True, 110), "1f06 8000 0000006e 0102 0000"),
        (o.IPv4CareOfAddress(IPv4Address("192.0.2.9")), "2006 0000 c0000209 0102 0000"),
        (o.BindingIdentifier(2, 0, True, 5), "2304 0002 00 85 0104 00000000"),
        (o.BindingIdentifier(2, 0, False, 5, COA), "0104 00000000 2314 0002 00 05 20010db8000a00000000000000000077"),
        (
            o.BindingIdentifier(2, 0, False, 5, IPv4Address("192.0.2.9")),
            "0104 00000000 2308 0002 0005 c0000209 0102 0000",
        ),
        (o.FlowSummary((1, 258)), "2c04 0001 0102 0104 00000000"),
        (
            o.FlowIdentification(
                1,
                10,
                0,
                (
                    TrafficSelectorSubOption(IPv6Selector(destination_port=(5004, 5010), next_header=(17, 17))),
                    BindingReference((2,)),
                ),
            ),
            "2d18 0001 000a 00 00 030b 02 00 00320000 138c 1392 11 00 0202 0002 0100",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, o.Option) else "",
)
def test_options_at_their_offsets(option: o.Option, octets: str) -> None:
    expected = bytes.fromhex(octets)
    expected += optionlist._PADDING[-(12 + len(expected)) % 8]
    assert encode_options((option,), 12).hex() == expected.hex()
    assert decode_options(bytes(12) + expected, 12, 12 + len(expected)) == (option,)


@pytest.mark.parametrize(
    ("message", "octets"),
    [
        (BindingRefreshRequest(), "3b000000 00000000"),
        (BindingUpdate(1, UpdateFlag.ACKNOWLEDGE, 0), "3b010500 00000001 80000000 01020000"),
        (BindingAcknowledgement(135, AckFlag(0), 9, 0), "3b010600 00008700 00090000 01020000"),
        (BindingError(1, HOA), "3b020700 00000100 20010db8010000000000000000000005"),
        (HomeTest(3, b"cookie.8", b"token..8"), "3b020300 00000003 636f6f6b69652e38 746f6b656e2e2e38"),
        (HomeAgentSwitch(), "3b000c00 00000000"),
        (HomeAgentSwitch((HA,)), "3b020c00 00000100 20010db8010000000000000000000001"),
        (Heartbeat(HeartbeatFlag.RESPONSE, 7), "3b010d00 00000001 00000007 01020000"),
        (BindingRevocationIndication(1, 5, RevocationFlag.IPV4), "3b011000 00000101 00054000 01020000"),
        (FlowBindingIndication(5, 2, True), "3b011500 00000001 00050280 01020000"),
        (FlowBindingAcknowledgement(5, 129), "3b011500 00000002 00058100 01020000"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else "",
)
def test_messages(message: Message, octets: str) -> None:
    assert encode_message(message).hex(" ", 4) == bytes.fromhex(octets).hex(" ", 4)
    assert decode_message(bytes.fromhex(octets)) == message


def test_selector_fields_stand_in_the_order_of_the_rfc() -> None:
    selector = IPv4Selector(source=(IPv4Address("192.0.2.1"),) * 2, source_port=(1, 2), protocol=(6, 6))
    assert encode_selector(selector).hex() == "0100" + "8308" + "0000" + "c0000201" + "00010002" + "06"


def test_the_receive_ladder_names_the_octet() -> None:
    good = encode_message(BindingUpdate(1, AHR, 0))
    with pytest.raises(UnknownType):
        decode_message(good[:2] + b"\x63" + good[3:])
    with pytest.raises(BadHeader) as caught:
        decode_message(b"\6" + good[1:])
    assert caught.value.offset == 0
    for length in (0, 9):
        with pytest.raises(BadHeader) as caught:
            decode_message(good[:1] + bytes((length,)) + good[2:])
        assert caught.value.offset == 1
    overrun = good[:12] + b"\x23\x20\0\0"
    with pytest.raises(FormError):
        decode_message(overrun)


def test_known_option_of_wrong_length_is_told_apart() -> None:
    octets = bytes.fromhex("3b020500 00000001 c4000000 0611 0038 20010db80f00000000000000000000")
    octets = octets + bytes(-len(octets) % 8)
    octets = octets[:1] + bytes((len(octets) // 8 - 1,)) + octets[2:]
    (option,) = decode_message(octets).options
    assert isinstance(option, o.MalformedOption)
    assert (option.number, option.offset) == (6, 12)


def test_checksum_zero_stays_zero() -> None:
    assert internet_checksum(b"\xff\xff") == 0
    assert internet_checksum(b"\0\1\xf2\3\xf4\xf5\xf6\xf7") == 0x220D


def test_values_that_do_not_fit_are_refused_when_made() -> None:
    for make in (
        lambda: BindingUpdate(65536, AHR, 0),
        lambda: BindingUpdate(1, AHR, 6),
        lambda: o.BindingIdentifier(1, 0, False, 128),
        lambda: o.FlowSummary(()),
        lambda: o.BindingAuthorizationData(bytes(11)),
        lambda: BindingReference((65536,)),
    ):
        with pytest.raises(ValueError):
            make()


def test_a_selector_is_described_in_the_words_of_the_configuration() -> None:
    voice = IPv6Selector(next_header=(17, 17), destination_port=(5000, 5010), traffic_class=(184, 187))
    assert describe(voice) == "destination_port 5000-5010, dscp 46, protocol udp"
    assert describe(IPv4Selector(protocol=(99, 99), ds_field=(1, 3))) == "ds_field 1-3, protocol 99"
    assert describe(IPv6Selector()) == "all"
