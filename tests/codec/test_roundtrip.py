"""Value to octets and back, for every declared type, selector and packet."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip6.headers import build_packet, parse_packet
from mip6.icmp6 import MESSAGES as ICMP6
from mip6.icmp6 import (
    HomeAgentDiscoveryReply,
    Icmp6Message,
    MobilePrefixAdvertisement,
    MobilePrefixSolicitation,
    build_icmp6,
    decode_icmp6,
)
from mip6.messages import MESSAGES, Message, decode_message, encode_message
from mip6.neighbourdiscovery import OPTIONS as KNOWN_NEIGHBOUR_OPTIONS
from mip6.neighbourdiscovery import (
    RouterAdvertisement,
    UnknownNeighbourOption,
    build_router_advertisement,
    decode_router_advertisement,
)
from mip6.optionlist import alignment, decode_options, encode_options
from mip6.options import OPTIONS, Option
from mip6.selectors import decode_selector, encode_selector
from mip6.suboptions import SUBOPTIONS, SubOption, decode_suboptions, encode_suboptions
from tests.codec import strategies

ADDRESS = st.ip_addresses(v=6)
UNKNOWN = st.builds(
    UnknownNeighbourOption, st.sampled_from([1, 2, 5, 24]), st.sampled_from([6, 14]).map(lambda size: b"x" * size)
)
NEIGHBOUR_OPTIONS = st.lists(
    st.one_of(UNKNOWN, *(strategies._build(cls, {}) for cls in KNOWN_NEIGHBOUR_OPTIONS.values())), max_size=4
).map(tuple)


@pytest.mark.parametrize("cls", OPTIONS.values(), ids=lambda cls: cls.__name__)
@given(data=st.data(), start=st.sampled_from([8, 12, 16, 24]))
@settings(max_examples=60, deadline=None)
def test_every_option(cls: type[Option], data: Any, start: int) -> None:
    option = data.draw(strategies.options(cls))
    octets = encode_options((option,), start)
    assert (start + len(octets)) % 8 == 0
    assert decode_options(bytes(start) + octets, start, start + len(octets)) == (option,)
    modulus, residue = alignment(option)
    body = option.encode_fields()
    at = start + octets.find(bytes((option.NUMBER, len(body))) + body)
    if not option.ENDS_MESSAGE:  # that one is moved up to the end of the message
        assert at % modulus == residue


@pytest.mark.parametrize("cls", SUBOPTIONS.values(), ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_suboption(cls: type[SubOption], data: Any) -> None:
    value = (data.draw(strategies.suboptions(cls)), data.draw(strategies.suboptions(cls)))
    octets = encode_suboptions(value)
    assert decode_suboptions(octets, 0, len(octets)) == value


@given(strategies.selectors())
@settings(deadline=None)
def test_every_selector(selector: Any) -> None:
    octets = encode_selector(selector)
    assert decode_selector(octets, 0, len(octets)) == selector


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_message(cls: type[Message], data: Any) -> None:
    message = data.draw(strategies.messages(cls))
    octets = encode_message(message)
    assert len(octets) == (octets[1] + 1) * 8
    assert decode_message(octets) == message
    assert decode_message(octets + b"trailing") == message  # what stands behind the declared length is not looked at


@given(strategies.messages(), ADDRESS, ADDRESS, st.none() | ADDRESS, st.none() | ADDRESS)
@settings(deadline=None)
def test_whole_packets(
    message: Message, source: IPv6Address, destination: IPv6Address, home: IPv6Address | None, route: IPv6Address | None
) -> None:
    packet = parse_packet(build_packet(source, destination, message, home_address=home, routing_address=route))
    assert packet.checksum_is_right()
    assert (packet.source, packet.destination) == (source, destination)
    assert (packet.home_address, packet.routing_address) == (home, route)
    assert (packet.sender(), packet.receiver()) == (home or source, route or destination)
    assert decode_message(packet.payload) == message


@given(st.data(), ADDRESS, ADDRESS)
@settings(deadline=None)
def test_icmp6_messages(data: Any, source: IPv6Address, destination: IPv6Address) -> None:
    cls: type[Icmp6Message] = data.draw(st.sampled_from(list(ICMP6.values())))
    special: dict[str, Any] = {}
    if cls is HomeAgentDiscoveryReply:
        special["addresses"] = st.lists(ADDRESS, max_size=4).map(tuple)
    if cls in (MobilePrefixAdvertisement, MobilePrefixSolicitation):
        special["options"] = NEIGHBOUR_OPTIONS
    message = data.draw(strategies._build(cls, special))
    packet = parse_packet(build_icmp6(source, destination, message))
    assert packet.checksum_is_right()
    assert decode_icmp6(packet.payload) == message


@given(st.data(), ADDRESS, ADDRESS)
@settings(deadline=None)
def test_router_advertisements(data: Any, source: IPv6Address, destination: IPv6Address) -> None:
    message = data.draw(strategies._build(RouterAdvertisement, {"options": NEIGHBOUR_OPTIONS}))
    packet = parse_packet(build_router_advertisement(source, destination, message))
    assert packet.checksum_is_right() and packet.hop_limit == 255
    assert decode_router_advertisement(packet.payload) == message
