"""Paths: when each is probed, and whether it is up. Both ends share this; one `Paths` holds all paths of a mobile node.

How it thinks. A probe without an answer within the time-out, which follows the round-trip time, is lost. A path that
lost `lost` probes in a row over some time *fails*, and its sisters say what that means:

* another path of the same node answers: this one is DOWN;
* all fail: the far end is SILENT (restarted, say), which is no path's fault and moves nothing. The first answer on any
  of them sets all free again.

A path that is DOWN and answers is RECOVERING, and UP again after `hold` seconds without another failure. Each failure
doubles the hold time, up to `longest_hold`; a path that was up for that long starts anew. Losing its carrier is a
failure too. A path that never answered is UNMEASURED, for ever if need be, as the far end may have no reflector; only
when its sisters are answered it is judged like them. A path that always loses a share of its probes needs more lost in
a row, so that chance alone takes it down hardly more than once in an hour.

Probes go every `interval` while the path carries traffic, every `idle_interval` while not, twice as often after a lost
one, and at random up to a fifth earlier, never later. A metered path that carries nothing and is not needed is left
alone. The home agent does not `lead`: while the node's own probes come in it sends few, and none on an idle path.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mip6.measurement import Measurement, Reflection
from mip6.stamp import AnyReply

if TYPE_CHECKING:
    from random import Random

JITTER = (0.8, 1.0)  # of the interval
HASTE = 0.5  # of the interval, after a lost probe
LEAST_SILENCE = 1.75  # intervals from the first lost probe without an answer until a path fails
FIRST_PROBES = 10  # at the full rate, to know a new path soon
GIVE_UP = 60  # probes that nobody ever answered, after which they become rare
RARE = 10  # times the idle interval
MISSING = 1.5  # intervals without a probe of the leading end until the other end probes by itself
OPINION = 0.25  # seconds between two probes of an idle path for the sake of its sisters
CHANCE = 1 / 36000  # of a false alarm per probe: one in an hour at ten probes a second
ENOUGH = 20  # probes of known fate, for a share of lost ones to mean something
MOST_LOST = 12  # in a row are enough for any path
NEVER = math.inf


class PathState(StrEnum):
    """What is known of a path; the words of `mip6 status`."""

    UNMEASURED = "unmeasured"  # no probe was ever answered
    UP = "up"
    SILENT = "silent"  # nothing is heard of the far end on any path
    RECOVERING = "recovering"  # answers again, and is held back for a while
    DOWN = "down"


_PREFERENCE = {PathState.RECOVERING: 1, PathState.DOWN: 2}


def best(bids: Iterable[int], states: Mapping[int, PathState]) -> frozenset[int]:
    """Of these paths the ones to use: those that are not held back; else those that answer again; else all.

    A path without a state is as good as one that is up.
    """
    ranked = [(_PREFERENCE.get(states.get(bid, PathState.UP), 0), bid) for bid in bids]
    lowest = min((rank for rank, _ in ranked), default=0)
    return frozenset(bid for rank, bid in ranked if rank == lowest)


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Times in seconds; `lost` counts probes in a row. `metered`: hardly a probe while there is no traffic."""

    probe: bool = True
    interval: float = 0.1
    idle_interval: float = 1.0
    lost: int = 3
    hold: float = 3.0
    longest_hold: float = 60.0
    metered: bool = False


