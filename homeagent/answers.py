"""Binding Acknowledgements as packets, and what is known of the Binding Update that they answer."""

from __future__ import annotations

from dataclasses import replace

from homeagent.dualstack import nat_detection, stated_alone
from homeagent.registration import Accepted, Refusal, Request
from homeagent.security import Proof, protect
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.actions import SendPacket
from mip6.events import PacketReceived
from mip6.headers import SignallingPacket, build_packet
from mip6.messages import BindingAcknowledgement, BindingUpdate, TooLong
from mip6.numbers import AckFlag, BindingStatus, UpdateFlag
from mip6.options import BindingRefreshAdvice, Option
from mip6.values import value

NO_FLAGS = AckFlag(0)


@value
class Exchange:
    """A Binding Update on its way through the ladder, with all that is known of it."""

    event: PacketReceived
    packet: SignallingPacket
    update: BindingUpdate
    node: NodeSettings
    proof: Proof

    def request(self) -> Request:
        """What the rules of registration need of it."""
        packet = self.packet
        has_option = packet.home_address is not None
        proof, outer = self.proof, self.event.outer
        home = self.node.home_address
        return Request(self.update, home, packet.source, has_option, proof.timestamp, outer, guarded=proof.guarded)


def accept(settings: HomeAgentSettings, exchange: Exchange, accepted: Accepted, ipv4: tuple[Option, ...]) -> SendPacket:
    """The acknowledgement of what was accepted; `ipv4` says what became of the IPv4 home address.

    Refusal when no acknowledgement can hold all that is to be said.
    """
    options = (*ipv4, *accepted.options)  # IPv4 Address Acknowledgement before all BIDs (RFC 5648 §8.2)
    advice = settings.refresh_advice // 4 * 4
    if 0 < advice < accepted.lifetime:
        options = (BindingRefreshAdvice(advice), *options)
    update = exchange.update
    flags = AckFlag.MOBILE_ROUTER if UpdateFlag.MOBILE_ROUTER in update.flags else NO_FLAGS
    message = BindingAcknowledgement(accepted.status, flags, update.sequence, accepted.lifetime, options)
    try:
        return _send(settings, exchange, message)
    except TooLong:
        raise Refusal(BindingStatus.INSUFFICIENT_RESOURCES, "the acknowledgement would be too long") from None


def refuse(settings: HomeAgentSettings, exchange: Exchange, refusal: Refusal) -> SendPacket:
    """The acknowledgement with the status of a refusal."""
    sequence = exchange.update.sequence if refusal.sequence is None else refusal.sequence
    message = BindingAcknowledgement(refusal.status, NO_FLAGS, sequence, 0, refusal.options)
    try:
        return _send(settings, exchange, message)
    except TooLong:
        return _send(settings, exchange, replace(message, options=()))


def _send(settings: HomeAgentSettings, exchange: Exchange, answer: BindingAcknowledgement) -> SendPacket:
    """RFC 6275 §9.5.4: to the source of the Binding Update; a routing header if and only if it had the option.
    In the same encapsulation, between the same ends (RFC 5555 §4.2)."""
    packet, event = exchange.packet, exchange.event
    if event.outer is not None:
        stated = stated_alone(exchange.update)
        detection = nat_detection(settings, exchange.update, event.outer, stated)
        answer = replace(answer, options=(detection, *answer.options))
    mh = protect(answer, exchange.proof, exchange.node, packet)
    data = build_packet(settings.address, packet.source, mh, routing_address=packet.home_address)
    if packet.source == packet.sender() and event.link_layer_source:  # from home (§10.3.2)
        return SendPacket(data, event.interface, event.link_layer_source)
    return SendPacket(data, outer=event.outer)
