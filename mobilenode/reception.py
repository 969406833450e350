"""Received signalling: the ladder of RFC 6275 §9.2, then what the home agent has to say to a mobile node.

Binding Acknowledgements go to `acknowledgement`. Binding Error, Binding Refresh Request and Binding Revocation are
here. The first two are not authenticated, so all they can cause is one more registration, at a limited rate.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv6Address

from mip6.actions import Action, Report, SendPacket
from mip6.auth import ntp_difference, ntp_timestamp, verify
from mip6.events import PacketReceived
from mip6.forwarding import IPAddress
from mip6.headers import SignallingPacket, build_packet, parameter_problem, parse_packet
from mip6.icmp6 import HomeAgentDiscoveryReply, MobilePrefixAdvertisement, decode_icmp6, is_mobility_icmp6
from mip6.messages import (
    BadHeader,
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    Message,
    UnknownType,
    decode_message,
)
from mip6.numbers import (
    ErrorStatus,
    Protocol,
    RevocationFlag,
    RevocationStatus,
    RevocationTrigger,
)
from mip6.options import Authentication, BindingIdentifier, IPv4HomeAddress, MalformedOption, MessageIdentification
from mip6.ratelimit import RateLimit
from mip6.udp import UdpEnds
from mip6.wire import FormError
from mobilenode.acknowledgement import acknowledge
from mobilenode.dualstack import Ipv4Home
from mobilenode.homeagents import HomeAgents
from mobilenode.prefixdiscovery import PrefixDiscovery
from mobilenode.registration import SLOW_RETRY, Registration
from mobilenode.settings import MobileNodeSettings
from mobilenode.updates import identification, seal

ERRORS_PER_SECOND = 10  # Binding Errors and ICMPv6 errors
UNAUTHENTICATED_INTERVAL = 5.0  # seconds between registrations that an unauthenticated message asked for
REVOCATIONS_REMEMBERED = 1024
REVOCATION_WINDOW = 60.0  # seconds between the clocks; far more than lets Binding Updates pass (RFC 4285 §6)
FIRST_GLOBAL_TRIGGER = 128  # revocation triggers from here on go with G=1 (RFC 5846 §5.1)


class Reception:
    """Takes packets apart and applies them to the registration; `counts` gets one count per packet, by name."""

    def __init__(
        self,
        settings: MobileNodeSettings,
        state: Registration,
        agents: HomeAgents,
        prefixes: PrefixDiscovery,
        counts: Counter[str],
    ) -> None:
        self._settings = settings
        self._state = state
        self._agents = agents
        self._prefixes = prefixes
        self._counts = counts
        self._errors = RateLimit(ERRORS_PER_SECOND, ERRORS_PER_SECOND)
        self._requests = RateLimit(1 / UNAUTHENTICATED_INTERVAL, 1)
        self._obeyed: dict[tuple[IPv6Address, int], RevocationStatus] = {}  # revocations, by sender and number

    def receive(self, event: PacketReceived, now: float) -> list[Action]:
        """RFC 6275 §9.2 in its order: checksum, type, Payload Proto, Header Len, options."""
        try:
            packet = parse_packet(event.packet)
        except FormError:
            return self._count("form_error")
        if not self._is_for_us(packet, event.outer):
            return self._count("not_for_us")
        if packet.source.is_multicast or packet.source.is_unspecified or packet.source.is_loopback:
            return self._count("source_not_unicast")
        if packet.protocol == Protocol.ICMPV6 and packet.home_address is None:
            return self._icmp6(packet, now)
        if packet.protocol != Protocol.MOBILITY:
            if packet.home_address is None or packet.protocol in (Protocol.ESP, Protocol.AH, Protocol.FRAGMENT):
                return self._count("ignored")
            # RFC 6275 §9.3.1: nobody has a binding here, this node is no correspondent node
            return self._binding_error(event, packet, ErrorStatus.UNKNOWN_BINDING, now)
        if not packet.checksum_is_right():
            return self._count("bad_checksum")
        try:
            message = decode_message(packet.payload)
        except UnknownType:
            return self._binding_error(event, packet, ErrorStatus.UNRECOGNIZED_MESSAGE, now)
        except BadHeader as error:
            return self._parameter_problem(event, packet, packet.offset + error.offset, now)
        except FormError:
            return self._count("form_error")
        for option in message.options:
            if isinstance(option, MalformedOption):
                return self._parameter_problem(event, packet, packet.offset + option.offset, now)
        return self._dispatch(packet, message, event.outer, now)

    def _is_for_us(self, packet: SignallingPacket, outer: UdpEnds | None) -> bool:
        """To a care-of address, or to the home address; a routing header may only hold the home address (§11.3.3).
        Inside UDP to the home address, at a care-of address (RFC 5555 §4.2)."""
        home = self._settings.home_address
        own: set[IPAddress] = {one.address for one in self._state.care_of}
        if outer is not None:
            return outer.local in own and packet.destination == home and packet.routing_address is None
        return packet.destination in {home, *own} and packet.routing_address in (None, home)

    def _icmp6(self, packet: SignallingPacket, now: float) -> list[Action]:
        if not is_mobility_icmp6(packet.payload):
            return self._count("ignored")
        if not packet.checksum_is_right():
            return self._count("bad_checksum")
        try:
            message = decode_icmp6(packet.payload)
        except FormError:
            return self._count("form_error")
        actions: list[Action] | None
        match message:
            case HomeAgentDiscoveryReply():
                actions, name = self._agents.discovered(packet, message), "discovery_reply"
            case MobilePrefixAdvertisement():
                actions, name = self._prefixes.advertised(packet, message, now), "prefix_advertisement"
            case _:
                return self._count("ignored")
        self._count(name if actions is not None else f"unexpected_{name}")
        return actions or []

    def _dispatch(self, packet: SignallingPacket, message: Message, outer: UdpEnds | None, now: float) -> list[Action]:
        known = (BindingAcknowledgement, BindingError, BindingRefreshRequest, BindingRevocationIndication)
        if not isinstance(message, known):
            return self._count("ignored")
        if isinstance(message, BindingAcknowledgement) and self._agents.is_left(packet.sender()):
            answered = self._authentic(packet, message) and self._agents.farewell_answered(packet.sender())
            return self._count("farewell_answered" if answered else "not_authentic")
        if packet.sender() != self._state.home_agent:
            return self._count("not_from_home_agent")
        match message:
            case BindingError():
                return self._binding_error_received(message, now)
            case BindingRefreshRequest():
                return self._refresh_requested(now)
        if packet.receiver() != self._settings.home_address:
            return self._count(
                "not_for_us"
            )  # RFC 6275 §9.5.4: both come by type 2 routing header, or to the home address
        if not self._authentic(packet, message):
            return self._count("not_authentic")
        if isinstance(message, BindingAcknowledgement):
            actions = acknowledge(self._state, message, now)
            if actions is None:
                return self._count("unexpected_acknowledgement")
            self._count(f"acknowledgement_{int(message.status)}")
            return actions
        assert isinstance(message, BindingRevocationIndication)
        return self._revoked(packet, message, outer, now)

    def _authentic(self, packet: SignallingPacket, message: Message) -> bool:
        """RFC 4285 §5.1: one MN-HA option, the last one, of our association and right; else silence."""
        association = self._settings.association
        if association is None:
            return True
        options: list[Authentication] = message.find_all(Authentication)
        if len(options) != 1 or message.options[-1] is not options[0] or options[0].spi != association.spi:
            return False
        return verify(packet.payload, message, association, packet.destination, self._settings.home_address)

    # --- what the home agent asks for --------------------

    def _binding_error_received(self, message: BindingError, now: float) -> list[Action]:
        """Status 1: the home agent has no binding, so register (RFC 6275 §11.3.6). Status 2 answers nothing we send."""
        self._count(f"binding_error_{int(message.status)}")
        if message.status != ErrorStatus.UNKNOWN_BINDING or message.home_address != self._settings.home_address:
            return []
        if not self._requests.allow(now):
            return []
        self._refresh(now)  # not with O=1, which would end other bindings: anybody can say this
        return [Report("binding error: registering again", "warning")]

    def _refresh_requested(self, now: float) -> list[Action]:
        """RFC 6275 §11.7.4: only when there is something to refresh."""
        self._count("binding_refresh_request")
        if self._state.update_list.held and self._requests.allow(now):
            self._refresh(now)
        return []

    def _refresh(self, now: float) -> None:
        held = self._state.update_list.held
        for bid, one in held.items():
            held[bid] = replace(one, refresh=min(one.refresh, now))

    def _revoked(
        self, packet: SignallingPacket, message: BindingRevocationIndication, outer: UdpEnds | None, now: float
    ) -> list[Action]:
        """RFC 5846 §10: answer, and drop the bindings that were named, or all.

        An administrative revocation is obeyed for a while before the mobile node asks again; after any other the
        bindings are registered anew at once, for the home agent only lost or doubts its state.
        """
        stamp: MessageIdentification | None = message.find(MessageIdentification)
        here = ntp_timestamp(self._state.wall(now)) if self._state.timestamps else None
        if stamp and here and abs(ntp_difference(stamp.timestamp, here)) > REVOCATION_WINDOW:
            # replayed after a restart, which forgets what was obeyed; other home agents may send no MESG-ID
            return self._count("revocation_out_of_time")
        self._count("revocation_indication")
        status, bids = self._judge_revocation(message)
        number = packet.source, message.sequence
        if number in self._obeyed:
            # repeated because the answer was lost, or replayed
            return [self._answer_revocation(self._obeyed[number], message, packet, outer)]
        if bids or status == RevocationStatus.SUCCESS:
            self._obeyed[number] = status
            if len(self._obeyed) > REVOCATIONS_REMEMBERED:
                del self._obeyed[next(iter(self._obeyed))]
        actions: list[Action] = []
        if message.flags & RevocationFlag.IPV4 and status == RevocationStatus.SUCCESS:
            self._state.ipv4 = Ipv4Home()
            actions.append(Report("IPv4 home address revoked", "warning"))
        for bid in bids:
            held = self._state.update_list.held.pop(bid)
            if message.trigger == RevocationTrigger.ADMINISTRATIVE:
                self._state.refuse_bid(held.binding, RevocationStatus.SUCCESS, now)
        if bids:
            fields = {"bids": bids, "trigger": int(message.trigger)}
            if message.trigger == RevocationTrigger.ADMINISTRATIVE:
                fields["retry_after"] = SLOW_RETRY
            actions.append(Report("binding revoked", "warning", fields))
        return [*actions, self._answer_revocation(status, message, packet, outer)]

    def _answer_revocation(
        self,
        status: RevocationStatus,
        message: BindingRevocationIndication,
        packet: SignallingPacket,
        outer: UdpEnds | None,
    ) -> SendPacket:
        answer = BindingRevocationAcknowledgement(
            status, message.sequence, message.flags, identification(self._settings)
        )
        link = self._link(packet.destination if outer is None else outer.local)
        return seal(self._settings, answer, packet.destination, packet.source, link, outer)

    def _judge_revocation(self, message: BindingRevocationIndication) -> tuple[RevocationStatus, list[int]]:
        flags, held = message.flags, self._state.update_list.held
        if flags & RevocationFlag.PROXY:
            return RevocationStatus.PROXY_NOT_SUPPORTED, []
        if flags & RevocationFlag.IPV4:
            option: IPv4HomeAddress | None = message.find(IPv4HomeAddress)
            if option is None:
                return RevocationStatus.IPV4_OPTION_REQUIRED, []
            own = option.home_address == self._state.ipv4.address
            return (RevocationStatus.SUCCESS if own else RevocationStatus.BINDING_DOES_NOT_EXIST), []
        if flags & RevocationFlag.GLOBAL or message.trigger >= FIRST_GLOBAL_TRIGGER:
            return RevocationStatus.FUNCTION_NOT_SUPPORTED, []
        if message.trigger not in set(RevocationTrigger):
            return RevocationStatus.TRIGGER_NOT_SUPPORTED, []
        named = [one.bid for one in message.find_all(BindingIdentifier)]
        bids = [bid for bid in named or list(held) if bid in held]
        if not bids:
            return RevocationStatus.BINDING_DOES_NOT_EXIST, []
        return (RevocationStatus.PARTIAL_SUCCESS if set(named) - set(bids) else RevocationStatus.SUCCESS), bids

    # --- errors --------------------

    def _binding_error(
        self, event: PacketReceived, packet: SignallingPacket, status: ErrorStatus, now: float
    ) -> list[Action]:
        """RFC 6275 §9.3.3: to the source on the wire, with the home address of the option. What strangers send to the
        UDP port draws nothing."""
        self._count("unknown_message" if status == ErrorStatus.UNRECOGNIZED_MESSAGE else "unknown_binding")
        if event.outer is not None or not self._errors.allow(now):
            return []
        error = BindingError(status, packet.home_address or IPv6Address(0))
        return [SendPacket(build_packet(packet.destination, packet.source, error), self._link(packet.destination))]

    def _parameter_problem(
        self, event: PacketReceived, packet: SignallingPacket, pointer: int, now: float
    ) -> list[Action]:
        self._count("parameter_problem")
        if event.outer is not None or not self._errors.allow(now):
            return []
        problem = parameter_problem(packet.packet, packet.destination, pointer)
        return [SendPacket(problem, self._link(packet.destination))]

    def _link(self, source: IPAddress) -> str | None:
        return next((one.link for one in self._state.care_of if one.address == source), None)

    def _count(self, name: str) -> list[Action]:
        self._counts[name] += 1
        return []
