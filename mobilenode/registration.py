"""Registration: its state, and what is to be registered (RFC 6275 §11.7, RFC 5648 §5).

Every moment the wanted state (care-of addresses, flows, or nothing at all) is compared with what the home agent may
hold according to the binding update list; `plan.work` is the Binding Update that removes the first difference, None
when there is none, `sending.advance` sends it. So nothing has to remember why an update is needed, and the newest
state always wins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum, auto
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from mip6.auth import ntp_timestamp
from mip6.options import NatDetection
from mip6.path import PathState
from mip6.paths import best
from mobilenode.access import Access
from mobilenode.bindingupdatelist import PLAIN, Binding, BindingUpdateList, FlowBinding, Held, SentUpdate
from mobilenode.dualstack import JITTER, Ipv4Home, keepalive, needs_udp
from mobilenode.movement import CareOfAddress, HomeLink, Source
from mobilenode.policy import Direction, resolve
from mobilenode.settings import FlowSettings, MobileNodeSettings
from mobilenode.turns import Parked, Subject

if TYPE_CHECKING:
    from random import Random

MAX_UPDATE_RATE = 3  # Binding Updates per second, RFC 6275 §12
REFRESH = (0.5, 0.75)  # share of the granted lifetime after which it is refreshed
LOWEST_PRIORITY = 127  # BID-PRI of a path that is used only when there is no other (RFC 6089 §4.1)
SLOW_RETRY = 30.0  # seconds until a refused registration is tried again, doubled up to ...
SLOWEST_RETRY = 600.0


# not of the home agent
OF_THE_MOBILE_NODE = (
    "access", "care_of", "home", "goal", "wall_offset", "flows", "rules", "spent", "factors", "send_times",
)  # fmt: skip


class Mode(Enum):
    """How care-of addresses are registered; the home agent's statuses lower it (RFC 5648 §5)."""

    BULK = auto()  # all in one Binding Update
    INDIVIDUAL = auto()  # one BID per Binding Update (status 168)
    PLAIN = auto()  # one care-of address without BID (status 166, or no BID option in the answer)


class Goal(Enum):
    """What the home agent is to hold in the end."""

    REGISTERED = auto()
    NOTHING = auto()  # at home, or shutting down


@dataclass(slots=True)
class RefusedBinding:
    """A BID that the home agent refused or revoked, for this care-of address; tried again at `retry`."""

    binding: Binding
    status: int
    retry: float