class Path:
    """One path as seen from one end; `Paths` drives it. `busy`: it carries traffic; `needed`: flows are assigned to it;
    `attached`: it has a tunnel, which may be `sendable` or only receive."""

    __slots__ = (
        "_answered", "_asked", "_first", "_heard", "_hurried", "_jitter", "_judged", "_lost", "_pending", "_sent",
        "attached", "busy", "failures", "measurement", "needed", "reflection", "sendable", "sequence", "settings",
        "since", "ssid", "state", "until",
    )  # fmt: skip

    def __init__(self, settings: PathSettings, now: float) -> None:
        self.settings, self.state, self.since = settings, PathState.UNMEASURED, now
        self.attached = self.sendable = self.busy = self.needed = True
        self.measurement = Measurement()
        self.reflection = Reflection()
        self.ssid = self.sequence = 0
        self.failures = 0  # since the path was last up for long
        self.until = NEVER  # when a path that is recovering is up
        self._first = FIRST_PROBES  # to be sent at the full rate
        self._jitter = 1.0
        self._sent = -NEVER  # when the last probe was
        self._hurried = False  # a probe is wanted at once
        self._asked = -NEVER  # when it was last probed for the sake of its sisters
        self._heard = -NEVER  # when the far end's last probe came
        self._answered = -NEVER  # when the newest probe that was answered was sent
        self._pending: deque[tuple[int, float]] = deque()  # probes whose time is not over, oldest first
        self._lost: deque[float] = deque(maxlen=64)  # when those were sent that were lost since the last answered one
        self._judged = -NEVER

    def begin(self, ssid: int) -> None:
        """A new session of probes."""
        self.ssid, self.sequence, self._first, self._sent = ssid, 0, FIRST_PROBES, -NEVER
        self.measurement.new_session()
        self.forget()

    def forget(self) -> None:
        """What is not answered yet says nothing any more."""
        self._pending.clear()
        self._lost.clear()

    def enter(self, state: PathState, now: float) -> None:
        """From now on the path is in this state."""
        self.state, self.since = state, now

    # --- when it is probed --------------------

    def due(self, leads: bool) -> float:
        """When something is to be done: a probe to be sent or given up, the path to be judged."""
        if not self.attached:
            return NEVER
        due = self._next_probe(leads)
        if self._pending:
            due = min(due, self._pending[0][1] + self.measurement.timeout())
        if self._lost and self._silent_at() > self._judged:
            due = min(due, self._silent_at())
        if self.state is PathState.RECOVERING and not self._lost:
            due = min(due, self.until)
        return due

    def wants_probe(self, leads: bool, now: float) -> bool:
        """Whether a probe is to be sent now."""
        return self.attached and self._next_probe(leads) <= now

    def _next_probe(self, leads: bool) -> float:
        settings = self.settings
        if not (settings.probe and self.sendable):
            return NEVER
        if self._hurried:
            return -NEVER
        following = not leads and self.state is PathState.UP and not self._lost
        if not following:
            return self._sent + self._interval() * self._jitter
        if not self.busy:
            return NEVER
        unheard = max(self._sent + settings.interval * self._jitter, self._heard + MISSING * settings.interval)
        return min(self._sent + settings.idle_interval * self._jitter, unheard)

    def _interval(self) -> float:
        settings = self.settings
        idle = settings.idle_interval * (RARE if settings.metered else 1)
        match self.state:
            case PathState.UNMEASURED | PathState.DOWN if self._first:
                return settings.interval
            case PathState.UNMEASURED:
                return idle * RARE if self.measurement.sent >= GIVE_UP else idle
            case PathState.RECOVERING:
                return settings.interval
            case PathState.DOWN:
                return idle
            case PathState.SILENT:
                return settings.idle_interval if len(self._lost) == self._lost.maxlen else settings.interval
        if self._lost:
            return settings.interval * HASTE
        if self.busy:
            return settings.interval
        return settings.idle_interval if self.needed or not settings.metered else NEVER

    def probe(self, timestamp: int, jitter: float, now: float) -> int:
        """A probe leaves: its sequence number."""
        sequence = self.sequence
        self.sequence += 1
        self.measurement.probe(sequence, timestamp, now)
        self._pending.append((sequence, now))
        self._sent, self._jitter, self._first, self._hurried = now, jitter, max(0, self._first - 1), False
        return sequence

    def hurry(self, since: float, now: float) -> None:
        """Somebody wants to know how the path has fared since then: probe at once, unless that was done lately."""
        if self._sent < since and now - self._asked >= OPINION:
            self._asked, self._hurried = now, True

    def heard(self, now: float) -> None:
        """The far end's probe came."""
        self._heard = now
        if self.state is PathState.DOWN:
            self.hurry(now - self.settings.interval, now)

    # --- how it fares --------------------

    def answered(self, sent: float) -> None:
        """A probe, sent then, is answered."""
        if sent > self._answered:
            self._answered = sent
            while self._lost and self._lost[0] <= sent:
                self._lost.popleft()
        while self._pending and not self.measurement.is_open(self._pending[0][0]):
            self._pending.popleft()

    def judge(self, now: float) -> bool:
        """Give up probes whose time is over; whether the first in a row was among them."""
        self._judged = now
        before = len(self._lost)
        timeout = self.measurement.timeout()
        while self._pending and self._pending[0][1] + timeout <= now:
            sequence, sent = self._pending.popleft()
            if sent > self._answered and self.measurement.is_open(sequence):
                self._lost.append(sent)
        return before == 0 and bool(self._lost)

    def suspected(self) -> bool:
        """Whether the last probe of known fate was lost."""
        return bool(self._lost)

    def trouble_since(self) -> float:
        """When the first probe was sent that was lost since the last answered one."""
        return self._lost[0] if self._lost else NEVER

    def fails(self, now: float) -> bool:
        """Whether so much is lost that the path cannot be used."""
        lost = len(self._lost)
        return lost >= self.settings.lost and self._silent_at() <= now and lost >= self._enough()

    def _silent_at(self) -> float:
        return self._lost[0] + LEAST_SILENCE * self.settings.interval

    def _enough(self) -> int:
        """How many probes lost in a row are no chance any more, given what the path loses anyway."""
        count, out, back = self.measurement.recent_loss()
        share = out + back
        if count < ENOUGH or share <= 0:
            return self.settings.lost
        if share >= 1:
            return MOST_LOST
        return max(self.settings.lost, min(MOST_LOST, math.ceil(math.log(CHANCE) / math.log(share))))


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
        path.heard(now)
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
