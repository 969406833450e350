"""Policy: which BIDs each flow uses, given the care-of addresses that work now. Pure.

`via` takes the first link in order that works, `copy` all of them (n-casting, RFC 6089 §5.3.6). A flow none of whose
links works has no BIDs: it is inactive, and what it would match goes by the default binding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mip6.forwarding import FlowRule
from mobilenode.bindingupdatelist import FlowBinding
from mobilenode.movement import CareOfAddress
from mobilenode.settings import FlowSettings


@dataclass(frozen=True, slots=True)
class ResolvedFlow:
    """One flow with the BIDs it uses now; none while it is inactive or when it is a drop rule."""

    settings: FlowSettings
    bids: tuple[int, ...]

    def rule(self) -> FlowRule:
        """What the data plane does with it. Selectors stay in the home agent's direction; the data plane swaps."""
        flow = self.settings
        return FlowRule(flow.fid, flow.priority, flow.selector, self.bids, flow.drop)

    def binding(self) -> FlowBinding:
        """What the home agent is told of it."""
        flow = self.settings
        return FlowBinding(flow.fid, flow.priority, flow.selector, self.bids)


def resolve(flows: Iterable[FlowSettings], usable: Iterable[CareOfAddress]) -> tuple[ResolvedFlow, ...]:
    """All flows by FID-PRI. A link with several care-of addresses counts with its best, so a copy is one per link."""
    bids: dict[str, int] = {}
    for one in sorted(usable, key=lambda one: (one.priority, one.bid)):
        bids.setdefault(one.link, one.bid)
    resolved = []
    for flow in sorted(flows, key=lambda flow: (flow.priority, flow.fid)):
        found = [bids[link] for link in flow.via or flow.copy if link in bids]
        resolved.append(ResolvedFlow(flow, tuple(found[:1] if flow.via else found)))
    return tuple(resolved)
