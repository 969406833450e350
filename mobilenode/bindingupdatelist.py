"""Binding update list: what the home agent holds of this node, as far as the node can know (RFC 6275 §11.1).

Signalling may be lost, delayed, repeated or reordered, so between a Binding Update and its acknowledgement the home
agent may hold the state before or after it. The list keeps both: what was acknowledged (`held`, `flows`) and every
Binding Update since whose fate is open (`outstanding`). `possible_bindings` and `possible_flows` join them to the set
of values the home agent may hold for each BID and FID; registration is finished when that set has one member, the
wanted one. Everything else (loss of a link while an update is on its way, say) follows from this rule. An update that
a later one has `overtaken` gets no answer any more; what it said of BIDs that the later one did not name stays open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import takewhile

from mip6.flowextension import FlowExtension
from mip6.forwarding import IPAddress
from mip6.selectors import TrafficSelector

PLAIN = 0  # the BID of a binding that is registered without BID option
MAXIMUM_OUTSTANDING = 256  # older Binding Updates are forgotten: an answer so late would say nothing


@dataclass(frozen=True, slots=True)
class Binding:
    """One care-of address as a Binding Update states it. `force_udp` is the F flag of RFC 5555 §3.1.3."""

    bid: int
    care_of_address: IPAddress
    priority: int
    force_udp: bool = False

    def where(self) -> tuple[int, IPAddress, bool]:
        """What makes it this binding, whatever its preference."""
        return self.bid, self.care_of_address, self.force_udp


@dataclass(frozen=True, slots=True)
class FlowBinding:
    """One flow binding as a Flow Identification option states it (RFC 6089 §4.2).

    `weights`, one for each of `bids`, `drop`, `unreachable` and `copied` are what `mip6.flowextension` adds to it;
    where the far end knows nothing of that, a shared flow goes to `lead`, which does not change with the load.
    """

    fid: int
    priority: int
    selector: TrafficSelector
    bids: tuple[int, ...]
    weights: tuple[int, ...] = ()
    drop: bool = False
    lead: int = 0
    unreachable: bool = False
    copied: bool = False

    def reference(self) -> tuple[int, ...]:
        """The BIDs of the binding reference: of a shared flow only one."""
        return (self.lead,) if self.weights else self.bids

    def extension(self) -> FlowExtension | None:
        """What the binding reference cannot say."""
        if not (self.weights or self.drop or self.copied):
            return None
        shares = tuple(zip(self.bids, self.weights, strict=True)) if self.weights else ()
        return FlowExtension(self.fid, shares, self.drop, self.unreachable, self.copied)


@dataclass(frozen=True, slots=True)
class Update:
    """What one Binding Update says, apart from numbers and times.

    `bindings` are added or changed, `deletes` are BIDs to end. `replaces`: all other bindings end (O=1, no BID option,
    or a deregistration of everything, which has neither bindings nor deletes). `flows` are stated in full, `kept`
    are FIDs of the Flow Summary; every other flow ends (RFC 6089 §5.2). `overwrite` is the O flag itself.
    """

    bindings: tuple[Binding, ...] = ()
    deletes: tuple[int, ...] = ()
    replaces: bool = False
    overwrite: bool = False
    mobile_router: bool = False
    explicit_prefixes: bool = False
    flows: tuple[FlowBinding, ...] = ()
    kept: tuple[int, ...] = ()

    @property
    def deregisters(self) -> bool:
        """Whether its lifetime is 0."""
        return not self.bindings


@dataclass(frozen=True, slots=True)
class SentUpdate:
    """One Binding Update that was sent, by `link`. `timestamp` is its MESG-ID, `clock` counts the corrections made
    before."""

    update: Update
    sequence: int
    timestamp: int | None
    clock: int
    time: float
    lifetime: int
    link: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """One acknowledged binding. `lifetime` in seconds as granted, the times on the engine's clock. `udp`: its data is
    encapsulated in UDP, as the home agent found a NAT or was asked to."""

    binding: Binding
    lifetime: int
    expires: float
    refresh: float
    udp: bool = False


@dataclass(slots=True)
class BindingUpdateList:
    """The list for one home agent. `sequence` is the last number used; every home registration counts it up."""

    sequence: int
    held: dict[int, Held] = field(default_factory=dict)
    flows: dict[int, FlowBinding] = field(default_factory=dict)
    outstanding: list[SentUpdate] = field(default_factory=list)
    overtaken: list[SentUpdate] = field(default_factory=list)

    def sent(self, update: SentUpdate) -> None:
        """Remember a Binding Update on its way."""
        self.sequence = update.sequence
        # a number may come again after a resynchronisation (status 135): its answer belongs to the new one
        self.outstanding = [one for one in self.outstanding if one.sequence != update.sequence]
        self.outstanding = [*self.outstanding, update][-MAXIMUM_OUTSTANDING:]

    def find(self, sequence: int) -> SentUpdate | None:
        """The Binding Update an acknowledgement with this number answers (RFC 6275 §11.7.3)."""
        return next((one for one in self.outstanding if one.sequence == sequence), None)

    def drop(self, sent: SentUpdate) -> None:
        """A Binding Update was rejected: it changed nothing at the home agent (RFC 6275 §10.3.1)."""
        self.outstanding = [one for one in self.outstanding if one is not sent]

    def supersede(self, sent: SentUpdate) -> None:
        """A Binding Update was accepted: those before it can no longer be, their numbers are too old (§9.5.1).

        They may have been, though: a flow that one of them changed unheard is not known any more, and is stated again;
        so is a BID.
        """
        before = self.outstanding[: self.outstanding.index(sent)]
        unsettled = (self._unsettled(one, sent.update) for one in (*self.overtaken, *before))
        self.overtaken = [one for one in unsettled if one is not None]
        possible = self.possible_flows(before=sent)
        self.flows = {fid: flow for fid, flow in self.flows.items() if possible[fid] == {flow}}
        self.outstanding = self.outstanding[self.outstanding.index(sent) + 1 :]

    def _unsettled(self, sent: SentUpdate, accepted: Update) -> SentUpdate | None:
        """What an overtaken update said of the bindings that the `accepted` one says nothing of."""
        if accepted.replaces:
            return None
        settled = {one.bid for one in accepted.bindings} | set(accepted.deletes)
        bindings = tuple(one for one in sent.update.bindings if one.bid not in settled)
        named = {one.bid for one in sent.update.bindings} | settled
        deletes = set(self.held) - named if sent.update.replaces else set(sent.update.deletes) - settled
        if not bindings and not deletes:
            return None
        return replace(sent, update=Update(bindings, tuple(sorted(deletes))))

    def clear(self) -> None:
        """The home agent holds nothing any more."""
        self.held.clear()
        self.flows.clear()
        self.overtaken.clear()

    def expire(self, now: float) -> list[int]:
        """Forget bindings whose lifetime is over, and updates that can have left none; the BIDs that ended."""
        ended = [bid for bid, one in self.held.items() if one.expires <= now]
        for bid in ended:
            del self.held[bid]
        if ended and not self.held:
            self.flows.clear()  # flow bindings end with the last binding
        self.outstanding = [one for one in self.outstanding if now < one.time + one.lifetime]
        self.overtaken = [one for one in self.overtaken if now < one.time + one.lifetime]
        return ended

    def ends(self, binding: Binding) -> float | None:
        """Until when the home agent holds this care-of address as acknowledged, else as asked for; None when it cannot.

        Its BID-PRI does not matter.
        """
        held = self.held.get(binding.bid)
        if held is not None and held.binding.where() == binding.where():
            return held.expires
        asked = [
            sent.time + sent.lifetime
            for sent in self.outstanding
            if any(one.where() == binding.where() for one in sent.update.bindings)
        ]
        return max(asked, default=None)

    def possible_bindings(self) -> dict[int, set[Binding | None]]:
        """For each BID the values the home agent may hold; None: no binding. BIDs not listed are not bound."""
        possible: dict[int, set[Binding | None]] = {bid: {one.binding} for bid, one in self.held.items()}
        for update in _distinct((*self.overtaken, *self.outstanding)):
            named = {one.bid: one for one in update.bindings}
            for bid, binding in named.items():
                possible.setdefault(bid, {None}).add(binding)
            for bid, values in possible.items():
                if bid not in named and (update.replaces or bid in update.deletes):
                    values.add(None)
        return possible

    def possible_flows(self, before: SentUpdate | None = None) -> dict[int, set[FlowBinding | None]]:
        """The same for each FID; with `before`, as the home agent may have held them when that one reached it."""
        possible: dict[int, set[FlowBinding | None]] = {fid: {flow} for fid, flow in self.flows.items()}
        for update in _distinct(takewhile(lambda sent: sent is not before, self.outstanding)):
            named = {one.fid: one for one in update.flows}
            for fid, flow in named.items():
                possible.setdefault(fid, {None}).add(flow)
            for fid, values in possible.items():
                if fid not in named and fid not in update.kept:
                    values.add(None)
        return possible


def _distinct(sent: Iterable[SentUpdate]) -> Iterable[Update]:
    """What was said, in order. What was said again (the same object) adds nothing."""
    return {id(one.update): one.update for one in sent}.values()
