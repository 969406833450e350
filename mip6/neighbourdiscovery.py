"""Neighbour discovery as Mobile IPv6 extends it: router advertisements and their options (RFC 4861 §4.2, RFC 6275 §7).

Options of other numbers become `UnknownNeighbourOption`; a receiver ignores them (RFC 4861 §4.6).
"""

from __future__ import annotations

import dataclasses
from ipaddress import IPv6Address
from typing import ClassVar

from mip6.headers import ipv6_header
from mip6.numbers import Icmp6Type, NeighbourOptionType, Protocol
from mip6.wire import (
    Checked,
    FormError,
    Tail,
    address,
    bits,
    declared,
    flag,
    internet_checksum,
    octets_tail,
    pseudo_header,
    rest,
)

UNIT = 8  # octets: what the length of an option counts
HOP_LIMIT = 255  # any less, and the packet came through a router (RFC 4861 §6.1.2)
HEADER = 4  # type, code, checksum


class NeighbourOption(Checked):
    """A neighbour discovery option."""

    __slots__ = ()
    NUMBER: ClassVar[int]
    SOURCE: ClassVar[str]


@declared
class UnknownNeighbourOption(NeighbourOption):
    """An option that nobody declared here, kept as it came: 6, 14, 22, ... octets."""

    SOURCE: ClassVar[str] = "RFC 4861 §4.6"
    number: int = dataclasses.field()
    data: bytes = rest(octets_tail(6, 255 * UNIT - 2))


@declared
class PrefixInformation(NeighbourOption):
    """A prefix of the link; lifetimes in seconds, `router_address`: the prefix field is the router's whole address."""

    NUMBER: ClassVar[int] = NeighbourOptionType.PREFIX_INFORMATION
    SOURCE: ClassVar[str] = "RFC 4861 §4.6.2, RFC 6275 §7.2"
    length: int = bits(8)
    on_link: bool = flag()
    autonomous: bool = flag()
    router_address: bool = flag(default=False)
    unused: int = bits(5, default=0)
    valid_lifetime: int = bits(32, default=0xFFFFFFFF)
    preferred_lifetime: int = bits(32, default=0xFFFFFFFF)
    prefix: IPv6Address = address(reserved=32, default=IPv6Address(0))


@declared
class AdvertisementInterval(NeighbourOption):
    """The longest time between two unsolicited multicast advertisements of this router, in milliseconds."""

    NUMBER: ClassVar[int] = NeighbourOptionType.ADVERTISEMENT_INTERVAL
    SOURCE: ClassVar[str] = "RFC 6275 §7.3"
    milliseconds: int = bits(32, reserved=16)


@declared
class HomeAgentInformation(NeighbourOption):
    """How willing a home agent is: higher `preference` is better, `lifetime` in seconds, not 0."""

    NUMBER: ClassVar[int] = NeighbourOptionType.HOME_AGENT_INFORMATION
    SOURCE: ClassVar[str] = "RFC 6275 §7.4, RFC 3963 §7.3"
    mobile_router: bool = flag()
    unused: int = bits(15, default=0)
    preference: int = bits(16, default=0)
    lifetime: int = bits(16, default=0)


OPTIONS: dict[int, type[NeighbourOption]] = {
    cls.NUMBER: cls for cls in (PrefixInformation, AdvertisementInterval, HomeAgentInformation)
}


def read_options(data: bytes, start: int, end: int) -> tuple[NeighbourOption, ...]:
    """The options in `data[start:end]`; FormError when one runs over the end or has no length (RFC 4861 §6.1.2)."""
    found: list[NeighbourOption] = []
    at = start
    while at < end:
        if at + 2 > end or data[at + 1] == 0 or at + UNIT * data[at + 1] > end:
            raise FormError("neighbour discovery option runs over the end", at)
        stop = at + UNIT * data[at + 1]
        known = OPTIONS.get(data[at])
        if known is None:
            found.append(UnknownNeighbourOption(data[at], data[at + 2 : stop]))
        else:
            found.append(known.decode_fields(data, at + 2, stop))
        at = stop
    return tuple(found)


def write_options(options: tuple[NeighbourOption, ...]) -> bytes:
    """The options as octets; ValueError when one is not whole units of 8 octets."""
    parts = []
    for option in options:
        number = option.number if isinstance(option, UnknownNeighbourOption) else option.NUMBER
        body = option.encode_fields()
        length, odd = divmod(2 + len(body), UNIT)
        if odd:
            raise ValueError(f"{type(option).__name__}: {2 + len(body)} octets are not a multiple of {UNIT}")
        parts.append(bytes((number, length)) + body)
    return b"".join(parts)


NEIGHBOUR_OPTIONS: Tail = (read_options, write_options)


@declared
class RouterAdvertisement(Checked):
    """A router advertisement behind type, code and checksum; `home_agent` is the H flag, `preference` RFC 4191's Prf.

    Lifetimes: the router's in seconds, reachable and retransmission times in milliseconds.
    """

    SOURCE: ClassVar[str] = "RFC 4861 §4.2, RFC 6275 §7.1, RFC 4191 §2.2"
    hop_limit: int = bits(8)
    managed: bool = flag()
    other: bool = flag()
    home_agent: bool = flag()
    preference: int = bits(2)
    unused: int = bits(3, default=0)
    router_lifetime: int = bits(16, default=0)
    reachable_time: int = bits(32, default=0)
    retransmission_time: int = bits(32, default=0)
    options: tuple[NeighbourOption, ...] = rest(NEIGHBOUR_OPTIONS, default=())


def decode_router_advertisement(data: bytes) -> RouterAdvertisement:
    """Read an ICMPv6 message; hop limit, source and checksum are the caller's to look at (RFC 4861 §6.1.2)."""
    if len(data) < HEADER or data[0] != Icmp6Type.ROUTER_ADVERTISEMENT:
        raise FormError("not a router advertisement")
    if data[1] != 0:
        raise FormError(f"ICMPv6 code {data[1]}, not 0", 1)
    advertisement: RouterAdvertisement = RouterAdvertisement.decode_fields(data, HEADER, len(data))
    return advertisement


def build_router_advertisement(
    source: IPv6Address, destination: IPv6Address, advertisement: RouterAdvertisement
) -> bytes:
    """A whole packet with its checksum."""
    body = bytes((Icmp6Type.ROUTER_ADVERTISEMENT, 0, 0, 0)) + advertisement.encode_fields()
    checksum = internet_checksum(pseudo_header(source, destination, len(body), Protocol.ICMPV6) + body)
    body = body[:2] + checksum.to_bytes(2, "big") + body[HEADER:]
    return ipv6_header(source, destination, Protocol.ICMPV6, len(body), HOP_LIMIT) + body
