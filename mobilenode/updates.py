"""Binding Updates as packets, and which flow bindings still fit into one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from mip6.actions import SendPacket
from mip6.auth import sign
from mip6.flowextension import encode_flow
from mip6.forwarding import IPV6_HEADER, MINIMUM_MTU, IPAddress
from mip6.headers import build_packet
from mip6.messages import BindingUpdate, Message, encode_message
from mip6.numbers import IdentifierSubtype, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    BindingIdentifier,
    FlowIdentification,
    FlowSummary,
    IPv4CareOfAddress,
    MessageIdentification,
    MobileNetworkPrefix,
    MobileNodeIdentifier,
    Option,
)
from mip6.suboptions import BindingReference, TrafficSelectorSubOption
from mip6.udp import UdpEnds
from mobilenode.bindingupdatelist import PLAIN, FlowBinding, SentUpdate, Update
from mobilenode.movement import Source
from mobilenode.settings import MobileNodeSettings

SUMMARY_LIMIT = 127  # FIDs in one Flow Summary option (RFC 6089 §4.2.2)
# Home Address option header, MESG-ID with padding, AUTH of HMAC-SHA256 with padding
OVERHEAD = IPV6_HEADER + 24 + 16 + 32


def binding_update(
    settings: MobileNodeSettings, sent: SentUpdate, source: Source, home_agent: IPv6Address, wanted: tuple[Option, ...]
) -> SendPacket:
    """The whole packet. `wanted` are the options that ask for IPv4 home addresses."""
    ends_all = sent.update.deregisters and not sent.update.deletes
    options = [*_options(settings, sent.update, source.address), *(() if ends_all else wanted)]
    if sent.timestamp is not None:
        options.append(MessageIdentification(sent.timestamp))
    message = _message(sent.update, sent.sequence, sent.lifetime, tuple(options))
    if source.udp:
        outer = UdpEnds(source.address, settings.far_end(home_agent, source.address))
        return seal(settings, message, settings.home_address, home_agent, source.link, outer)
    assert isinstance(source.address, IPv6Address)  # IPv4 goes inside UDP
    return seal(settings, message, source.address, home_agent, source.link)


def seal(
    settings: MobileNodeSettings,
    message: Message,
    source: IPv6Address,
    home_agent: IPv6Address,
    link: str | None,
    outer: UdpEnds | None = None,
) -> SendPacket:
    """A packet to the home agent, signed when there is an association; the care-of address of the authenticator is
    the IPv6 source. From the home address itself (at home, and inside UDP) it has no Home Address option (RFC 6275
    §11.5.5, RFC 5555 §4.2)."""
    home = settings.home_address
    signed: Message | bytes = message
    if settings.association is not None:
        signed = sign(message, settings.association, source, home)
    packet = build_packet(source, home_agent, signed, home_address=None if source == home else home)
    return SendPacket(packet, link, outer=outer)


def identification(settings: MobileNodeSettings) -> tuple[Option, ...]:
    """The mobile node's NAI; RFC 4285 §5 wants it in front of the authentication option."""
    if settings.identifier is None:
        return ()
    return (MobileNodeIdentifier(IdentifierSubtype.NAI, settings.identifier.encode()),)


def fit_flows(
    settings: MobileNodeSettings,
    base: Update,
    full: tuple[FlowBinding, ...],
    known: Mapping[int, FlowBinding],
    kept: tuple[int, ...],
) -> Update:
    """`base` with as many of the `full` flows as an unfragmented packet holds, in their order.

    A flow that must wait for the next Binding Update is named in the summary when the home agent knows it in an older
    form, else it would be deleted meanwhile (RFC 6089 §5.2). `kept` are the flows that are as wanted.
    """
    waiting = {flow.fid for flow in full if flow.fid in known}
    stated: tuple[FlowBinding, ...] = ()

    def candidate(flows: tuple[FlowBinding, ...]) -> Update:
        named = {flow.fid for flow in flows}
        return replace(base, flows=flows, kept=(*kept, *sorted(waiting - named)))

    result = candidate(())
    for flow in full:
        attempt = candidate((*stated, flow))
        if _size(settings, attempt) <= MINIMUM_MTU:
            stated, result = attempt.flows, attempt
    return result


def _size(settings: MobileNodeSettings, update: Update) -> int:
    ipv4 = 12 * (len(settings.ipv4_prefixes) + (settings.ipv4_home_address is not None))  # with padding
    message = _message(update, 0, 0, tuple(_options(settings, update, IPv6Address(0))))
    return OVERHEAD + ipv4 + len(encode_message(message))


def _message(update: Update, sequence: int, lifetime: int, options: tuple[Option, ...]) -> BindingUpdate:
    flags = UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION
    if update.mobile_router:
        flags |= UpdateFlag.MOBILE_ROUTER
    if update.overwrite:
        flags |= UpdateFlag.OVERWRITE
    if any(one.force_udp for one in update.bindings):
        flags |= UpdateFlag.FORCE_UDP
    return BindingUpdate(sequence, flags, 0 if update.deregisters else lifetime, options)


def _options(settings: MobileNodeSettings, update: Update, source: IPAddress) -> Iterator[Option]:
    yield from identification(settings)
    if update.explicit_prefixes:
        for prefix in settings.prefixes:
            yield MobileNetworkPrefix(prefix.prefixlen, prefix.network_address)
    for binding in update.bindings:
        if binding.bid == PLAIN:  # RFC 6275 §11.7.1, RFC 5555 §3.1.2; never with BIDs (RFC 5648 §5.2, §8.1)
            yield _care_of_option(binding.care_of_address)
        else:
            yield BindingIdentifier(binding.bid, 0, False, binding.priority, binding.care_of_address)
    for bid in update.deletes:
        yield BindingIdentifier(bid)
    if update.deregisters and not update.deletes and source != settings.home_address:
        yield _care_of_option(source)
    for flow in update.flows:
        suboptions = (BindingReference(flow.reference()), TrafficSelectorSubOption(flow.selector))
        yield FlowIdentification(flow.fid, flow.priority, suboptions=suboptions)
        if (extension := flow.extension()) is not None:
            yield encode_flow(settings.enterprise, extension)
    for start in range(0, len(update.kept), SUMMARY_LIMIT):
        yield FlowSummary(update.kept[start : start + SUMMARY_LIMIT])


def _care_of_option(address: IPAddress) -> Option:
    return IPv4CareOfAddress(address) if isinstance(address, IPv4Address) else AlternateCareOfAddress(address)
