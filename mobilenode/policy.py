"""Policy: which BIDs each flow uses, given the care-of addresses that work now. Pure.

A rule takes the first tier of its choice that has a working link; see `settings.Choice`. A flow none of whose links
works is inactive, and what it would match goes on to the rules behind it; or it drops, when that is its last resort.
The weights of a balanced choice are multiplied with the factors of their links.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

from mip6.forwarding import FlowRule
from mobilenode.bindingupdatelist import FlowBinding
from mobilenode.movement import CareOfAddress
from mobilenode.settings import Choice, FlowSettings, LastResort, Member

BEST = 100  # the factor of the link that can take most
NO_FACTORS: Mapping[str, float] = MappingProxyType({})


class Direction(Enum):
    """Which way packets go: UP from the mobile node, DOWN to it."""

    UP = auto()
    DOWN = auto()


@dataclass(frozen=True, slots=True)
class Picked:
    """What a choice comes to now. With `weights`, one for each of `bids`, flows are shared, else copied. `lead` is then
    the BID for whoever cannot share. Without BIDs it is inactive, or drops, and may say so to the sender."""

    bids: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    drop: bool = False
    lead: int = 0
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class ResolvedFlow:
    """One flow and what its choice comes to in one direction."""

    settings: FlowSettings
    picked: Picked

    def rule(self) -> FlowRule:
        """What the data plane does with it. Selectors stay in the home agent's direction; the data plane swaps."""
        flow, picked = self.settings, self.picked
        return FlowRule(
            flow.fid, flow.priority, flow.selector, picked.bids, picked.drop, picked.weights, picked.unreachable
        )

    def binding(self) -> FlowBinding:
        """What the home agent is told of it."""
        flow, picked = self.settings, self.picked
        resort = flow.down.last_resort
        return FlowBinding(
            flow.fid,
            flow.priority,
            flow.selector,
            picked.bids,
            picked.weights,
            resort is not LastResort.DEFAULT,
            picked.lead,
            resort is LastResort.UNREACHABLE,
            # else several BIDs say it; a link that is there again is copied to before the home agent is told
            copied=flow.uplink.copy and (not flow.down.copy or len(picked.bids) < 2),
        )


def links_of(usable: Iterable[CareOfAddress]) -> dict[str, int]:
    """The BID of each link. One with several care-of addresses counts with its best, so a copy is one per link."""
    bids: dict[str, int] = {}
    for one in sorted(usable, key=lambda one: (one.priority, one.bid)):
        bids.setdefault(one.link, one.bid)
    return bids


def pick(choice: Choice, bids: Mapping[str, int], factors: Mapping[str, float] = NO_FACTORS) -> Picked:
    """What `choice` comes to while the links of `bids` work; `factors` are those of `mobilenode.balance`."""
    for number, tier in enumerate(choice.tiers):
        found = [member for member in tier if member.link in bids]
        if found:
            taken = tuple(bids[member.link] for member in found)
            if choice.copy or (len(found) == 1 and not choice.stay):
                return Picked(taken)
            lead = taken[max(range(len(found)), key=lambda place: (found[place].weight, -place))]
            weights = _weights(found, factors if choice.balance else {})
            if choice.stay:  # no new flow goes to a worse tier, but those that are there are remembered
                worse = [member.link for tier in choice.tiers[number + 1 :] for member in tier if member.link in bids]
                others = tuple(bid for link in worse if (bid := bids[link]) not in taken)
                taken, weights = taken + others, weights + (0,) * len(others)
            return Picked(taken, weights, lead=lead)
    resort = choice.last_resort
    return Picked(drop=resort is not LastResort.DEFAULT, unreachable=resort is LastResort.UNREACHABLE)


def _weights(members: Sequence[Member], factors: Mapping[str, float]) -> tuple[int, ...]:
    """With factors the best gets BEST and any at least 1, so that nothing is said anew because of a fraction."""
    if not factors:
        return tuple(member.weight for member in members)
    products = [member.weight * factors.get(member.link, BEST) for member in members]
    return tuple(max(1, round(BEST * one / max(products))) for one in products)


def resolve(
    flows: Iterable[FlowSettings],
    usable: Iterable[CareOfAddress],
    direction: Direction,
    factors: Mapping[Direction, Mapping[str, float]] = MappingProxyType({}),
) -> tuple[ResolvedFlow, ...]:
    """All flows by FID-PRI."""
    bids, loads = links_of(usable), factors.get(direction, NO_FACTORS)
    return tuple(
        ResolvedFlow(flow, pick(flow.down if direction is Direction.DOWN else flow.uplink, bids, loads))
        for flow in sorted(flows, key=lambda flow: (flow.priority, flow.fid))
    )
