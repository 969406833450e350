"""Paths: which of them are up. Both ends share this; one `Paths` holds all paths of a mobile node.

How it thinks. A path that fails (see `mip6.path`) is judged by its sisters:

* another path of the same node answers: this one is DOWN;
* all fail: the far end is SILENT (restarted, say), which is no path's fault and moves nothing. The first answer on any
  of them sets all free again.

A path that is DOWN and answers is RECOVERING, and UP again after `hold` seconds without another failure. Each failure
doubles the hold time, up to `longest_hold`; a path that was up for that long starts anew. Losing its carrier is a
failure too. A path that never answered is UNMEASURED, for ever if need be, as the far end may have no reflector; only
when its sisters are answered it is judged like them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mip6.actions import Report
from mip6.path import NEVER, Path, PathSettings, PathState
from mip6.stamp import AnyReply

if TYPE_CHECKING:
    from random import Random

JITTER = (0.8, 1.0)  # of the interval between two probes
_PREFERENCE = {PathState.RECOVERING: 1, PathState.DOWN: 2}


def best(bids: Iterable[int], states: Mapping[int, PathState]) -> frozenset[int]:
    """Of these paths the ones to use: those that are not held back; else those that answer again; else all.

    A path without a state is as good as one that is up.
    """
    if not states:
        return frozenset(bids)
    ranked = [(_PREFERENCE.get(states.get(bid, PathState.UP), 0), bid) for bid in bids]
    lowest = min((rank for rank, _ in ranked), default=0)
    return frozenset(bid for rank, bid in ranked if rank == lowest)


def path_report(state: PathState, fields: Mapping[str, object]) -> Report:
    """The line of the log for a path that is in another state now."""
    level = {PathState.DOWN: "warning", PathState.UNMEASURED: "debug"}.get(state, "info")
    return Report("path changed", level, fields)


class Paths:
    """All paths of one mobile node, as one end sees them. `changes` holds (BID, state) until the owner takes them."""

    def __init__(self, leads: bool, random: Random) -> None:
        self.leads = leads
        self.paths: dict[int, Path] = {}
        self.changes: list[tuple[int, PathState]] = []
        self._random = random

    def attach(self, bid: int, settings: PathSettings, now: float, *, new: bool) -> Path:
        """There is a tunnel for this BID; `new`: it leads elsewhere than before, so nothing is known of it."""
        path = self.paths.get(bid)
        if path is not None and not path.attached and now - path.since > settings.longest_hold:
            self._drop(bid, path, now)
            path = None
        if path is None or (new and path.attached):
            if path is not None and path.state is not PathState.UNMEASURED:
                self._enter(bid, path, PathState.UNMEASURED, now)
            path = self.paths[bid] = Path(settings, now)
            self._begin(path)
        elif not path.attached:
            path.attached = True
            self._begin(path)
        path.settings = settings
        return path

    def detach(self, bid: int, now: float) -> None:
        """The tunnel is gone (carrier or address lost). The leading end remembers that, to damp a link that flaps."""
        path = self.paths[bid]
        path.attached = False
        path.forget()
        if self.leads and path.measurement.answers:
            self._fail(bid, path, now)
        else:
            self._drop(bid, path, now)
        if not any(one.attached for one in self.paths.values()):
            for gone, one in list(self.paths.items()):  # no path was better than the others
                self._drop(gone, one, now)

    def sendable(self, bid: int, sendable: bool) -> None:
        """Whether packets may be sent through the tunnel; while not, nothing is lost."""
        path = self.paths[bid]
        if path.sendable != sendable:
            path.sendable = sendable
            path.forget()

    def due(self) -> float:
        """When `wake` is due."""
        return min((path.due(self.leads) for path in self.paths.values()), default=NEVER)

    def wake(self, now: float) -> list[int]:
        """Judge what is over; the BIDs of the paths that a probe is to be sent over now."""
        for bid, path in self.paths.items():
            if not path.attached:
                continue
            if path.judge(now):
                self._ask_sisters(path, now)
            if path.state is PathState.RECOVERING and path.until <= now and not path.suspected():
                self._enter(bid, path, PathState.UP, now)
        self._evaluate(now)
        return [bid for bid, path in self.paths.items() if path.wants_probe(self.leads, now)]

    def probe(self, bid: int, timestamp: int, now: float) -> tuple[int, int]:
        """A probe leaves over this path: its sequence number and session identifier."""
        path = self.paths[bid]
        if path.sequence > 0xFFFFFFFF:
            self._begin(path)
        return path.probe(timestamp, self._random.uniform(*JITTER), now), path.ssid

    def answer(self, bid: int, reply: AnyReply, arrived: int, now: float) -> None:
        """An answer came for a probe of this path; `arrived` is a timestamp."""
        path = self.paths.get(bid)
        if path is None or not path.attached or reply.ssid not in (path.ssid, 0):
            return
        sent = path.measurement.answer(reply, arrived, now)
        if sent is None:
            return
        path.answered(sent)
        match path.state:
            case PathState.UNMEASURED:
                self._enter(bid, path, PathState.UP, now)
            case PathState.DOWN:
                path.until = now + self._hold(path)
                self._enter(bid, path, PathState.RECOVERING, now)
        for other, sister in self.paths.items():
            if sister.state is PathState.SILENT:
                sister.forget()
                self._enter(other, sister, PathState.UP, now)
        self._evaluate(now)

    def heard(self, bid: int, ssid: int, sequence: int, now: float) -> int | None:
        """A probe of the far end came over this path: the number for the answer, None for no answer."""
        path = self.paths.get(bid)
        if path is None or not path.attached or not path.settings.probe:
            return None
        path.heard(sequence, now)
        return path.reflection.arrived(ssid, sequence)

    # --- judgement --------------------

    def _evaluate(self, now: float) -> None:
        failing = {bid for bid, path in self.paths.items() if path.attached and path.fails(now)}
        if not failing:
            return
        sisters = [
            (bid, path)
            for bid, path in self.paths.items()
            if path.attached and path.state in (PathState.UP, PathState.RECOVERING) and bid not in failing
        ]
        answering = any(not path.suspected() for _, path in sisters)
        for bid in failing:
            path = self.paths[bid]
            if path.state is PathState.RECOVERING or (answering and path.state is not PathState.DOWN):
                self._fail(bid, path, now)
            elif path.state is PathState.UP and not sisters:
                self._enter(bid, path, PathState.SILENT, now)

    def _fail(self, bid: int, path: Path, now: float) -> None:
        if path.state is PathState.UP and now - path.since >= path.settings.longest_hold:
            path.failures = 0
        if path.state is not PathState.DOWN:
            path.failures += 1
        self._enter(bid, path, PathState.DOWN, now)

    def _hold(self, path: Path) -> float:
        settings = path.settings
        return min(settings.hold * 2.0 ** min(path.failures - 1, 16), max(settings.hold, settings.longest_hold))

    def _ask_sisters(self, path: Path, now: float) -> None:
        for sister in self.paths.values():
            if sister is not path and sister.attached and sister.state is PathState.UP:
                sister.hurry(path.trouble_since(), now)

    def _enter(self, bid: int, path: Path, state: PathState, now: float) -> None:
        if path.state is not state:
            path.enter(state, now)
            self.changes.append((bid, state))

    def _drop(self, bid: int, path: Path, now: float) -> None:
        self._enter(bid, path, PathState.UNMEASURED, now)
        del self.paths[bid]

    def _begin(self, path: Path) -> None:
        path.begin(self._random.randrange(1, 1 << 16))
