"""What was recorded of a run, and what can be said of it by looking. Pure.

Times are nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from labs.flows import DIRECTIONS, DOWN, Download, Record, Stream, StreamReport, Window, octets_in, stream_report
from labs.render import TOTAL, counter_name

LOG_PRECISION = 1_000_000  # nanoseconds: logs tell whole milliseconds, rounded down
Counters = dict[str, tuple[int, int]]  # packets and octets, by the name of the counter


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of all access links at one moment."""

    time: int
    counters: Counters

    def packets(self, link: str, flow: str, direction: str) -> int:
        return self.counters.get(counter_name(link, flow, direction), (0, 0))[0]

    def octets(self, link: str, flow: str, direction: str) -> int:
        return self.counters.get(counter_name(link, flow, direction), (0, 0))[1]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened: what the story did, or what an agent reported in its log."""

    time: int
    says: str
    source: str = ""  # the node whose agent reported it
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Played:
    """A phase as it was played.

    `window` is the whole of it, from what happened first to its end; `before` and `after` bound its steady part.
    `moments` are the times at which its actions were done; `registered`: BIDs that both ends agreed on; `state`: what
    the mobile node said of itself.
    """

    name: str
    window: Window
    before: Sample
    after: Sample
    moments: tuple[int, ...] = ()
    registered: int = 0
    state: str = ""

    def packets(self, link: str, flow: str, direction: str) -> int:
        """Packets of a flow that a link carried in the steady part."""
        return self.after.packets(link, flow, direction) - self.before.packets(link, flow, direction)


@dataclass(frozen=True, slots=True)
class Ends:
    """The records of both ends of a flow in one direction."""

    sent: Sequence[Record]
    received: Sequence[Record]


@dataclass(frozen=True)
class Recording:
    """A whole run. `links` gives each access link's rate in bit/s, down and up (None: as fast as the machine)."""

    links: Mapping[str, tuple[int | None, int | None]]
    flows: Sequence[Stream | Download]
    samples: Sequence[Sample]
    marks: Sequence[Mark]
    reports: Sequence[Mark]
    phases: Sequence[Played]
    streams: Mapping[tuple[str, str], Ends]  # by name and direction
    downloads: Mapping[str, Ends]  # by the name of the connection

    @property
    def whole(self) -> Window:
        """From the first phase's beginning to the last one's end."""
        return Window(self.phases[0].window.start, self.phases[-1].window.end)

    def phase(self, name: str) -> Played:
        return next(played for played in self.phases if played.name == name)

    def reported(
        self, says: str, source: str, since: int | None, fields: Mapping[str, Any] = MappingProxyType({})
    ) -> int | None:
        """When the agent of a node first reported this, with these fields, after `since`; None if it did not."""
        if since is None:
            return None
        found = (report for report in self.reports if report.says == says and report.source == source)
        times = (report.time for report in found if fields.items() <= report.fields.items())
        return min((max(time, since) for time in times if time > since - LOG_PRECISION), default=None)

    def flow(self, name: str) -> Stream | Download:
        return next(flow for flow in self.flows if flow.name == name)

    def report(self, flow: str, direction: str, window: Window) -> StreamReport:
        """What became of a stream's packets of one direction that were sent in the window."""
        ends = self.streams[flow, direction]
        return stream_report(ends.sent, ends.received, window)

    def octets(self, flow: str, window: Window) -> int:
        """Payload octets of a flow that arrived in the window, all connections and directions together."""
        kind = self.flow(flow)
        if isinstance(kind, Download):
            return sum(octets_in(self.downloads[part].received, window) for part in kind.parts)
        arrived = (self.streams[flow, direction].received for direction in kind.directions)
        return kind.size * sum(record.arrived in window for received in arrived for record in received)

    def carried(self, played: Played, flow: str, direction: str) -> dict[str, int]:
        """Packets of a flow in the steady part of a phase, by link."""
        return {link: played.packets(link, flow, direction) for link in self.links}


def directions_of(flow: Stream | Download) -> tuple[str, ...]:
    """Both of a download: its acknowledgements go up."""
    return flow.directions if isinstance(flow, Stream) else DIRECTIONS


def rates(samples: Sequence[Sample], link: str, flow: str = TOTAL, direction: str = DOWN) -> list[tuple[int, float]]:
    """Bit/s of a flow on a link between each two samples, at the later one's time."""
    found = []
    for before, after in pairwise(samples):
        octets = after.octets(link, flow, direction) - before.octets(link, flow, direction)
        found.append((after.time, octets * 8e9 / (after.time - before.time)))
    return found
