"""Two ends that probe the paths between them, over a network that loses, delays, repeats and reorders; a virtual clock.

The real packets of `mip6.stamp` travel. `Line` is one path; what really happened to its probes is counted beside it,
so that a test compares what an end believes with what was.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from mip6.path import NEVER, Path, PathSettings, PathState
from mip6.paths import Paths
from mip6.stamp import read_probe, read_reply, reflect, write_probe

SETTINGS = PathSettings()
MOST_STEPS = 500_000


@dataclass
class Way:
    """One direction of a line. Delay and jitter in seconds, loss and repetition as shares."""

    delay: float = 0.01
    jitter: float = 0.0
    loss: float = 0.0
    repetition: float = 0.0
    cut: bool = False


@dataclass
class Line:
    """A path: `out` leads from the mobile node to the home agent."""

    out: Way = field(default_factory=Way)
    back: Way = field(default_factory=Way)

    def cut(self, really: bool = True) -> None:
        self.out.cut = self.back.cut = really


@dataclass
class End:
    """One end: its paths, its clock (seconds that its timestamps are wrong by), whether it runs."""

    name: str
    paths: Paths
    clock: float = 1_000_000_000.0
    alive: bool = True
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    changes: list[tuple[float, int, PathState]] = field(default_factory=list)

    def timestamp(self, now: float) -> int:
        return round((now + self.clock) * (1 << 32)) & (1 << 64) - 1


class World:
    """Mobile node and home agent with one path for each of `lines`, by BID."""

    def __init__(self, lines: dict[int, Line], seed: int = 1, settings: PathSettings = SETTINGS) -> None:
        self.random = Random(seed)
        self.lines = lines
        self.settings = settings
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.mobile_node = End("mobile node", Paths(True, Random(seed + 1)))
        self.home_agent = End("home agent", Paths(False, Random(seed + 2)), clock=1_000_000_777.7)
        for bid in lines:
            self.attach(bid)

    def ends(self) -> tuple[End, End]:
        return self.mobile_node, self.home_agent

    def attach(self, bid: int) -> None:
        for end in self.ends():
            end.paths.attach(bid, self.settings, self.now, new=False)

    def detach(self, bid: int) -> None:
        for end in self.ends():
            end.paths.detach(bid, self.now)
            self._note(end)

    def restart(self, end: End) -> None:
        """The process begins anew; all it knew is gone, and what comes of its probes under way is not its own."""
        end.paths = Paths(end.paths.leads, Random(self.random.random()))
        end.counts = Counter()
        end.alive = True
        for bid in self.lines:
            end.paths.attach(bid, self.settings, self.now, new=False)

    def at(self, delay: float, do: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay, self._number, do))

    def run(self, seconds: float) -> None:
        """Let time pass, from one wake-up or arrival to the next."""
        until = self.now + seconds
        for _ in range(MOST_STEPS):
            due = [end.paths.due() if end.alive else NEVER for end in self.ends()]
            arrival = self._queue[0][0] if self._queue else NEVER
            following = min(*due, arrival)
            if following > until:
                self.now = until
                return
            self.now = max(self.now, following)
            if arrival <= min(due):
                heapq.heappop(self._queue)[2]()
                continue
            for end, when in zip(self.ends(), due, strict=True):
                if end.alive and when <= self.now:
                    self._wake(end)
        raise AssertionError("the ends never rest")

    def _wake(self, end: End) -> None:
        for bid in end.paths.wake(self.now):
            stamp = end.timestamp(self.now)
            sequence, ssid = end.paths.probe(bid, stamp, self.now)
            end.counts[bid, "probes"] += 1
            packet = write_probe(sequence, stamp, ssid, None)
            arrives = self._send(end, bid, packet, partial(self._probe_arrives, end.counts))
            end.counts[bid, "lost out"] += not arrives
        self._note(end)

    def _send(self, source: End, bid: int, packet: bytes, arrive: Callable[[End, int, bytes], None]) -> bool:
        """Whether it will arrive, and lets it."""
        line = self.lines[bid]
        way = line.out if source is self.mobile_node else line.back
        target = self.home_agent if source is self.mobile_node else self.mobile_node
        if way.cut or self.random.random() < way.loss:
            return False
        for _ in range(1 + (self.random.random() < way.repetition)):
            self.at(way.delay + self.random.random() * way.jitter, lambda: arrive(target, bid, packet))
        return True

    def _probe_arrives(self, counts: Counter[tuple[int, str]], end: End, bid: int, packet: bytes) -> None:
        """`counts` are those of the process that sent it."""
        if not end.alive:
            counts[bid, "lost out"] += 1
            return
        probe = read_probe(packet, None)
        number = end.paths.heard(bid, probe.ssid, probe.sequence, self.now)
        if number is None:
            return
        stamp = end.timestamp(self.now)
        arrives = self._send(end, bid, reflect(probe, None, number, stamp, stamp, 64), self._reply_arrives)
        counts[bid, "lost in"] += not arrives

    def _reply_arrives(self, end: End, bid: int, packet: bytes) -> None:
        if end.alive:
            end.paths.answer(bid, read_reply(packet, None), end.timestamp(self.now), self.now)
            self._note(end)

    def _note(self, end: End) -> None:
        end.changes += [(self.now, bid, state) for bid, state in end.paths.changes]
        end.paths.changes.clear()

    # --- looking --------------------

    def path(self, bid: int, end: End | None = None) -> Path:
        return (end or self.mobile_node).paths.paths[bid]

    def states(self, end: End | None = None) -> dict[int, PathState]:
        return {bid: path.state for bid, path in (end or self.mobile_node).paths.paths.items()}

    def since(self, moment: float, end: End | None = None) -> list[tuple[float, int, PathState]]:
        """The changes from then on, with the seconds since."""
        return [(when - moment, bid, state) for when, bid, state in (end or self.mobile_node).changes if when >= moment]
