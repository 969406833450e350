"""A scenario as data: a topology, the flows through it, and a story told in phases with what must hold in each.

`labs.runner` plays it. The checks of a result follow from the phases, so a new scenario is a new story and no code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from labs.actions import Action, Carrier, Change, SetClock
from labs.checks import Judge, carried, gap, goes_on, lost, registered, says_of_itself
from labs.flows import DIRECTIONS, Download, Flow
from labs.patience import FACTOR
from labs.recording import directions_of
from labs.topology import Topology

Route = str | Mapping[str, str]  # a link, or one for each direction


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the story. It begins with what happens and ends `lasts` seconds after all flows have found their link.

    `registered`: the BIDs that both ends hold once it has settled (None: no agents), and `state` what the mobile node
    says of itself then. `on_link`: the access link of each
    flow then, or a mapping from direction to link. `lossless`: streams none of whose packets, sent from the first
    moment of the phase on, may be lost. `gap_limit`: the longest time in milliseconds that a stream may be interrupted.
    `checks`: whatever else must hold.
    """

    name: str
    says: str
    lasts: float
    does: tuple[Action, ...] = ()
    registered: frozenset[int] | None = None
    state: str = "registered"
    on_link: Mapping[str, Route] = field(default_factory=lambda: MappingProxyType({}))
    lossless: tuple[str, ...] = ()
    gap_limit: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    checks: tuple[Judge, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A topology with flows between `correspondent` and `mobile`, and the phases of the story.

    Both ends are a node and its addresses, one for each version of IP that flows use. `clock`: what the daemons'
    clocks say at the start (ISO 8601, UTC), where the story is about the time of day. `story` is for the report: text
    with the network drawn, the docstring of the scenario's file.
    """

    name: str
    title: str
    topology: Topology
    correspondent: tuple[str, ...]
    mobile: tuple[str, ...]
    flows: tuple[Flow, ...]
    phases: tuple[Phase, ...]
    clock: str | None = None
    story: str = ""

    def __post_init__(self) -> None:
        flows = {flow.name: flow for flow in self.flows}
        links = self.topology.access_links
        for phase in self.phases:
            where = f"scenario {self.name}, phase {phase.name}"
            for flow in {*phase.on_link, *phase.lossless, *phase.gap_limit} - flows.keys():
                raise ValueError(f"{where}: no flow is called {flow}")
            routes = {link for flow in phase.on_link for link in route_of(phase, flows[flow]).values()}
            changed = {action.link for action in phase.does if isinstance(action, Carrier | Change)}
            for link in (routes | changed) - links.keys():
                raise ValueError(f"{where}: no access link is called {link}")
            for action in phase.does:
                if isinstance(action, Change) and not links[action.link].is_emulated:
                    raise ValueError(f"{where}: link {action.link} is not emulated, so it cannot be changed")
                if isinstance(action, SetClock) and self.clock is None:
                    raise ValueError(f"{where}: the scenario does not say what the clock says at its start")
                node = getattr(action, "node", None)
                if node is not None and node not in {node.name for node in self.topology.nodes}:
                    raise ValueError(f"{where}: no node is called {node}")

    def judges(self, phase: Phase) -> Iterator[Judge]:
        """All that is judged of a phase."""
        flows = {flow.name: flow for flow in self.flows}
        if phase.registered is not None:
            yield registered(len(phase.registered)) if phase.registered else says_of_itself(phase.state)
        for flow in phase.on_link:
            routes = route_of(phase, flows[flow])
            if len(set(routes.values())) == 1:
                yield carried(flow, next(iter(routes.values())), tuple(routes))
            else:
                yield from (carried(flow, link, (direction,)) for direction, link in routes.items())
        yield from (lost(flow) for flow in phase.lossless)
        yield from (gap(flow, limit * FACTOR) for flow, limit in phase.gap_limit.items())
        yield from (goes_on(flow) for flow in phase.on_link if isinstance(flows[flow], Download))
        yield from phase.checks


def route_of(phase: Phase, flow: Flow) -> dict[str, str]:
    """The link of each direction that a flow has in a phase."""
    route = phase.on_link[flow.name]
    given = dict.fromkeys(DIRECTIONS, route) if isinstance(route, str) else route
    return {direction: given[direction] for direction in directions_of(flow)}
