"""The rules of registration: what a Binding Update does to the binding cache entry, or why it is refused.

Pure functions of (settings, entry, Binding Update). `admission` comes first; the order of the checks here is that of
RFC 6275 §10.3, RFC 3963 §6.2, RFC 5648 §6 and RFC 6089 §5.3; each branch names its section. A refused Binding Update
changes nothing, not even the stored sequence number.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

from homeagent.bindingcache import PLAIN, Binding, BindingCacheEntry, FlowBinding
from homeagent.dualstack import Place, place
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.flowextension import FlowExtension, encode_applied, flow_extensions
from mip6.forwarding import MOST_TUNNELS, IPAddress
from mip6.messages import BindingUpdate
from mip6.numbers import BindingStatus, FlowStatus, OptionType, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    BindingIdentifier,
    FlowIdentification,
    FlowSummary,
    IPv4CareOfAddress,
    MalformedOption,
    MobileNetworkPrefix,
    Option,
    VendorSpecific,
)
from mip6.selectors import UnknownSelector
from mip6.suboptions import BindingReference, MalformedSubOption, TrafficSelectorSubOption
from mip6.udp import UdpEnds
from mip6.values import value

MOST_UNKNOWN = 64  # FIDs not found that one acknowledgement names: each takes four times the room of its Flow Summary
_ABOUT_FLOWS = frozenset((FlowIdentification, FlowSummary, MalformedOption, VendorSpecific))


class Refusal(Exception):
    """The Binding Update is answered with `status`; `sequence` replaces its number in the answer (status 135)."""

    def __init__(self, status: int, why: str, sequence: int | None = None, options: tuple[Option, ...] = ()) -> None:
        super().__init__(why)
        self.status = BindingStatus(status)
        self.why = why
        self.sequence = sequence
        self.options = options


@value
class Accepted:
    """A Binding Update that was accepted: the new entry, and what its acknowledgement says."""

    entry: BindingCacheEntry
    status: BindingStatus
    lifetime: int
    options: tuple[Option, ...] = ()
    created: bool = False  # no binding lived before: duplicate address detection comes first (RFC 6275 §10.3.1)


@value
class Request:
    """A Binding Update with what the packet around it said. `source` is the IPv6 source of the packet, `outer` the UDP
    encapsulation that it came in. `guarded`: its sequence number is the replay protection."""

    update: BindingUpdate
    home_address: IPv6Address
    source: IPv6Address
    has_home_address_option: bool
    timestamp: int | None = None  # MESG-ID, already checked
    outer: UdpEnds | None = None
    guarded: bool = False


def is_unicast_routable(address: IPAddress) -> bool:
    """Whether packets can be sent to this address across routers (RFC 6275 §9.5.1)."""
    if isinstance(address, IPv6Address):
        number = int(address)  # ::, ::1, ff00::/8 and fe80::/10 cannot; asking the library for each takes long
        return number > 1 and number >> 120 != 0xFF and number >> 118 != 0xFE80 >> 6
    if address.is_reserved or address.packed[0] == 0:
        return False  # 240/4 with the broadcast address, "this network"
    return not (address.is_multicast or address.is_loopback or address.is_link_local)


def register(
    settings: HomeAgentSettings, node: NodeSettings, entry: BindingCacheEntry | None, request: Request, now: float
) -> Accepted:
    """Apply an authenticated Binding Update with H=1. `entry` is None when nothing is remembered of the node."""
    update = request.update
    identifiers: list[BindingIdentifier] = update.find_all(BindingIdentifier)
    malformed = any(one.number == OptionType.BINDING_IDENTIFIER for one in update.find_all(MalformedOption))
    care_of = care_of_address(request)
    if update.lifetime == 0 or (care_of == request.home_address and not identifiers and not malformed):
        return _deregister(settings, entry, request, identifiers, malformed, now)
    if not request.has_home_address_option and request.source == request.home_address and request.outer is None:
        # §10.3.1 asks for the option and names no status for its absence
        raise Refusal(BindingStatus.REASON_UNSPECIFIED, "no Home Address option")
    home = request.home_address
    if not any(home in prefix for prefix in (*settings.home_prefixes, *node.prefixes)):
        raise Refusal(BindingStatus.NOT_HOME_SUBNET, f"{home} is not in a home prefix")  # RFC 6275 §10.3.1, 3963 §6.2
    mobile_router = UpdateFlag.MOBILE_ROUTER in update.flags
    if mobile_router and not node.mobile_router:
        raise Refusal(BindingStatus.MOBILE_ROUTER_OPERATION_NOT_PERMITTED, "not a mobile router")  # RFC 3963 §6.2
    live = entry if entry is not None and entry.bindings else None
    if live is not None and live.mobile_router != mobile_router:
        raise Refusal(BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED, "the R flag differs from the binding's")
    prefixes = _prefixes(node, update) if mobile_router else ()

    lifetime = min(update.lifetime, settings.max_lifetime) // 4 * 4
    if malformed or identifiers:
        bindings, status, answers = _bind_identified(
            settings, node, live, request, identifiers, malformed, lifetime, now
        )
    else:
        # RFC 5648 §6.3: a Binding Update without BID option replaces all bindings by its own
        known = live.binding(PLAIN) if live is not None else None
        found = place(settings, care_of, known, request.outer, update.flags, alone=True)
        if isinstance(found, Place) and _leads_back(settings, node, home, found.care_of_address):
            found = BindingStatus.INVALID_CARE_OF_ADDRESS
        if isinstance(found, BindingStatus):
            raise Refusal(found, f"{care_of} cannot be a care-of address here")
        bindings = (_binding(PLAIN, found, 0, lifetime, now),)
        status, answers = BindingStatus.ACCEPTED, ()
    flows, flow_answers = bind_flows(settings, live.flows if live else (), bindings, update)
    new = BindingCacheEntry(home, mobile_router, update.sequence, _timestamp(entry, request), bindings, flows, prefixes)
    return Accepted(new, status, lifetime, answers + flow_answers, created=live is None)


def _leads_back(settings: HomeAgentSettings, node: NodeSettings, home: IPv6Address, care_of: IPAddress) -> bool:
    """Whether tunnel packets to this address would come back into the very tunnel: it is the home agent's, or one that
    the node has by the binding itself (RFC 2473 §4.1.2)."""
    if isinstance(care_of, IPv6Address):
        number = int(care_of)  # comparing addresses takes longer
        return number in (int(home), int(settings.address)) or any(care_of in prefix for prefix in node.prefixes)
    own = (node.ipv4_home_address, settings.ipv4_address)
    return care_of in own or any(care_of in prefix for prefix in node.ipv4_prefixes)


def care_of_address(request: Request) -> IPAddress:
    """The Alternate Care-of Address when there is one, else the source (RFC 6275 §9.5.1); inside UDP the IPv4 care-of
    address when there is one, else the source of the outer header (RFC 5555 §4.2)."""
    alternate: AlternateCareOfAddress | None = request.update.find(AlternateCareOfAddress)
    if alternate is not None:
        return alternate.care_of_address
    if request.outer is None:
        return request.source
    option: IPv4CareOfAddress | None = request.update.find(IPv4CareOfAddress)
    return request.outer.remote if option is None else option.care_of_address


def _binding(bid: int, found: Place, priority: int, lifetime: int, now: float) -> Binding:
    return Binding(
        bid, found.care_of_address, priority, lifetime, now + lifetime, found.encapsulation, found.port, found.inside
    )


def _timestamp(entry: BindingCacheEntry | None, request: Request) -> int:
    if request.timestamp is not None:
        return request.timestamp
    return 0 if entry is None else entry.timestamp


def _deregister(
    settings: HomeAgentSettings,
    entry: BindingCacheEntry | None,
    request: Request,
    identifiers: list[BindingIdentifier],
    malformed: bool,
    now: float,
) -> Accepted:
    """RFC 6275 §10.3.2, RFC 5648 §6.3. The R flag is not compared (RFC 3963 §6.2), prefixes are ignored (§6.7)."""
    if entry is None or not entry.bindings:
        raise Refusal(BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE, "no binding to delete")
    if malformed:
        raise Refusal(BindingStatus.MCOA_MALFORMED, "a BID option is malformed")
    update = request.update
    current = replace(entry, sequence=update.sequence, timestamp=_timestamp(entry, request))
    if not identifiers:
        left = current.without({one.bid for one in current.bindings}, deleted=now)
        return Accepted(left, BindingStatus.ACCEPTED, 0)
    answers = tuple(BindingIdentifier(one.bid, 0, False, one.priority) for one in identifiers)
    missing = [one.bid for one in identifiers if entry.binding(one.bid) is None]
    if missing:
        raise Refusal(
            BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE, f"no binding for BID {missing[0]}", options=answers
        )
    left = current.without({one.bid for one in identifiers}, deleted=now)
    if not left.bindings:
        return Accepted(left, BindingStatus.ACCEPTED, 0, answers)
    # RFC 6089 §5.3: flows that this Binding Update names are kept, the others deleted
    flows, flow_answers = bind_flows(settings, left.flows, left.bindings, update)
    return Accepted(replace(left, flows=flows), BindingStatus.ACCEPTED, 0, answers + flow_answers)


def _prefixes(node: NodeSettings, update: BindingUpdate) -> tuple[IPv6Network, ...]:
    """RFC 3963 §6.2: explicit prefixes are checked against the prefix table, implicit ones taken from it."""
    options: list[MobileNetworkPrefix] = update.find_all(MobileNetworkPrefix)
    if not options:
        if not node.prefixes:
            raise Refusal(BindingStatus.FORWARDING_SETUP_FAILED, "no prefix is configured for this mobile router")
        return node.prefixes
    found: list[IPv6Network] = []
    for option in options:
        if not 1 <= option.length <= 128 or not is_unicast_routable(option.prefix):
            raise Refusal(BindingStatus.INVALID_PREFIX, f"{option.prefix}/{option.length} is not a usable prefix")
        prefix = option.network()
        if not any(prefix.subnet_of(own) for own in node.prefixes):
            raise Refusal(BindingStatus.NOT_AUTHORIZED_FOR_PREFIX, f"{prefix} is not in this router's prefix table")
        if prefix not in found:
            found.append(prefix)
    return tuple(found)


def _bind_identified(
    settings: HomeAgentSettings,
    node: NodeSettings,
    live: BindingCacheEntry | None,
    request: Request,
    identifiers: list[BindingIdentifier],
    malformed: bool,
    lifetime: int,
    now: float,
) -> tuple[tuple[Binding, ...], BindingStatus, tuple[Option, ...]]:
    """RFC 5648 §6.2: one or several BIDs; bindings, status of the acknowledgement and its BID options."""
    update = request.update
    if not settings.multiple_bindings:
        raise Refusal(BindingStatus.MCOA_PROHIBITED, "multiple bindings are not allowed here")
    numbers = [one.bid for one in identifiers]
    if malformed or 0 in numbers or len(set(numbers)) != len(numbers):
        raise Refusal(BindingStatus.MCOA_MALFORMED, "a BID option is malformed, reserved or repeated")
    if len(identifiers) > 1 and not settings.bulk_registration:
        raise Refusal(BindingStatus.MCOA_BULK_REGISTRATION_PROHIBITED, "bulk registration is not allowed here")
    if any(one.home for one in identifiers):
        raise Refusal(
            BindingStatus.MCOA_SIMULTANEOUS_HOME_AND_FOREIGN_PROHIBITED, "no simultaneous home and foreign binding here"
        )
    overwrite = UpdateFlag.OVERWRITE in update.flags
    if live is not None and live.binding(PLAIN) is not None and not overwrite:
        raise Refusal(BindingStatus.MCOA_NON_MCOA_BINDING_EXISTS, "a binding without BID exists")
    accepted = BindingStatus.ACCEPTED  # looked up once
    bound: dict[int, Binding] = {}
    if live is not None and not overwrite:
        bound = {one.bid: one for one in live.bindings}
    answers: list[BindingIdentifier] = []
    for one in identifiers:
        known = live.binding(one.bid) if live is not None else None
        care_of = one.care_of_address
        found: Place | BindingStatus
        if care_of is None:
            # the outer source is not looked at: without the address it cannot be told from a NAT's (RFC 5648 §8.1)
            found = BindingStatus.MCOA_UNKNOWN_COA
            if known is not None:
                found = Place(known.care_of_address, known.encapsulation, known.port, known.inside)
        elif not is_unicast_routable(care_of):
            found = BindingStatus.MCOA_MALFORMED
        else:
            found = place(settings, care_of, known, request.outer, update.flags, alone=len(identifiers) == 1)
        if isinstance(found, Place) and _leads_back(settings, node, request.home_address, found.care_of_address):
            found = BindingStatus.INVALID_CARE_OF_ADDRESS
        if one.bid not in bound and len(bound) >= MOST_TUNNELS:
            found = BindingStatus.INSUFFICIENT_RESOURCES  # RFC 6275 §6.1.8: whoever binds 65535 fills cache and disk
        if isinstance(found, BindingStatus):
            status = found
        else:
            status = accepted
            bound[one.bid] = _binding(one.bid, found, one.priority, lifetime, now)
        answers.append(BindingIdentifier(one.bid, status, False, one.priority))
    failed = [one.status for one in answers if one.status]
    if len(failed) == len(answers):
        # the RFC leaves open what to say when every BID fails: the first error, so that no one takes it for accepted
        plain = tuple(answers) if len(answers) > 1 else tuple(replace(one, status=0) for one in answers)
        raise Refusal(failed[0], "no BID could be bound", options=plain)
    status = BindingStatus.MCOA_NOTCOMPLETE if failed else accepted
    return tuple(sorted(bound.values(), key=Binding.rank)), status, tuple(answers)


def bind_flows(
    settings: HomeAgentSettings, known: tuple[FlowBinding, ...], bindings: tuple[Binding, ...], update: BindingUpdate
) -> tuple[tuple[FlowBinding, ...], tuple[Option, ...]]:
    """RFC 6089 §5.3: the flow bindings after this Binding Update, ordered by FID-PRI, and the options to answer.

    A flow that neither option names is deleted. Equal FID-PRIs are ordered by FID: refusing them would make the swap
    of two priorities in one Binding Update depend on the order of its options. Past MOST_UNKNOWN, FIDs of a summary
    that are not found are named when they are asked for again.
    """
    said_of_flows = [one for one in update.options if type(one) in _ABOUT_FLOWS]
    if not said_of_flows:
        return (), ()
    old = {flow.fid: flow for flow in known}
    bids = {binding.bid for binding in bindings}
    new: dict[int, FlowBinding] = {}
    answers: list[Option] = []
    options = [one for one in said_of_flows if isinstance(one, FlowIdentification)]
    extensions = flow_extensions(said_of_flows, settings.enterprise)
    extended: list[int] = []
    counts: dict[int, int] = {}
    for option in options:
        counts[option.fid] = counts.get(option.fid, 0) + 1
    said, unknown = set(counts), list[Option]()
    for option in options:
        before = old.get(option.fid)
        if not settings.flow_bindings:
            answers.append(FlowIdentification(option.fid, option.priority, FlowStatus.ADMINISTRATIVELY_PROHIBITED))
            continue
        result: FlowBinding | FlowStatus = FlowStatus.REJECTED
        if counts[option.fid] == 1:
            result = _flow(option, before, bids)
        if isinstance(result, FlowStatus):
            if before is not None:
                new[option.fid] = before  # a refused change leaves the flow as it was
            answers.append(FlowIdentification(option.fid, option.priority, result))
        else:
            extension = extensions.get(option.fid)
            if extension is not None:
                result = _extended(result, extension)
                extended.append(option.fid)
            new[option.fid] = result
            answers.append(FlowIdentification(option.fid, option.priority, FlowStatus.SUCCESS))
    for one in said_of_flows:
        if isinstance(one, MalformedOption) and one.number == OptionType.FLOW_IDENTIFICATION and len(one.data) >= 4:
            fid, priority = int.from_bytes(one.data[:2], "big"), int.from_bytes(one.data[2:4], "big")
            if fid in old:
                new.setdefault(fid, old[fid])
            answers.append(FlowIdentification(fid, priority, FlowStatus.MALFORMED))
            said.add(fid)
        elif isinstance(one, FlowSummary):
            for fid in one.fids:
                if fid in old:
                    new.setdefault(fid, old[fid])
                elif fid not in said:
                    said.add(fid)
                    unknown.append(FlowIdentification(fid, 0, FlowStatus.FID_NOT_FOUND))
    answers += unknown[:MOST_UNKNOWN]
    answers += encode_applied(settings.enterprise, extended)
    return tuple(sorted(new.values(), key=lambda flow: (flow.priority, flow.fid))), tuple(answers)


def _extended(flow: FlowBinding, extension: FlowExtension) -> FlowBinding:
    """A flow binding with what `mip6.flowextension` says of it; BIDs that are not bound (yet) count when they are."""
    flow = replace(flow, drop=extension.drop, unreachable=extension.unreachable, copied=extension.copied)
    if not extension.shares:
        return flow
    bids, weights = zip(*extension.shares, strict=True)
    return replace(flow, bids=bids, weights=weights)


def _flow(option: FlowIdentification, before: FlowBinding | None, bids: set[int]) -> FlowBinding | FlowStatus:
    """One Flow Identification option: the flow binding it makes, or the status that refuses it (RFC 6089 §5.3.2)."""
    selectors = [one for one in option.suboptions if isinstance(one, TrafficSelectorSubOption)]
    references = [one for one in option.suboptions if isinstance(one, BindingReference)]
    if (
        option.fid == 0
        or option.priority == 0
        or len(selectors) > 1
        or len(references) > 1
        or any(isinstance(one, MalformedSubOption) for one in option.suboptions)
        or (before is None and not (selectors and references))
    ):
        return FlowStatus.MALFORMED
    if selectors and isinstance(selectors[0].selector, UnknownSelector):
        return FlowStatus.SELECTOR_FORMAT_NOT_SUPPORTED
    if references and not set(references[0].bids) <= bids:
        return FlowStatus.BID_NOT_FOUND
    if selectors:
        selector = selectors[0].selector
    else:
        assert before is not None
        selector = before.selector
    if references:
        targets = tuple(dict.fromkeys(references[0].bids))
    else:
        assert before is not None
        targets = before.bids
    return FlowBinding(option.fid, option.priority, selector, targets)
