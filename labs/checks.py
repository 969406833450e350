"""Judgements: pure functions of a recording and a phase of it, each giving measured values against their limits.

A scenario lists them: `checks=(lost("voice"), gap("voice", 50), carried("film", "WLAN"))`. Whatever else a story claims
is one more function of this kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from labs.flows import DIRECTIONS, DOWN, UP, Download, Stream, Window, octets_in
from labs.recording import Played, Recording, directions_of
from labs.render import begun


@dataclass(frozen=True, slots=True)
class Check:
    """One measured value against its limit: at most, or with `at_least` the other way. None: it is only told."""

    name: str
    value: float
    unit: str
    limit: float | None
    at_least: bool = False

    @property
    def passed(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def says(self) -> str:
        """The limit in words."""
        if self.limit is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.limit:,.10g}"


Judge = Callable[[Recording, Played], Sequence[Check]]


def carried(flow: str, link: str, directions: tuple[str, ...] = DIRECTIONS, at_least: float = 100.0) -> Judge:
    """At least this share (in %) of the flow's packets that were counted on any link were on this one."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        by_link = [recording.carried(played, flow, direction) for direction in directions]
        total = sum(sum(counts.values()) for counts in by_link)
        share = 100 * sum(counts[link] for counts in by_link) / total if total else 0.0
        which = "" if directions == DIRECTIONS else f" {directions[0]}"
        name = f"{played.name}: {flow}{which} on {link}"
        return [Check(name, round(share, 2), "% of packets", at_least, at_least=True)]

    return judge


def copied(flow: str, links: Sequence[str], at_least: float = 95.0) -> Judge:
    """Each of the links carried at least this share (in %) of what the busiest of them did."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        checks = []
        for direction in directions_of(recording.flow(flow)):
            counts = recording.carried(played, flow, direction)
            share = 100 * min(counts[link] for link in links) / max(1, *counts.values())
            name = f"{played.name}: {flow} {direction} copied to {' and '.join(links)}"
            checks.append(Check(name, round(share, 2), "% of packets", at_least, at_least=True))
        return checks

    return judge


def shared(flow: str, links: Sequence[str], at_least: float) -> Judge:
    """Each of the links carried at least this share (in %) of the flow's packets, of both directions together."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        by_direction = [recording.carried(played, flow, direction) for direction in _directions(recording, flow)]
        total = sum(sum(counts.values()) for counts in by_direction)
        shares = {link: 100 * sum(counts[link] for counts in by_direction) / max(1, total) for link in links}
        return [
            Check(f"{played.name}: {flow}, share of {link}", round(share, 1), "% of packets", at_least, at_least=True)
            for link, share in shares.items()
        ]

    return judge


def began(flow: str, link: str, at_least: float) -> Judge:
    """At least this share (in %) of the connections that began were answered by this link: what the home agent decides,
    whatever the links then carry."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        answers = recording.carried(played, begun(flow), DOWN)
        share = 100 * answers[link] / max(1, sum(answers.values()))
        name = f"{played.name}: {flow} that begin on {link}"
        return [Check(name, round(share, 1), "% of connections", at_least, at_least=True)]

    return judge


def lost(flow: str, at_most: int = 0) -> Judge:
    """Packets of a stream sent in the phase that did not arrive, of all directions together."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        reports = [recording.report(flow, direction, played.window) for direction in _directions(recording, flow)]
        return [Check(f"{played.name}: {flow} lost", sum(r.lost for r in reports), "packets", at_most)]

    return judge


def lost_share(flow: str, at_most: float) -> Judge:
    """The share (in %) of a stream's packets that did not arrive, of all directions together."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        reports = [recording.report(flow, direction, played.window) for direction in _directions(recording, flow)]
        share = 100 * sum(r.lost for r in reports) / max(1, sum(r.sent for r in reports))
        return [Check(f"{played.name}: {flow} lost", round(share, 3), "%", at_most)]

    return judge


def repeated(flow: str, at_most: int = 0) -> Judge:
    """Packets of a stream that arrived more often than they were sent."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        reports = [recording.report(flow, direction, played.window) for direction in _directions(recording, flow)]
        return [Check(f"{played.name}: {flow} repeated", sum(r.duplicated for r in reports), "packets", at_most)]

    return judge


def gap(flow: str, at_most: float) -> Judge:
    """The longest interruption of a stream in milliseconds, each direction by itself."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        checks = []
        for direction in _directions(recording, flow):
            longest = round(recording.report(flow, direction, played.window).gap, 1)
            checks.append(Check(f"{played.name}: {flow} gap {direction}", longest, "ms", at_most))
        return checks

    return judge


def median_gap(flow: str, phases: Sequence[str], at_most: float, what: str) -> Judge:
    """The median of a stream's longest interruptions in several phases, in milliseconds, each direction by itself."""

    def judge(recording: Recording, _: Played) -> list[Check]:
        checks = []
        for direction in _directions(recording, flow):
            windows = [recording.phase(phase).window for phase in phases]
            middle = median(recording.report(flow, direction, window).gap for window in windows)
            checks.append(Check(f"{what}: median gap {direction}", round(middle, 1), "ms", at_most))
        return checks

    return judge


