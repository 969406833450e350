"""Policy: which BIDs each flow uses, given the care-of addresses that work now. Pure.

A rule takes the first tier of its choice that has a working link; see `settings.Choice`. A flow none of whose links
works is inactive, and what it would match goes on to the rules behind it; or it drops, when that is its last resort.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from mip6.forwarding import FlowRule
from mobilenode.bindingupdatelist import FlowBinding
from mobilenode.movement import CareOfAddress
from mobilenode.settings import Choice, FlowSettings, LastResort


class Direction(Enum):
    """Which way packets go: UP from the mobile node, DOWN to it."""

    UP = auto()
    DOWN = auto()


@dataclass(frozen=True, slots=True)
class Picked:
    """What a choice comes to now. With `weights`, one for each of `bids`, flows are shared, else copied. Without BIDs
    it is inactive, or drops."""

    bids: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    drop: bool = False


@dataclass(frozen=True, slots=True)
class ResolvedFlow:
    """One flow and what its choice comes to in one direction."""

    settings: FlowSettings
    picked: Picked

    def rule(self) -> FlowRule:
        """What the data plane does with it. Selectors stay in the home agent's direction; the data plane swaps."""
        flow, picked = self.settings, self.picked
        return FlowRule(flow.fid, flow.priority, flow.selector, picked.bids, picked.drop, picked.weights)

    def binding(self) -> FlowBinding:
        """What the home agent is told of it."""
        flow, picked = self.settings, self.picked
        choice = flow.down
        drop = choice.last_resort is LastResort.DROP
        return FlowBinding(flow.fid, flow.priority, flow.selector, picked.bids, picked.weights, drop)


def links_of(usable: Iterable[CareOfAddress]) -> dict[str, int]:
    """The BID of each link. One with several care-of addresses counts with its best, so a copy is one per link."""
    bids: dict[str, int] = {}
    for one in sorted(usable, key=lambda one: (one.priority, one.bid)):
        bids.setdefault(one.link, one.bid)
    return bids


def pick(choice: Choice, bids: Mapping[str, int]) -> Picked:
    """What `choice` comes to while the links of `bids` work."""
    for tier in choice.tiers:
        found = [(bids[member.link], member.weight) for member in tier if member.link in bids]
        if found:
            weights = () if choice.copy or len(found) == 1 else tuple(weight for _, weight in found)
            return Picked(tuple(bid for bid, _ in found), weights)
    return Picked(drop=choice.last_resort is LastResort.DROP)


def resolve(
    flows: Iterable[FlowSettings], usable: Iterable[CareOfAddress], direction: Direction
) -> tuple[ResolvedFlow, ...]:
    """All flows by FID-PRI."""
    bids = links_of(usable)
    return tuple(
        ResolvedFlow(flow, pick(flow.down if direction is Direction.DOWN else flow.uplink, bids))
        for flow in sorted(flows, key=lambda flow: (flow.priority, flow.fid))
    )
