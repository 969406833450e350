"""A scenario as data: a topology, the flows through it, and a story told in phases with what must hold in each.

`labs.runner` plays it. The checks of a report follow from the phases, so a new scenario is a new story and no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from labs.flows import Flow
from labs.topology import Topology


@dataclass(frozen=True, slots=True)
class Carrier:
    """Something that happens: an access link loses its carrier, as seen by the mobile router, or gets it back."""

    link: str
    up: bool


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the story. It begins with what happens and ends `lasts` seconds after all flows have found their link.

    `registered`: the BIDs that both ends hold once it has settled (None: no agents). `on_link`: the access link of each
    flow then. `lossless`: streams none of whose packets, sent from the first moment of the phase on, may be lost.
    `gap_limit`: the longest time in milliseconds that a stream may be interrupted.
    """

    name: str
    says: str
    lasts: float
    does: tuple[Carrier, ...] = ()
    registered: frozenset[int] | None = None
    on_link: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    lossless: tuple[str, ...] = ()
    gap_limit: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A topology with flows between `correspondent` and `mobile`, each (node, address), and the phases of the story."""

    name: str
    title: str
    topology: Topology
    correspondent: tuple[str, str]
    mobile: tuple[str, str]
    flows: tuple[Flow, ...]
    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        flows = {flow.name for flow in self.flows}
        links = set(self.topology.access_links)
        for phase in self.phases:
            for flow in {*phase.on_link, *phase.lossless, *phase.gap_limit} - flows:
                raise ValueError(f"scenario {self.name}, phase {phase.name}: no flow is called {flow}")
            for link in {*phase.on_link.values(), *(carrier.link for carrier in phase.does)} - links:
                raise ValueError(f"scenario {self.name}, phase {phase.name}: no access link is called {link}")


@dataclass(frozen=True, slots=True)
class Check:
    """One measured value against its limit: at most, or with `at_least` the other way."""

    name: str
    value: float
    unit: str
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run. `error` is why it could not be played to its end."""

    scenario: str
    dataplane: str
    checks: tuple[Check, ...]
    error: str | None = None

    @property
    def passed(self) -> bool:
        return self.error is None and bool(self.checks) and all(check.passed for check in self.checks)

    def as_json(self) -> str:
        checks = [
            {"name": c.name, "value": c.value, "unit": c.unit, "limit": c.limit, "passed": c.passed}
            for c in self.checks
        ]
        if self.error is not None:
            checks.append({"name": "played to its end", "value": 0, "unit": "", "limit": 1, "passed": False})
        whole = {"scenario": self.scenario, "dataplane": self.dataplane, "passed": self.passed, "checks": checks}
        return json.dumps(whole | ({} if self.error is None else {"error": self.error}), indent=2) + "\n"
