"""ICMPv6 messages of Mobile IPv6: home agent address discovery and mobile prefix discovery (RFC 6275 §6.5 to 6.8)."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import ClassVar

from mip6.headers import wrap
from mip6.neighbourdiscovery import NEIGHBOUR_OPTIONS, NeighbourOption, PrefixInformation
from mip6.numbers import Icmp6Type, Protocol
from mip6.wire import (
    ADDRESSES,
    Checked,
    FormError,
    bits,
    declared,
    flag,
    internet_checksum,
    pseudo_header,
    rest,
)

HEADER = 4  # type, code, checksum


class Icmp6Message(Checked):
    """An ICMPv6 message of type TYPE; the fields stand behind type, code and checksum."""

    __slots__ = ()
    TYPE: ClassVar[int]
    SOURCE: ClassVar[str]


@declared
class HomeAgentDiscoveryRequest(Icmp6Message):
    """DHAAD request; `mobile_router` asks for home agents that serve mobile routers (RFC 3963 §7.1)."""

    TYPE: ClassVar[int] = Icmp6Type.HOME_AGENT_DISCOVERY_REQUEST
    SOURCE: ClassVar[str] = "RFC 6275 §6.5"
    identifier: int = bits(16)
    mobile_router: bool = flag()
    unused: int = bits(15, default=0)


@declared
class HomeAgentDiscoveryReply(Icmp6Message):
    """DHAAD reply: home agents by falling preference."""

    TYPE: ClassVar[int] = Icmp6Type.HOME_AGENT_DISCOVERY_REPLY
    SOURCE: ClassVar[str] = "RFC 6275 §6.6"
    identifier: int = bits(16)
    mobile_router: bool = flag()
    unused: int = bits(15, default=0)
    addresses: tuple[IPv6Address, ...] = rest(ADDRESSES, default=())


@declared
class MobilePrefixSolicitation(Icmp6Message):
    """Asks the home agent for the prefixes of the home link."""

    TYPE: ClassVar[int] = Icmp6Type.MOBILE_PREFIX_SOLICITATION
    SOURCE: ClassVar[str] = "RFC 6275 §6.7"
    identifier: int = bits(16)
    options: tuple[NeighbourOption, ...] = rest(NEIGHBOUR_OPTIONS, default=(), reserved=16)


@declared
class MobilePrefixAdvertisement(Icmp6Message):
    """The prefixes of the home link."""

    TYPE: ClassVar[int] = Icmp6Type.MOBILE_PREFIX_ADVERTISEMENT
    SOURCE: ClassVar[str] = "RFC 6275 §6.8"
    identifier: int = bits(16)
    managed: bool = flag()
    other: bool = flag()
    unused: int = bits(14, default=0)
    options: tuple[NeighbourOption, ...] = rest(NEIGHBOUR_OPTIONS, default=())

    def prefixes(self) -> tuple[PrefixInformation, ...]:
        """The prefix information options, of which there is at least one in a proper advertisement."""
        return tuple(one for one in self.options if isinstance(one, PrefixInformation))


MESSAGES: dict[int, type[Icmp6Message]] = {
    cls.TYPE: cls
    for cls in (
        HomeAgentDiscoveryRequest,
        HomeAgentDiscoveryReply,
        MobilePrefixSolicitation,
        MobilePrefixAdvertisement,
    )
}


def is_mobility_icmp6(data: bytes) -> bool:
    """Whether this ICMPv6 message is one of those here."""
    return len(data) >= 1 and data[0] in MESSAGES


def decode_icmp6(data: bytes) -> Icmp6Message:
    """Read an ICMPv6 message of one of these types; the checksum is the caller's (`SignallingPacket`)."""
    if len(data) < HEADER or data[0] not in MESSAGES:
        raise FormError("not an ICMPv6 message of Mobile IPv6")
    if data[1] != 0:
        raise FormError(f"ICMPv6 code {data[1]}, not 0", 1)
    message: Icmp6Message = MESSAGES[data[0]].decode_fields(data, HEADER, len(data))
    return message


def build_icmp6(
    source: IPv6Address,
    destination: IPv6Address,
    message: Icmp6Message,
    *,
    home_address: IPv6Address | None = None,
    routing_address: IPv6Address | None = None,
) -> bytes:
    """A whole packet with its checksum; the last two as `headers.build_packet` has them."""
    body = bytes((message.TYPE, 0, 0, 0)) + message.encode_fields()
    pseudo = pseudo_header(home_address or source, routing_address or destination, len(body), Protocol.ICMPV6)
    body = body[:2] + internet_checksum(pseudo + body).to_bytes(2, "big") + body[HEADER:]
    return wrap(source, destination, Protocol.ICMPV6, body, home_address, routing_address)


def home_agents_anycast(prefix: IPv6Network) -> IPv6Address:
    """The address that reaches one of the home agents of a home prefix (RFC 2526 §2, §3).

    With interface identifiers of 64 bits the universal/local bit is left 0; else all bits but the last are one.
    """
    host = 0xFDFFFFFFFFFFFFFE if prefix.prefixlen == 64 else (1 << 128 - prefix.prefixlen) - 2
    return IPv6Address(int(prefix.network_address) | host)
