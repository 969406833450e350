"""Load balancing: which part of the new flows each link takes, by what it carries and how well. Pure.

How it thinks. For each link and direction a *factor* up to 100 says how much it can take now, as a share of what the
best one can; a balanced rule multiplies its weights with it. Running flows stay where they are (`mip6.memory`).

    factor ~ capacity x (part of it that a new flow may have) x (1 % / loss, where more than 1 % is lost)

* A new flow may have what nothing uses, and a part of what is used, as flows that want all they can get make room for
  each other. A link that is shunned because it is full only moves its load to the next.
* Loss counts at once and is forgotten slowly: an idle path is probed so seldom that it looks good by chance.
* What a link carries is what the kernel counts on it, foreign traffic included, smoothed over some seconds.
* Its capacity is its `max_rate`; where that is not given, it is taken to be twice what the busiest of them carries.
* A *queue*, one-way delay above the least of late, says that it is full, whoever fills it: its capacity is then no more
  than what it carries. What was learned so doubles every `FORGET` seconds that pass without a queue.
* The factors in force change only when they say something else: some link's share of new flows by a tenth, or that
  of one against another by twice; and not more often than every `HOLD` seconds. So they do not swing, and
  downwards, where each change costs a Binding Update, there are twelve of these in a minute at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mip6.events import LoadMeasured, PathMeasured
from mobilenode.policy import BEST, Direction
from mobilenode.settings import LinkSettings

HOLD = {Direction.UP: 2.0, Direction.DOWN: 5.0}  # seconds between two changes of the factors
SMOOTHING = 3.0  # seconds, of the load
QUEUE = 0.03  # seconds of one-way delay above the least: the link is full
FORGIVE = 15.0  # seconds that a loss lasts which is not seen again, falling off to a third
FORGET = 15.0  # seconds without a queue that double a capacity that was learned from one
HEADROOM = 2.0  # times what the busiest link carries is assumed to fit
LEAST_CAPACITY = 1e6  # bit/s; a link is not loaded by a terminal session
LEAST_SPARE = 0.15  # of the capacity, for a new flow; with less the load swings to and fro
FULL_SPARE = 0.5  # the same of a link with a queue of QUEUE seconds, less with the square root of a longer one
HARMLESS = 0.01  # share of lost packets that is no reason to avoid a link
LEAST_FACTOR = 0.01
STEP, RATIO = 0.1, 2.0  # changes that count: of a share of all, and of one link's share against another's


@dataclass(frozen=True, slots=True)
class LinkSample:
    """One link in one direction: octets since it exists, share of lost packets, seconds of queue."""

    octets: int
    loss: float = 0.0
    queue: float = 0.0


@dataclass(slots=True)
class _Load:
    """What is known of one link in one direction; rates in bit/s."""

    limit: int | None  # max_rate
    octets: int
    rate: float | None = None
    learned: float = math.inf  # capacity by the last queue
    loss: float = 0.0
    queue: float = 0.0

    @property
    def full(self) -> bool:
        return self.queue >= QUEUE

    def take(self, sample: LinkSample, seconds: float) -> None:
        carried = sample.octets - self.octets
        self.octets, self.queue = sample.octets, sample.queue
        self.loss = max(sample.loss, self.loss * math.exp(-seconds / FORGIVE))
        if carried >= 0:  # else the link is another one of that name
            rate = carried * 8 / seconds
            old = rate if self.rate is None else self.rate
            self.rate = rate + (old - rate) * math.exp(-seconds / SMOOTHING)
        if self.full:
            self.learned = max(self.rate or 0.0, LEAST_CAPACITY)
        else:
            self.learned *= 2 ** (seconds / FORGET)

    def capacity(self, assumed: float) -> float:
        return min(self.limit or assumed, self.learned)

    def available(self, assumed: float) -> float:
        """What a new flow may count on."""
        capacity = self.capacity(assumed)
        if self.full:  # what runs there makes room
            spare = FULL_SPARE * math.sqrt(QUEUE / self.queue)
        else:
            spare = max(1 - (self.rate or 0.0) / capacity, LEAST_SPARE)
        return capacity * spare * min(1.0, HARMLESS / max(self.loss, HARMLESS))


class _OneWay:
    """All links in one direction."""

    def __init__(self, limits: Mapping[str, int | None], hold: float) -> None:
        self._limits, self._hold = limits, hold
        self._loads: dict[str, _Load] = {}
        self._changed = -math.inf
        self._time = -math.inf
        self.factors: dict[str, float] = {}

    def take(self, samples: Mapping[str, LinkSample], now: float) -> bool:
        seconds, self._time = now - self._time, now
        for name in self._loads.keys() - samples.keys():
            del self._loads[name]
        for name, sample in samples.items():
            if name in self._loads and 0 < seconds < math.inf:
                self._loads[name].take(sample, seconds)
            else:
                self._loads[name] = _Load(self._limits.get(name), sample.octets, loss=sample.loss)
        return self._judge(now)

    def _assumed(self) -> float:
        """The capacity of a link of which none is given, while it has no queue: as good as the best, and not full."""
        known = [one.limit or HEADROOM * (one.rate or 0.0) for one in self._loads.values()]
        return max([LEAST_CAPACITY, *known])

    def _judge(self, now: float) -> bool:
        if len(self._loads) < 2 or now < self._changed + self._hold:
            return False
        assumed = self._assumed()
        available = {name: one.available(assumed) for name, one in self._loads.items()}
        best = max(available.values())
        factors = {name: max(LEAST_FACTOR, round(BEST * one / best, 2)) for name, one in available.items()}
        if not _differ(self.factors, factors):
            return False
        self.factors, self._changed = factors, now
        return True

    def describe_all(self) -> dict[str, dict[str, Any]]:
        return {name: about for name in self._loads if (about := self.describe(name)) is not None}

    def describe(self, name: str) -> dict[str, Any] | None:
        load = self._loads.get(name)
        if load is None:
            return None
        return {
            "factor": self.factors.get(name, BEST),
            "rate": round(load.rate or 0.0),
            "capacity": round(load.capacity(self._assumed())),
            "full": load.full,
            "queue_ms": round(load.queue * 1000, 1),
            "loss_percent": round(load.loss * 100, 2),
        }


class Balance:
    """The links of a mobile node. `factors` are in force, by direction and link; a link without one has 100."""

    def __init__(self, links: Iterable[LinkSettings]) -> None:
        limits = {link.name: link.max_rate for link in links}
        self._ways = {direction: _OneWay(limits, hold) for direction, hold in HOLD.items()}

    def take(self, up: Mapping[str, LinkSample], down: Mapping[str, LinkSample], now: float) -> bool:
        """What was measured at `now` of the links that work; whether the factors in force change by it."""
        changed = [self._ways[Direction.UP].take(up, now), self._ways[Direction.DOWN].take(down, now)]
        return any(changed)

    def factors(self) -> dict[Direction, Mapping[str, float]]:
        """Those in force."""
        return {direction: way.factors for direction, way in self._ways.items()}

    def describe(self, name: str) -> dict[str, Any]:
        """As `mip6 status` has it: of each direction the factor and what it comes from; rates in bit/s."""
        return {direction.name.lower(): way.describe(name) for direction, way in self._ways.items()}

    def words(self, direction: Direction) -> dict[str, str]:
        """For people: why each link has its factor."""
        return {name: _words(about) for name, about in self._ways[direction].describe_all().items()}


def samples(event: LoadMeasured, bids: Mapping[str, int]) -> tuple[dict[str, LinkSample], dict[str, LinkSample]]:
    """Upwards and downwards, of the links that have a BID. A path that is not measured is taken to be good."""
    paths = {one.bid: one for one in event.paths}
    up, down = {}, {}
    for link in event.links:
        if link.name in bids:
            path = paths.get(bids[link.name], PathMeasured(0, 0.0, 0.0, 0.0, 0.0))
            up[link.name] = LinkSample(link.octets_out, path.loss_out, path.queue_out)
            down[link.name] = LinkSample(link.octets_in, path.loss_in, path.queue_in)
    return up, down


def _words(about: Mapping[str, Any]) -> str:
    rate, capacity = (f"{about[key] / 1e6:.1f}" for key in ("rate", "capacity"))
    full = f", full ({about['queue_ms']:.0f} ms of queue)" if about["full"] else ""
    loss = f", {about['loss_percent']:.1f} % lost" if about["loss_percent"] else ""
    return f"carries {rate} of {capacity} Mbit/s{full}{loss}: factor {about['factor']:g}"


def _differ(old: Mapping[str, float], new: Mapping[str, float]) -> bool:
    before = sum(old.get(name, BEST) for name in new)
    after = sum(new.values())
    shares = [(old.get(name, BEST) / before, factor / after) for name, factor in new.items()]
    growth = [now / then for then, now in shares]
    return any(abs(now - then) >= STEP for then, now in shares) or max(growth) >= RATIO * min(growth)
