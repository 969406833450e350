"""Load balancing: factors follow what the links carry and how well, and do not swing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from random import Random
from statistics import mean

import pytest

from mip6.sharing import choose
from mobilenode.balance import HOLD, LEAST_SPARE, Balance, LinkSample
from mobilenode.policy import BEST, Direction, pick
from mobilenode.settings import LinkSettings, balance, share

UP, DOWN = Direction.UP, Direction.DOWN
MEGABIT = 10**6
NOTHING: Mapping[str, float] = {}
UNKNOWN = (LinkSettings("wlan0", 1, 10), LinkSettings("wwan0", 2, 20))
KNOWN = (
    LinkSettings("wlan0", 1, 10, max_rate=20 * MEGABIT),
    LinkSettings("wwan0", 2, 20, max_rate=5 * MEGABIT),
)


class Links:
    """Links that carry what a test says, in bit/s, and a sample of them every second."""

    def __init__(self, links: tuple[LinkSettings, ...]) -> None:
        self.balance = Balance(links)
        self.now = 100.0
        self.octets = {link.name: 0 for link in links}
        self.changes: list[float] = []

    def run(
        self,
        seconds: int,
        queue: Mapping[str, float] = NOTHING,
        loss: Mapping[str, float] = NOTHING,
        **rates: float,
    ) -> dict[str, float]:
        for _ in range(seconds):
            self.now += 1.0
            for name, rate in rates.items():
                self.octets[name] += round(rate / 8)
            samples = {
                name: LinkSample(octets, loss.get(name, 0.0), queue.get(name, 0.0))
                for name, octets in self.octets.items()
            }
            if self.balance.take(samples, samples, self.now):
                self.changes.append(self.now)
        return dict(self.balance.factors()[DOWN])


def test_idle_links_count_by_their_rates() -> None:
    assert Links(KNOWN).run(2) == {"wlan0": 100, "wwan0": 25}
    assert Links(UNKNOWN).run(2) == {}  # alike: nothing to say
    assert pick(balance(wlan0=3, wwan0=1), {"wlan0": 1, "wwan0": 2}).weights == (3, 1)


def test_new_flows_go_to_the_link_that_carries_less() -> None:
    links = Links(UNKNOWN)
    factors = links.run(20, wlan0=18 * MEGABIT)
    assert factors["wwan0"] == BEST and factors["wlan0"] <= 55  # not known to be full
    factors = links.run(20, queue={"wlan0": 0.05}, wlan0=18 * MEGABIT)
    assert factors["wwan0"] == BEST and factors["wlan0"] <= 20
    picked = pick(balance(wlan0=1, wwan0=1), {"wlan0": 1, "wwan0": 2}, factors)
    assert picked.weights == (round(factors["wlan0"]), BEST) and picked.lead == 1
    assert pick(share(wlan0=1, wwan0=1), {"wlan0": 1, "wwan0": 2}, factors).weights == (1, 1)  # fixed stays fixed


def test_what_a_terminal_session_carries_is_no_load() -> None:
    assert Links(UNKNOWN).run(30, wlan0=0.05 * MEGABIT) == {}


def test_a_queue_says_that_a_link_is_full_whoever_fills_it() -> None:
    """Foreign traffic is not in our counts, but delays our probes."""
    links = Links(KNOWN)
    factors = links.run(20, queue={"wlan0": 0.2}, wlan0=0.1 * MEGABIT, wwan0=0.1 * MEGABIT)
    assert factors["wlan0"] <= 4 and factors["wwan0"] == BEST
    gone = links.run(100, wlan0=0.1 * MEGABIT, wwan0=0.1 * MEGABIT)
    assert gone["wlan0"] == 100 and gone["wwan0"] <= 45  # what was learned wears off


def test_two_full_links_take_new_flows_by_what_they_carry() -> None:
    links = Links(UNKNOWN)
    factors = links.run(30, queue={"wlan0": 0.1, "wwan0": 0.1}, wlan0=20 * MEGABIT, wwan0=2 * MEGABIT)
    assert factors == {"wlan0": 100, "wwan0": 10}


def test_a_lossy_link_takes_few_new_flows_and_one_percent_is_forgiven() -> None:
    assert Links(UNKNOWN).run(5, loss={"wlan0": 0.2}) == {"wlan0": 5, "wwan0": 100}
    assert Links(UNKNOWN).run(5, loss={"wlan0": 0.01}) == {}


def test_a_link_that_is_much_better_does_not_hide_what_others_differ_by() -> None:
    links = Links((*KNOWN, LinkSettings("eth0", 3, 5, max_rate=1000 * MEGABIT)))
    factors = links.run(2)
    assert pick(balance(wlan0=1, wwan0=1), {"wlan0": 1, "wwan0": 2}, factors).weights == (100, 25)
    factors = links.run(20, wlan0=19 * MEGABIT, wwan0=1 * MEGABIT)
    loaded, idle = pick(balance(wlan0=1, wwan0=1), {"wlan0": 1, "wwan0": 2}, factors).weights
    assert loaded < 80 and idle == BEST


def test_a_loss_is_not_forgotten_because_the_next_few_probes_got_through() -> None:
    links = Links(UNKNOWN)
    links.run(5, loss={"wlan0": 0.2})
    assert links.run(5)["wlan0"] < 10
    assert links.run(60)["wlan0"] == BEST


def test_either_direction_has_its_own() -> None:
    both = Balance(UNKNOWN)
    clean = {name: LinkSample(0) for name in ("wlan0", "wwan0")}
    both.take(clean, clean, 0.0)
    both.take(clean, clean | {"wlan0": LinkSample(0, 0.5)}, 20.0)
    assert both.factors() == {UP: {}, DOWN: {"wlan0": 2, "wwan0": 100}}


def test_small_changes_change_nothing_and_large_ones_not_too_often() -> None:
    """A load that swings every three seconds: each direction has its limit."""
    links = Links(KNOWN)
    links.run(5)
    [first] = links.changes
    links.run(60, wlan0=1 * MEGABIT)
    assert links.changes == [first]
    random = Random(1)
    for _ in range(40):
        links.run(3, wlan0=random.choice((0, 20)) * MEGABIT, wwan0=random.choice((0, 5)) * MEGABIT)
    later = [one - HOLD[UP] for one in links.changes[1:]]
    assert len(later) > 5 and all(one > before for one, before in zip(links.changes[1:], later, strict=True))
    way = links.balance
    assert way.factors()[DOWN] != {}


def test_downwards_the_factors_rest_for_five_seconds() -> None:
    links, changed = Links(UNKNOWN), []
    seen: dict[str, float] = {}
    for second in range(120):
        factors = links.run(1, queue={"wlan0": 0.3 * (second // 2 % 2)})
        if factors != seen:
            changed.append(second)
            seen = factors
    assert len(changed) >= 5
    assert all(after - before >= HOLD[DOWN] for before, after in pairwise(changed))


def test_a_link_that_comes_or_begins_to_count_anew_is_not_taken_for_loaded() -> None:
    links = Links(UNKNOWN)
    links.run(20, wlan0=10 * MEGABIT)
    before = links.balance.describe("wlan0")["down"]["rate"]
    links.octets["wlan0"] = 0  # the interface is another one now
    links.run(1)
    assert links.balance.describe("wlan0")["down"]["rate"] == before
    sample = {"wwan0": LinkSample(10**9)}
    links.balance.take(sample, sample, links.now + 1)
    assert links.balance.describe("wlan0")["down"] is None
    sample = {"wlan0": LinkSample(10**12), "wwan0": LinkSample(10**9)}
    links.balance.take(sample, sample, links.now + 2)
    assert links.balance.describe("wlan0")["down"]["rate"] == 0


CAPACITY = {"wlan0": 40.0 * MEGABIT, "wwan0": 10.0 * MEGABIT}


class Downloads:
    """Flows that each want 4 Mbit/s for half a minute arrive every second; links of 40 and 10 Mbit/s carry them, and
    delay the probes when they are full. Whoever got less than it wanted on a link that was full was crowded."""

    def __init__(self, seed: int, *, balanced: bool) -> None:
        self.random, self.balanced = Random(seed), balanced
        self.links = Links(UNKNOWN)
        self.flows: list[tuple[str, int]] = []
        self.crowded = self.served = 0.0

    def run(self, seconds: int) -> None:
        bids = {"wlan0": 1, "wwan0": 2}
        for second in range(seconds):
            factors = self.links.balance.factors()[DOWN] if self.balanced else {}
            picked = pick(balance(wlan0=1, wwan0=1), bids, factors)
            flow = (0, self.random.getrandbits(64), 0, 0, 6 << 32)
            bid = choose(flow, zip(picked.bids, picked.weights, strict=True))
            self.flows.append(({1: "wlan0", 2: "wwan0"}[bid], second + 10))
            self.flows = [one for one in self.flows if one[1] > second]
            wanted = {name: sum(4.0 * MEGABIT for link, _ in self.flows if link == name) for name in bids}
            rates = {name: min(wanted[name], CAPACITY[name]) for name in bids}
            full = {name: 0.1 if wanted[name] > CAPACITY[name] else 0.0 for name in bids}
            self.served += sum(rates.values())
            self.crowded += sum(wanted.values()) - sum(rates.values())
            self.links.run(1, full, NOTHING, **rates)


def test_balanced_downloads_get_more_than_an_equal_share_gives() -> None:
    """Nobody said that one link is four times the other: that is measured."""
    for seed in range(10):
        shared, balanced = Downloads(seed, balanced=False), Downloads(seed, balanced=True)
        shared.run(300)
        balanced.run(300)
        assert balanced.served > 1.15 * shared.served
        assert balanced.crowded < 0.5 * shared.crowded
        assert len(balanced.links.changes) <= 300 / HOLD[UP]


class Pages:
    """Passengers who load page after page of 256 kB, each by a new connection with a window of 24 kB and a round trip
    of 22 ms; what is more than that is in the link's queue. They begin on a WLAN alone; then there is another link."""

    WINDOW, ROUND_TRIP, STEPS = 24e3 * 8, 0.022, 20  # bits, seconds, in each second

    def __init__(self, seed: int, wlan: float, wwan: float) -> None:
        self.random, self.links = Random(seed), Links(UNKNOWN)
        self.capacity = {"wlan0": wlan * MEGABIT, "wwan0": wwan * MEGABIT}
        self.pages: list[tuple[str, float]] = [("wlan0", 0.0)] * 8  # link, and bits to come

    def run(self, seconds: int, *names: str) -> float:
        """The megabits a second that came in all, over the links of these names."""
        served = 0.0
        for _ in range(seconds):
            carried, queues = dict.fromkeys(self.capacity, 0.0), dict.fromkeys(self.capacity, 0.0)
            for _ in range(self.STEPS):
                self.pages = [
                    (link, left) if left > 0 else (self._link(names), 2.1 * MEGABIT) for link, left in self.pages
                ]
                taken = {}
                for name, capacity in self.capacity.items():
                    here = sum(link == name for link, _ in self.pages)
                    queue = max(0.0, here * self.WINDOW / capacity - self.ROUND_TRIP)
                    taken[name] = self.WINDOW / (self.ROUND_TRIP + queue) / self.STEPS
                    queues[name] += queue / self.STEPS
                    carried[name] += here * taken[name]
                self.pages = [(link, left - taken[link]) for link, left in self.pages]
            served += sum(carried.values())
            self.links.run(1, queues, NOTHING, **carried)
        return served / seconds / MEGABIT

    def _link(self, names: tuple[str, ...]) -> str:
        bids = {link.name: link.bid for link in UNKNOWN if link.name in names}
        picked = pick(balance(wlan0=1, wwan0=1), bids, self.links.balance.factors()[DOWN])
        if not picked.weights:
            return names[0]
        flow = (0, self.random.getrandbits(64), 0, 0, 6 << 32)
        chosen = choose(flow, zip(picked.bids, picked.weights, strict=True))
        return next(name for name, bid in bids.items() if bid == chosen)


@pytest.mark.parametrize(("wwan", "at_least"), [(20, 30.0), (5, 20.0), (2, 19.0)])
def test_short_flows_that_fill_any_link_do_not_swing_between_two(wwan: float, at_least: float) -> None:
    """A full link must not be shunned so that all go to the other, which is full then: that is worth one link."""
    found = []
    for seed in range(5):
        pages = Pages(seed, 20, wwan)
        pages.run(4, "wlan0")
        pages.run(15, "wlan0", "wwan0")
        found.append(pages.run(60, "wlan0", "wwan0"))
    assert mean(found) >= at_least


def test_the_floor_leaves_a_full_link_something() -> None:
    links = Links(KNOWN)
    assert links.run(30, wlan0=20 * MEGABIT)["wlan0"] >= round(BEST * LEAST_SPARE * 20 / 5)
