"""Hostile octets for every decoder: random ones, and valid messages that were changed a little.

Whatever is read, a decoder gives a value or raises FormError; a value that was read can be encoded, and read again to
the same value, or is refused with ValueError. Both are checked for every input. An input is named by (seed, number)
and made again from these alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from mip6.auth import locate
from mip6.headers import build_packet, parse_packet
from mip6.icmp6 import (
    HomeAgentDiscoveryReply,
    HomeAgentDiscoveryRequest,
    MobilePrefixAdvertisement,
    MobilePrefixSolicitation,
    build_icmp6,
    decode_icmp6,
)
from mip6.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    ExperimentalMessage,
    FlowBindingAcknowledgement,
    FlowBindingIndication,
    Heartbeat,
    HomeAgentSwitch,
    HomeTest,
    HomeTestInit,
    Message,
    decode_message,
    encode_message,
)
from mip6.neighbourdiscovery import (
    AdvertisementInterval,
    HomeAgentInformation,
    PrefixInformation,
    RouterAdvertisement,
    UnknownNeighbourOption,
    build_router_advertisement,
    decode_router_advertisement,
)
from mip6.numbers import AckFlag, HeartbeatFlag, Icmp6Type, OptionType, RevocationFlag, SelectorFormat, UpdateFlag
from mip6.optionlist import decode_options, encode_options
from mip6.options import (
    AlternateCareOfAddress,
    Authentication,
    BindingAuthorizationData,
    BindingIdentifier,
    BindingRefreshAdvice,
    FlowIdentification,
    FlowSummary,
    IPv4AddressAcknowledgement,
    IPv4CareOfAddress,
    IPv4HomeAddress,
    LinkLayerAddress,
    MessageIdentification,
    MobileNetworkPrefix,
    MobileNodeIdentifier,
    NatDetection,
    NonceIndices,
    Option,
    RestartCounter,
    ServiceSelection,
    UnknownOption,
    VendorSpecific,
)
from mip6.selectors import IPv4Selector, IPv6Selector, decode_selector, encode_selector
from mip6.stamp import AuthenticatedProbe, AuthenticatedReply, Key, Probe, Reply, reflect, write_probe
from mip6.suboptions import BindingReference, FlowBindingAction, TargetCareOfAddress, TrafficSelectorSubOption
from mip6.wire import Declared, FormError

A, B, HOME, V4 = IPv6Address("2001:db8::a"), IPv6Address("2001:db8::b"), IPv6Address("2001:db8::c"), "192.0.2.1"
WIDE = IPv6Selector((A, B), (A, A), (1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (17, 17))
NARROW = IPv4Selector(source=(IPv4Address(V4), IPv4Address(V4)), destination_port=(1, 65535), protocol=(6, 17))
FLOWS: tuple[Option, ...] = (
    FlowIdentification(7, 10, suboptions=(BindingReference((1, 2)), TrafficSelectorSubOption(WIDE))),
    FlowIdentification(8, 20, 1, (TrafficSelectorSubOption(NARROW), FlowBindingAction(1), TargetCareOfAddress(0, A))),
    FlowSummary((1, 2, 3)),
)
OPTIONS: tuple[Option, ...] = (
    BindingRefreshAdvice(400),
    AlternateCareOfAddress(A),
    NonceIndices(1, 2),
    MobileNetworkPrefix(48, A),
    LinkLayerAddress(2, b"\2\0\0\0\0\1"),
    MobileNodeIdentifier(1, b"node@example.org"),
    MessageIdentification(1 << 63),
    VendorSpecific(32473, 1, b"data"),
    ServiceSelection("service é"),
    RestartCounter(5),
    IPv4HomeAddress(24, True, IPv4Address(V4)),
    IPv4AddressAcknowledgement(0, 24, IPv4Address(V4)),
    NatDetection(True, 110),
    IPv4CareOfAddress(IPv4Address(V4)),
    BindingIdentifier(1, 0, True, 5, A),
    BindingIdentifier(2, 0, False, 6, IPv4Address(V4)),
    UnknownOption(250, b"unknown"),
)
MESSAGES: tuple[Message, ...] = (
    BindingRefreshRequest(OPTIONS[:2]),
    HomeTestInit(b"12345678"),
    CareOfTestInit(b"12345678", (OPTIONS[14],)),
    HomeTest(1, b"12345678", b"abcdefgh"),
    CareOfTest(2, b"12345678", b"abcdefgh"),
    BindingUpdate(1, UpdateFlag(0xC000), 40, OPTIONS),
    BindingUpdate(2, UpdateFlag(0xC440), 40, (OPTIONS[14], *FLOWS, Authentication(1, 256, b"authenticate"))),
    BindingUpdate(3, UpdateFlag(0x8000), 0, (OPTIONS[2], BindingAuthorizationData(b"authenticate"))),
    BindingAcknowledgement(0, AckFlag(0x40), 1, 40, (*OPTIONS[10:16], *FLOWS)),
    BindingError(1, A),
    ExperimentalMessage(b"experiment"),
    HomeAgentSwitch((A, B), OPTIONS[:1]),
    Heartbeat(HeartbeatFlag(1), 7, (OPTIONS[9],)),
    BindingRevocationIndication(1, 9, RevocationFlag(0), OPTIONS[5:6]),
    BindingRevocationAcknowledgement(0, 9, RevocationFlag(0), OPTIONS[14:16]),
    FlowBindingIndication(1, 2, True, options=FLOWS),
    FlowBindingAcknowledgement(1, 0, FLOWS[:1]),
)
ND_OPTIONS = (
    PrefixInformation(64, True, True, True, 0, 3600, 1800, A),
    AdvertisementInterval(70),
    HomeAgentInformation(True, 0, 10, 1800),
    UnknownNeighbourOption(1, bytes(6)),
)
MESSAGE_OCTETS = [encode_message(message) for message in MESSAGES]
PACKETS = [
    *(build_packet(A, B, message, home_address=HOME) for message in MESSAGES),
    build_packet(A, B, MESSAGES[8], routing_address=HOME),
    build_packet(A, B, MESSAGES[8], home_address=A, routing_address=HOME),
]
ICMP6_OCTETS = [
    build_icmp6(A, B, message)[40:]
    for message in (
        HomeAgentDiscoveryRequest(1, True),
        HomeAgentDiscoveryReply(1, False, 0, (A, B)),
        MobilePrefixSolicitation(1),
        MobilePrefixAdvertisement(1, True, False, 0, ND_OPTIONS),
    )
]
ADVERTISEMENT = RouterAdvertisement(64, False, False, True, 1, 0, 1800, options=ND_OPTIONS)
ICMP6_OCTETS.append(build_router_advertisement(A, B, ADVERTISEMENT)[40:])
STAMP_OCTETS = [
    write_probe(1, 1 << 63, 7, key) + tlv for key in (None, Key(bytes(32))) for tlv in (b"", b"\x80\1\0\2ab")
]


def _message(data: bytes) -> None:
    message = decode_message(data)
    locate(data, message)
    _same(message, encode_message(message), decode_message)


def _options(data: bytes) -> None:
    options = decode_options(data, 0, len(data))
    _same(options, encode_options(options, 0), lambda octets: decode_options(octets, 0, len(octets)))


def _selector(data: bytes) -> None:
    selector = decode_selector(data, 0, len(data))
    _same(selector, encode_selector(selector), lambda octets: decode_selector(octets, 0, len(octets)))


def _packet(data: bytes) -> None:
    packet = parse_packet(data)
    assert data[packet.offset :].startswith(packet.payload)
    packet.sender(), packet.receiver(), packet.checksum_is_right()


def _icmp6(data: bytes) -> None:
    if data[:1] == bytes((Icmp6Type.ROUTER_ADVERTISEMENT,)):
        advertisement = decode_router_advertisement(data)
        _same(advertisement, build_router_advertisement(A, B, advertisement)[40:], decode_router_advertisement)
        return
    message = decode_icmp6(data)
    _same(message, build_icmp6(A, B, message)[40:], decode_icmp6)


def _stamp(data: bytes) -> None:
    kinds: tuple[type[Declared], ...] = (AuthenticatedReply, AuthenticatedProbe, Reply, Probe)
    kind = next((one for one in kinds if len(data) >= one.SIZE), Probe)  # the larger kinds also read as the smaller
    value = kind.decode_fields(data, 0, len(data))
    _same(value, value.encode_fields(), lambda octets: kind.decode_fields(octets, 0, len(octets)))
    probe = Probe.decode_fields(data, 0, len(data))
    assert len(reflect(probe, None, 1, 2, 3, 64)) == len(data)


def _same(value: Any, octets: bytes, decode: Callable[[bytes], Any]) -> None:
    """What was encoded is read as the same value. FormError here is a fault, not an answer."""
    try:
        again = decode(octets)
    except FormError as error:
        raise AssertionError(f"own octets {octets.hex()} of {value} are refused: {error}") from error
    assert again == value, f"{value} became {again}"


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "decode_message": (_message, MESSAGE_OCTETS),
    "decode_options": (_options, [encode_options((one,), 0) for one in (*OPTIONS, *FLOWS)]),
    "decode_selector": (_selector, [encode_selector(WIDE), encode_selector(NARROW)]),
    "parse_packet": (_packet, PACKETS),
    "decode_icmp6": (_icmp6, ICMP6_OCTETS),
    "stamp": (_stamp, STAMP_OCTETS),
}
KNOWN_FIRST = {  # octets that random input rarely has and without which it is refused at once
    "decode_message": lambda chance: bytes((59, chance.randrange(4), chance.randrange(22))),
    "decode_options": lambda chance: bytes((chance.choice(list(OptionType)), chance.randrange(24))),
    "decode_selector": lambda chance: bytes((chance.choice(list(SelectorFormat)), 0)),
    "parse_packet": lambda chance: b"\x60\0\0\0\0" + bytes((chance.randrange(60), chance.choice((0, 43, 60, 135)))),
    "decode_icmp6": lambda chance: bytes((chance.choice((134, *range(144, 148))), 0)),
    "stamp": lambda chance: bytes(chance.randrange(120)),
}


def made(target: str, seed: int, number: int) -> bytes:
    """Input `number` of a run with `seed`."""
    chance = random.Random(f"{seed} {number}")
    if chance.random() < 0.25:
        known = KNOWN_FIRST[target](chance) if chance.random() < 0.75 else b""
        return known + chance.randbytes(chance.randrange(100))
    data = bytearray(chance.choice(TARGETS[target][1]))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.choice((0, 1, 2, 4, 16, 127, 128, 255))
            case 2:
                del data[at:]
            case 3:  # the length octet of the whole
                data[1:2] = chance.randbytes(1)
            case 4 if at < len(data):  # any octet one more or less: the lengths inside are among them
                data[at] = (data[at] + chance.choice((-1, 1))) % 256
            case 5:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 6:
                del data[at : at + chance.randrange(1, 9)]
    return bytes(data)


def fuzz(target: str, seed: int, numbers: range) -> Counter[str]:
    """Feed inputs to one decoder: how many were read, refused, or cannot be encoded. AssertionError names an input."""
    check, _ = TARGETS[target]
    outcome: Counter[str] = Counter()
    for number in numbers:
        data = made(target, seed, number)
        try:
            check(data)
            outcome["read"] += 1
        except FormError:
            outcome["refused"] += 1
        except ValueError:
            outcome["not encoded"] += 1
        except Exception as error:
            raise AssertionError(f"{target}, seed {seed}, input {number}: {data.hex()}: {error!r}") from error
    return outcome