def recovery(flow: str, noticed: str, **fields: str) -> Judge:
    """Where the time of a recovery goes, in milliseconds from what happened last in the phase; told, not limited.

    Detection: until the mobile node reports `noticed`, with these `fields`. Signalling: from there until the home agent
    has the Binding Update. Forwarding: from there until a packet arrives that was sent after it (down), and from the
    detection until one arrives that was sent after that (up), for the mobile node need not wait for anybody.
    """

    def judge(recording: Recording, played: Played) -> list[Check]:
        happened = played.moments[-1]
        noticed_at = recording.reported(noticed, "mr", happened, fields)
        bound_at = recording.reported("binding registered", "ha", noticed_at)
        parts = {"detection": (happened, noticed_at), "signalling": (noticed_at, bound_at)}
        for direction, since in ((DOWN, bound_at), (UP, noticed_at)):
            received = recording.streams[flow, direction].received
            arrivals = [record.arrived for record in received if since is not None and record.sent >= since]
            parts[f"forwarding {direction}"] = (since, min(arrivals, default=None))
        return [
            Check(f"{played.name}: {name}", round((end - start) / 1e6, 1), "ms", None)
            for name, (start, end) in parts.items()
            if start is not None and end is not None
        ]

    return judge


def goes_on(flow: str) -> Judge:
    """Every connection of a download got something."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        kind = recording.flow(flow)
        assert isinstance(kind, Download)
        arrived = [octets_in(recording.downloads[part].received, played.window) for part in kind.parts]
        return [Check(f"{played.name}: {flow} goes on", min(arrived) // 1000, "kB", 1, at_least=True)]

    return judge


def goodput(flows: Sequence[str], at_least: float, of: str, what: str) -> Judge:
    """What arrived of all these flows together in the steady part, as a multiple of what arrived in the phase `of`."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        rates = [_goodput(recording, phase, flows) for phase in (played, recording.phase(of))]
        ratio = round(rates[0] / rates[1], 3) if rates[1] else 0.0
        return [Check(f"{played.name}: {what}", ratio, f"x {of}", at_least, at_least=True)]

    return judge


def _goodput(recording: Recording, played: Played, flows: Sequence[str]) -> float:
    """Octets of payload a second."""
    steady = Window(played.before.time, played.after.time)
    return sum(recording.octets(flow, steady) for flow in flows) * 1e9 / (steady.end - steady.start)


def ordered(flow: str, at_most: float) -> Judge:
    """The share (in %) of a stream's packets that arrived behind a later one."""

    def judge(recording: Recording, played: Played) -> list[Check]:
        reports = [recording.report(flow, direction, played.window) for direction in _directions(recording, flow)]
        share = 100 * sum(r.reordered for r in reports) / max(1, sum(r.sent for r in reports))
        return [Check(f"{played.name}: {flow} out of order", round(share, 3), "%", at_most)]

    return judge


def registered(count: int) -> Judge:
    """Care-of addresses that both ends hold."""

    def judge(_: Recording, played: Played) -> list[Check]:
        name = f"{played.name}: care-of addresses registered"
        return [Check(name, played.registered, "", count, at_least=True)]

    return judge


def says_of_itself(state: str) -> Judge:
    """What the mobile node's status was when the phase had settled."""

    def judge(_: Recording, played: Played) -> list[Check]:
        name = f"{played.name}: mobile node is {state.replace('_', ' ')}"
        return [Check(name, int(played.state == state), "", 1, at_least=True)]

    return judge


def whole_story(recording: Recording) -> list[Check]:
    """What holds in every scenario: downloads are complete, and no stream has a packet more than was sent."""
    checks = []
    for flow in recording.flows:
        if isinstance(flow, Download):
            missing = 0
            for part in flow.parts:
                ends = recording.downloads[part]
                sent = ends.sent[-1].number if ends.sent else -1
                missing += abs(sent - (ends.received[-1].number if ends.received else 0))
            checks.append(Check(f"{flow.name}: octets missing or out of order", missing, "octets", 0))
    duplicates = sum(
        recording.report(flow.name, direction, recording.whole).duplicated
        for flow in recording.flows
        if isinstance(flow, Stream)
        for direction in flow.directions
    )
    checks.append(Check("streams: duplicates", duplicates, "packets", 0))
    return checks


def _directions(recording: Recording, flow: str) -> tuple[str, ...]:
    return directions_of(recording.flow(flow))
