"""Received packets: the ladder of RFC 6275 §9.2, up to messages that the engine has a rule for.

Binding Errors and ICMPv6 errors are sent from here, at a limited rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv6Address

from homeagent.bindingcache import BindingCacheEntry
from homeagent.registration import is_unicast_routable
from homeagent.settings import HomeAgentSettings
from mip6.actions import Action, DeliverLocally, SendPacket
from mip6.events import PacketReceived
from mip6.headers import SignallingPacket, build_packet, ipv6_header, parameter_problem, parse_packet
from mip6.icmp6 import (
    HomeAgentDiscoveryRequest,
    Icmp6Message,
    MobilePrefixSolicitation,
    decode_icmp6,
    home_agents_anycast,
    is_mobility_icmp6,
)
from mip6.messages import (
    BadHeader,
    BindingError,
    CareOfTestInit,
    Heartbeat,
    HomeTestInit,
    Message,
    UnknownType,
    decode_message,
)
from mip6.numbers import ErrorStatus, OptionType, Protocol
from mip6.options import MalformedOption
from mip6.ratelimit import RateLimit
from mip6.udp import UdpEnds
from mip6.wire import FormError

ERRORS_PER_SECOND = 10  # Binding Errors and ICMPv6 errors
NOT_SERVED = (HomeTestInit, CareOfTestInit, Heartbeat)  # requests that this node has no role for

Received = tuple[SignallingPacket, Message | Icmp6Message]


class Reception:
    """Takes packets apart; `counts` gets one count per packet that ends here, by name."""

    def __init__(
        self,
        settings: HomeAgentSettings,
        cache: Mapping[IPv6Address, BindingCacheEntry],
        counts: Counter[str],
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._counts = counts
        self._errors = RateLimit(ERRORS_PER_SECOND, ERRORS_PER_SECOND)
        self._anycast = {home_agents_anycast(prefix) for prefix in settings.home_prefixes}
        self._own = {settings.address, *self._anycast}

    def receive(self, event: PacketReceived, now: float) -> Received | list[Action]:
        """A packet that passed, with a message for the engine; or what is to be done about any other."""
        try:
            packet = parse_packet(event.packet)
        except FormError:
            return self._count("form_error")
        if packet.destination not in self._own or packet.routing_address is not None:
            return self._count("not_for_us")
        if packet.source.is_multicast or packet.source.is_unspecified or packet.source.is_loopback:
            return self._count("source_not_unicast")
        if event.outer is not None and packet.home_address is not None:
            return self._count("wrong_encapsulation")  # inside UDP the source is the home address (RFC 5555 §4.2)
        if packet.protocol == Protocol.ICMPV6 and is_mobility_icmp6(packet.payload):
            return self._icmp6(packet, now)
        if packet.destination in self._anycast:
            return self._count("not_for_us")  # nothing but discovery is asked of no home agent in particular
        if packet.protocol != Protocol.MOBILITY:
            return self._home_address_option(packet, now)
        if not packet.checksum_is_right():
            return self._count("bad_checksum")
        try:
            message = decode_message(packet.payload)
        except UnknownType:
            return self._binding_error(packet, ErrorStatus.UNRECOGNIZED_MESSAGE, now, event.outer)
        except BadHeader as error:
            return self._parameter_problem(packet, packet.offset + error.offset, now, event.outer)
        except FormError:
            return self._count("form_error")
        for option in message.options:
            # BID and flow options have a status of their own for this (RFC 5648 §6.2, RFC 6089 §5.3.2)
            if isinstance(option, MalformedOption) and option.number not in (
                OptionType.BINDING_IDENTIFIER,
                OptionType.FLOW_IDENTIFICATION,
            ):
                return self._parameter_problem(packet, packet.offset + option.offset, now, event.outer)
        if isinstance(message, NOT_SERVED):
            return self._binding_error(packet, ErrorStatus.UNRECOGNIZED_MESSAGE, now, event.outer)
        return packet, message

    def _icmp6(self, packet: SignallingPacket, now: float) -> Received | list[Action]:
        if not packet.checksum_is_right():
            return self._count("bad_checksum")
        try:
            message = decode_icmp6(packet.payload)
        except FormError:
            return self._count("form_error")
        match message:
            case HomeAgentDiscoveryRequest() if packet.home_address is None:
                return packet, message
            case MobilePrefixSolicitation() if packet.destination not in self._anycast:
                if packet.home_address is None:  # RFC 6275 §11.4.2
                    return self._count("no_home_address_option")
                if not self._is_bound(packet.home_address, packet.source):
                    return self._binding_error(packet, ErrorStatus.UNKNOWN_BINDING, now)
                return packet, message
        return self._count("ignored")

    def _is_bound(self, home: IPv6Address, care_of: IPv6Address) -> bool:
        entry = self._cache.get(home)
        return entry is not None and care_of in {one.care_of_address for one in entry.bindings}

    def _home_address_option(self, packet: SignallingPacket, now: float) -> list[Action]:
        """RFC 6275 §9.3.1: data with a Home Address option is taken only if that binding exists."""
        home = packet.home_address
        if home is None or packet.protocol in (Protocol.ESP, Protocol.AH, Protocol.FRAGMENT):
            return self._count("ignored")
        if not is_unicast_routable(home):
            return self._count("home_address_not_unicast")
        if not self._is_bound(home, packet.source):
            return self._binding_error(packet, ErrorStatus.UNKNOWN_BINDING, now)
        self._counts["home_address_option"] += 1
        header = ipv6_header(home, packet.destination, packet.protocol, len(packet.payload), packet.hop_limit)
        return [DeliverLocally(header + packet.payload)]

    def _binding_error(
        self, packet: SignallingPacket, status: ErrorStatus, now: float, outer: UdpEnds | None = None
    ) -> list[Action]:
        """RFC 6275 §9.3.3: to the source on the wire, naming the home address; rate limited like ICMPv6 errors."""
        self._counts[f"binding_error_{int(status)}"] += 1
        if not self._errors.allow(now):
            return []
        error = BindingError(status, packet.home_address or IPv6Address(0))
        return [SendPacket(build_packet(self._settings.address, packet.source, error), outer=outer)]

    def _parameter_problem(
        self, packet: SignallingPacket, pointer: int, now: float, outer: UdpEnds | None
    ) -> list[Action]:
        self._counts["parameter_problem"] += 1
        if not self._errors.allow(now):
            return []
        return [SendPacket(parameter_problem(packet.packet, self._settings.address, pointer), outer=outer)]

    def _count(self, name: str) -> list[Action]:
        self._counts[name] += 1
        return []