@dataclass(slots=True)
class Registration:
    """The state of registration with the home agent. `acknowledgement.py` changes it by what the home agent says."""

    settings: MobileNodeSettings
    random: Random
    update_list: BindingUpdateList
    timestamps: bool
    mobile_router: bool
    explicit: bool
    home_agent: IPv6Address | None  # None: none is known yet
    access: Access
    care_of: tuple[CareOfAddress, ...] = ()
    home: HomeLink | None = None
    paths: dict[int, PathState] = field(default_factory=dict)  # by BID, as the probes say
    unproven: frozenset[int] = frozenset()  # BIDs that are not used before a probe got through; see `came`
    goal: Goal = Goal.REGISTERED
    mode: Mode = Mode.BULK
    overwrite: bool = True  # the home agent may hold bindings this list knows nothing of
    purge: bool = False  # everything has to be deregistered before it is registered anew (status 139)
    cleared: bool = False  # the home agent said that it holds nothing
    stopped: int | None = None  # the status after which no Binding Update is sent, until `hold` is over
    hold: float | None = None  # after a refusal: no Binding Update before then
    refusals: int = 0
    refused: dict[int, RefusedBinding] = field(default_factory=dict)
    refused_flows: dict[int, tuple[FlowBinding, int | None]] = field(default_factory=dict)
    wall_offset: float = 0.0
    correction: float = 0.0  # the home agent's clock less this one, in seconds (status 144)
    clock: int = 0
    last_timestamp: int = 0
    in_flight: SentUpdate | None = None
    interval: float = 0.0  # seconds that the one in flight has for its answer
    retransmit: float = 0.0
    tries: int = 0
    silent: float | None = None  # since when Binding Updates go out without an answer
    solicit: bool = False  # the prefixes of the home link have to be asked for (status 1)
    home_until: float | None = None  # when the home address ends, as far as it is known
    ipv4: Ipv4Home = field(default_factory=Ipv4Home)
    parked: dict[Subject, Parked] = field(default_factory=dict)  # one BID at a time: those that wait for their turn
    asked_link: str | None = None  # the link whose state a Binding Update is to find out
    asking: bool = False  # what had to be said at once has been heard by another link: now that question
    due: float | None = None
    flows: tuple[FlowSettings, ...] = ()  # what the home agent is to hold; `flowchange` keeps both
    rules: tuple[FlowSettings, ...] = ()  # what this end does
    spent: frozenset[str] = frozenset()  # links whose monthly volume is used up: a last resort
    factors: Mapping[Direction, Mapping[str, float]] = field(default_factory=dict)  # of `balance`
    shares: bool = True  # the home agent applies `mip6.flowextension`, as far as is known
    send_times: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_UPDATE_RATE))

    @classmethod
    def begin(
        cls, settings: MobileNodeSettings, random: Random, home_agent: IPv6Address | None, sequence: int
    ) -> Registration:
        """The state before the first Binding Update to a home agent; `sequence` is the last number used."""
        return cls(
            settings,
            random,
            BindingUpdateList(sequence),
            timestamps=settings.association is not None and settings.replay == "timestamp",
            mobile_router=settings.mobile_router,
            explicit=settings.prefix_mode == "explicit",
            home_agent=home_agent,
            access=Access(settings, probing=settings.paths.probe),
        )

    def turn_to(self, home_agent: IPv6Address) -> None:
        """Register with another home agent: all that was learned of the one before is forgotten."""
        fresh = Registration.begin(self.settings, self.random, home_agent, self.update_list.sequence)
        for one in fields(self):
            if one.name not in OF_THE_MOBILE_NODE:
                setattr(self, one.name, getattr(fresh, one.name))

    # --- what is wanted --------------------

    def active(self) -> tuple[CareOfAddress, ...]:
        """The care-of addresses that are registered or being registered, best first, with the BID of their binding.

        One whose path is held back stays registered, so that its probes go on, but with the lowest BID-PRI.
        """
        ranked = sorted(self.care_of, key=lambda one: (one.priority, one.bid))
        if self.mode is Mode.PLAIN:
            ranked = [replace(one, bid=PLAIN) for one in ranked if self.settings.sends(one.link)][:1]
        ranked = [one for one in ranked if not self._is_refused(one)]
        good = self._good(ranked)
        if len(good) == len(ranked):
            return tuple(ranked)
        last = [replace(one, priority=LOWEST_PRIORITY) for one in ranked if one.bid not in good]
        return tuple([one for one in ranked if one.bid in good] + last)

    def _good(self, among: Sequence[CareOfAddress]) -> frozenset[int]:
        """The BIDs to use: of the best paths, those whose link's monthly volume is not used up, if there are any; of a
        care-of address that is leaving only where all are."""
        staying = [one for one in among if one.leaving is None] or among
        states = self._states()
        if not states and not self.spent:  # the usual case, and this is asked many times in a turn
            return frozenset([one.bid for one in staying])
        good = best((one.bid for one in staying), states)
        return frozenset(one.bid for one in staying if one.bid in good and one.link not in self.spent) or good

    def _states(self) -> Mapping[int, PathState]:
        if not self.unproven:
            return self.paths
        unproven = {bid for bid in self.unproven if self.paths.get(bid) is not PathState.DOWN}
        return {**self.paths, **dict.fromkeys(unproven, PathState.RECOVERING)} if unproven else self.paths

    def came(self, found: Sequence[CareOfAddress], staying: Iterable[int]) -> None:
        """These care-of addresses are new here, those of `staying` are not. While one of the latter answers probes, a
        new one has to answer one before flows are given to it: an address and a router do not make a link that carries
        (a login page, a neighbour that is not resolved yet)."""
        if any(self.paths.get(bid) is PathState.UP for bid in staying):
            self.unproven |= {
                one.bid for one in found if self.settings.sends(one.link) and self.access.probed(one.link)
            }

    def heard(self, bid: int, state: PathState) -> None:
        """What the probes say of a path from now on."""
        self.paths[bid] = state
        if state is not PathState.UNMEASURED:
            self.unproven -= {bid}

    def in_use(self, among: Iterable[CareOfAddress] | None = None) -> tuple[CareOfAddress, ...]:
        """Those (of `among`) that flows are given to: the ones whose paths are not held back."""
        found = tuple(self.active() if among is None else among)
        good = self._good(found)
        return tuple(one for one in found if one.bid in good)

    def binding(self, one: CareOfAddress) -> Binding:
        """What a Binding Update says of a care-of address."""
        return Binding(one.bid, one.address, one.priority, one.udp)

    def registered(self, one: CareOfAddress) -> bool:
        """Whether the home agent acknowledged this binding and its lifetime has not ended."""
        held = self.update_list.held.get(one.bid)
        return held is not None and held.binding.where() == self.binding(one).where()

    def _is_refused(self, one: CareOfAddress) -> bool:
        refused = self.refused.get(one.bid)
        return refused is not None and refused.binding.where() == self.binding(one).where()

    def wanted_flows(self) -> tuple[FlowBinding, ...]:
        """Flows that are to be registered now, by FID-PRI. Flow bindings need BIDs (RFC 6089 §5.2)."""
        if self.mode is Mode.PLAIN:
            return ()
        return tuple(flow for flow in self._stated_flows() if self.refused_flows.get(flow.fid, (None,))[0] != flow)

    def _stated_flows(self) -> tuple[FlowBinding, ...]:
        factors = self.factors if self.shares else {}  # who does not share need not hear of the load
        resolved = resolve(self.flows, self.in_use(), Direction.DOWN, factors)
        return tuple(one.binding() for one in resolved if one.picked.bids)

    def resting_flows(self) -> set[int]:
        """FIDs whose links are all gone: the home agent keeps them, inactive, as it knows them (RFC 6089 §5.3).

        One whose paths are only held back is not kept: its BIDs are bound, so it would be active.
        """
        if self.mode is Mode.PLAIN:
            return set()
        return {
            one.settings.fid
            for one in resolve(self.flows, self.active(), Direction.DOWN)
            if not one.picked.bids and one.settings.down.tiers
        }

    def refused_flow(self, fids: Container[int]) -> tuple[int, int | None] | None:
        """The first of these flows that the home agent refused as it is wanted, with the status."""
        for flow in self._stated_flows():
            refused = self.refused_flows.get(flow.fid)
            if flow.fid in fids and refused is not None and refused[0] == flow:
                return flow.fid, refused[1]
        return None

    def flows_agreed(self) -> bool:
        """Whether the home agent is known to hold the wanted flows and no others. Without links nothing is known."""
        if not self.active():
            return False
        wanted = {flow.fid: flow for flow in self.wanted_flows()}
        possible = self.update_list.possible_flows()
        rest = possible.keys() - wanted.keys() - self.resting_flows()
        missing = any(possible.get(fid) != {flow} for fid, flow in wanted.items())
        return not missing and all(possible[fid] == {None} for fid in rest)

    # --- where it may leave by --------------------

    def source(self, tries: int) -> Source | None:
        """Where signalling leaves natively: the best link, another at each retransmission; at home the home link."""
        if self.home is not None:
            return Source(self.settings.home_address, self.home.name)
        return self._nth(tries, in_udp=False)

    def source_in_udp(self, tries: int) -> Source | None:
        """The same for what may leave inside UDP too, where nothing leaves natively."""
        return self.source(tries) or self._nth(tries, in_udp=True)

    def _nth(self, tries: int, *, in_udp: bool) -> Source | None:
        fit = [one for one in self.care_of if one.signals_in_udp == in_udp and self.settings.sends(one.link)]
        good = self._good(fit)
        asked = self.asked_link if self.asking else None
        links = sorted(fit, key=lambda one: (one.link != asked, one.bid not in good, one.priority, one.bid))
        return links[tries % len(links)].source() if links else None

    def wall(self, now: float) -> float:
        """The time of day as the home agent would have it."""
        return now + self.wall_offset + self.correction

    def timestamp(self, now: float) -> int | None:
        """MESG-ID: the time of day, greater than every one before (RFC 4285 §6)."""
        if not self.timestamps:
            return None
        self.last_timestamp = max(ntp_timestamp(self.wall(now), self.random.getrandbits(10)), self.last_timestamp + 1)
        return self.last_timestamp

    # --- what the home agent's answers do to it --------------------

    def hold_back(self, now: float) -> float:
        """Send nothing for a while, longer at each refusal in a row; the seconds."""
        wait = min(SLOW_RETRY * 2.0**self.refusals, SLOWEST_RETRY)
        self.refusals += 1
        self.hold = now + wait
        self.in_flight = None
        return wait

    def stop(self, status: int, now: float) -> None:
        """Send nothing for as long as it may be: what was found wrong is seldom set right without people."""
        self.stopped, self.hold, self.in_flight = status, now + SLOWEST_RETRY, None

    def bind(
        self, binding: Binding, lifetime: int, sent: SentUpdate, advice: int | None, nat: NatDetection | None = None
    ) -> None:
        """The home agent holds a binding. It runs from the sending of the update, not from its answer (§11.7.3).

        `nat` is the NAT Detection option of the answer. The next Binding Update is the keepalive (RFC 5555 §4.3).
        """
        refresh = lifetime * self.random.uniform(*REFRESH)
        if advice is not None and 0 < advice < lifetime:
            refresh = min(refresh, float(advice))
        one = next((one for one in self.care_of if one.address == binding.care_of_address), None)
        udp = one is not None and one.signals_in_udp and needs_udp(nat)
        if one is not None and udp:
            wanted = next((link.keepalive for link in self.settings.links if link.name == one.link), None)
            refresh = min(refresh, keepalive(nat, wanted) * self.random.uniform(*JITTER))
        if one is not None and one.link == self.asked_link != sent.link and not self.asking:
            self.asking, refresh = True, 0.0
        self.update_list.held[binding.bid] = Held(binding, lifetime, sent.time + lifetime, sent.time + refresh, udp)

    def ask_over(self, bid: int, link: str, now: float) -> None:
        """Find out by a Binding Update over this link whether the home agent is still reached by it; first flows leave
        it by a Binding Update over a better one, which is not to wait for an answer that may never come."""
        held = self.update_list.held.get(bid)
        if held is not None:
            self.asked_link = link
            self.update_list.held[bid] = replace(held, refresh=min(held.refresh, now))

    def refuse_bid(self, binding: Binding, status: int, now: float) -> None:
        """The home agent does not hold a binding and is not asked for it for a while."""
        self.update_list.held.pop(binding.bid, None)
        self.refused[binding.bid] = RefusedBinding(binding, status, now + SLOW_RETRY)
