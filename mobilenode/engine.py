"""The mobile node as a pure engine: events in, actions out (RFC 6275 §11, RFC 3963 §5, RFC 5648 §5, RFC 6089 §5.2).

How it thinks: an event changes what is observed (`movement`), what the home agent said (`acknowledgement`) or what is
wanted; then `sending.advance` sends what is due. Forwarding table and kernel state are functions of all that
(`views`), so a lost link leaves the table in the same turn, before the home agent has heard of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mip6 import events
from mip6.actions import (
    Action,
    AnnounceNeighbour,
    ForwardingChanged,
    KernelChanged,
    KernelState,
    Report,
    SendPacket,
    ShutdownComplete,
)
from mip6.explain import question
from mip6.forwarding import End, ForwardingTable, IPAddress
from mip6.path import PathState
from mip6.paths import path_report
from mobilenode import sending, views
from mobilenode.balance import Balance, samples
from mobilenode.flowchange import FlowChanges
from mobilenode.homeagents import HomeAgents
from mobilenode.movement import Way, care_of_addresses, home_link, registrable
from mobilenode.plan import work
from mobilenode.policy import links_of
from mobilenode.prefixdiscovery import PrefixDiscovery
from mobilenode.reasons import explain_here
from mobilenode.reception import Reception
from mobilenode.registration import Goal, Registration
from mobilenode.settings import MobileNodeSettings
from mobilenode.volumes import Volume, Volumes

if TYPE_CHECKING:
    from random import Random

PATH_MTU_LIFETIME = 600.0  # seconds until a learned path MTU is forgotten (RFC 8201 §4)
GOODBYE_TIME = 3.0  # seconds that a deregistration may take at shutdown: two tries
CLOCK_JUMP = 1.0  # seconds
ANSWERING = (PathState.UP, PathState.RECOVERING)  # probes get through
FAILED = (PathState.DOWN, PathState.SILENT)  # they did, and no longer do; of a link that is back nothing is known yet


class MobileNode:
    """The engine of a mobile node or mobile router."""

    def __init__(self, settings: MobileNodeSettings, random: Random) -> None:
        self.settings = settings
        first = settings.home_agents[0] if settings.home_agents else None
        sequence = random.randrange(65536)  # a random number to start with (RFC 6275 §11.7.1)
        self._registration = Registration.begin(settings, random, first, sequence)
        self._agents = HomeAgents(settings, self._registration, random)
        self._prefixes = PrefixDiscovery(settings, self._registration, random)
        self._flow_changes = FlowChanges(settings, self._registration)
        self._balance = Balance(settings.links)
        self.volumes = Volumes(settings.links, settings.zone)
        self._month: float | None = None
        self._counts: Counter[str] = Counter()
        self._reception = Reception(settings, self._registration, self._agents, self._prefixes, self._counts)
        self._links: tuple[events.LinkState, ...] = ()
        self._observed = 0.0  # when
        self._ways: dict[str, Way] = {}
        self._left_out: set[str] = set()  # care-of addresses that are too many
        self._path_mtus: dict[IPAddress, tuple[int, float]] = {}
        self._goodbye: float | None = None  # when shutting down ends at the latest
        self._gone = False
        self._announced = False  # at home: the neighbours were told
        # what the shell has before the first event: nothing, so that the first event announces both
        self._table = ForwardingTable(End.MOBILE_NODE, settings.home_address, provisional=True)
        self._kernel = KernelState()

    # --- the engine's interface --------------------

    def handle(self, event: events.Event, now: float) -> list[Action]:
        """Take in one event; what is to be done, in order."""
        if self._gone:
            return []
        actions: list[Action] = []
        match event:
            case events.PacketReceived():
                actions += self._reception.receive(event, now)
            case events.LinksObserved(links):
                actions += self._observe(links, now)
            case events.WallClockSet(offset):
                self._set_clock(offset)
            case events.PathMtuChanged(local, remote, mtu):
                actions += self._path_mtu(local, remote, mtu, now)
            case events.LinkCounted(name, octets):
                self.volumes.count({name: octets}, self._wall(now))
            case events.LoadMeasured():
                actions += self._measure(event, now)
            case events.VolumeRestored(name, begun, used, octets):
                self.volumes.restore({**self.volumes.found, name: Volume(begun, used, octets)})
            case events.OperatorRequest("flows", {"rules": tuple() as rules, "limit": float() as limit}, number):
                self._flow_changes.propose(number, rules, limit, now)
            case events.PathChanged(_, bid, path_state):
                actions += self._path_changed(bid, path_state, now)
            case events.OperatorRequest(command):
                raise ValueError(f"a mobile node knows no command {command!r}")
            case events.ShuttingDown() if self._goodbye is None:
                actions += self._shut_down(now)
            case _:
                pass  # TimerExpired: the clock alone; a mobile node asks for no duplicate address detection
        self._path_mtus = {local: one for local, one in self._path_mtus.items() if now < one[1]}
        self._flow_changes.update(now)
        actions += self._turn_volumes(now)
        actions += self._choose_ways(now)
        if self._goodbye is None or now < self._goodbye:
            before = self._registration.home_agent
            actions += self._agents.advance(now)
            if self._registration.home_agent != before:
                self._path_mtus.clear()
            actions += self._advance(now)
            if settled := self._flow_changes.settle(now):
                actions += settled + self._advance(now)  # a change that was taken back is so at both ends
            actions += self._prefixes.advance(now)
            for one in self._registration.active():
                if self._registration.registered(one):
                    held = self._registration.update_list.held[one.bid]
                    self._registration.access.registered(one.link, held.udp, now)
        actions += self._farewell(now)
        actions += self._announce()
        return [*self._changes(), *actions]

    def next_deadline(self) -> tuple[float, str] | None:
        """When `TimerExpired` is due, and what for."""
        if self._gone:
            return None
        found = [(when, "learned path MTU") for _, when in self._path_mtus.values()]
        registration = sending.deadline(self._registration)
        if registration is not None:
            found.append(registration)
        access = self._registration.access.deadline()
        if access is not None:
            found.append((access, "way to the home agent"))
        if self._goodbye is not None:
            found.append((self._goodbye, "shutdown"))
        else:
            found += self._agents.deadlines() + self._prefixes.deadlines() + self._flow_changes.deadlines()
        if self._month is not None:
            found.append((self._month, "a new month"))
        return min(found, default=None)

    def forwarding_table(self) -> ForwardingTable:
        """The whole desired state of the data plane; parts that did not change are the same objects."""
        return self._table

    def kernel_state(self) -> KernelState:
        """The whole desired state of addresses, routes and rules."""
        return self._kernel

    def status(self, now: float) -> dict[str, Any]:
        """What `mip6 status` shows, counters of the data plane aside."""
        status = views.status(self.settings, self._registration, dict(self._counts), now)
        load = {link.name: self._balance.describe(link.name) for link in self.settings.links} if self.balances() else {}
        for binding in status["bindings"]:
            binding["load"] = load.get(binding["link"])
        return status | {"home_agents": [str(one) for one in self._agents.known]}

    def _wall(self, now: float) -> float:
        return round(now + self._registration.wall_offset, 3)

    def _turn_volumes(self, now: float) -> list[Action]:
        """Which links are a last resort now, as their monthly volume is used up."""
        wall = self._wall(now)
        self.volumes.turn(wall)
        before, spent = self._registration.spent, self.volumes.spent()
        self._registration.spent = spent
        month = self.volumes.next_change(wall)
        self._month = None if month is None else month - self._registration.wall_offset
        return [
            *(Report("monthly volume used up", "warning", {"link": name}) for name in sorted(spent - before)),
            *(Report("monthly volume available again", fields={"link": name}) for name in sorted(before - spent)),
        ]

    def balances(self) -> bool:
        """Whether a rule follows the load of the links, so that `LoadMeasured` is of use."""
        rules = (*self._registration.rules, *self._registration.flows)
        return any(flow.down.balance or flow.uplink.balance for flow in rules)

    def _measure(self, event: events.LoadMeasured, now: float) -> list[Action]:
        """The weights of balanced rules: of this end at once, of the home agent by the Binding Update that follows."""
        up, down = samples(event, links_of(self._registration.active()))
        if not self._balance.take(up, down, now):
            return []
        self._registration.factors = self._balance.factors()
        fields = {way.name.lower(): dict(factors) for way, factors in self._registration.factors.items()}
        return [Report("load balanced", "debug", fields)]

    def _advance(self, now: float) -> list[Action]:
        sent = sending.advance(self._registration, now)
        self._counts["binding_update"] += sum(isinstance(one, SendPacket) for one in sent)
        return sent

    def rules(self) -> list[dict[str, Any]]:
        """What `mip6 flow list` shows: every rule, also those that do not hold now."""
        return views.rules(self._flow_changes.rules, self._registration)

    def explain(self, arguments: Mapping[str, object]) -> dict[str, Any]:
        """What `mip6 explain` shows of one packet; ValueError when it is none."""
        return explain_here(
            self.settings,
            self._registration,
            self._flow_changes.rules,
            self._table,
            self._balance,
            question(arguments),
        )

    # --- events --------------------

    def _observe(self, links: tuple[events.LinkState, ...], now: float) -> list[Action]:
        """RFC 6275 §11.5: a snapshot of the links. Whatever changed is registered at once, also after a refusal."""
        state = self._registration
        self._links, self._observed = links, now
        state.access.observe(links)
        home = home_link(links, self.settings)
        self._ways = state.access.chosen()
        found = care_of_addresses(links, self.settings, state.care_of, now, self._ways)
        care_of = registrable(found, state.care_of)
        actions: list[Action] = []
        before = {one.bid: one for one in state.care_of}
        after = {one.bid: one for one in care_of}
        for bid, one in before.items():
            if bid not in after or after[bid].address != one.address:
                fields = {"bid": bid, "link": one.link, "care_of_address": str(one.address)}
                actions.append(Report("care-of address lost", fields=fields))
        new = [one for bid, one in after.items() if bid not in before or before[bid].address != one.address]
        state.came(new, after.keys() - {one.bid for one in new})
        for one in new:
            fields = {"bid": one.bid, "link": one.link, "care_of_address": str(one.address)}
            actions.append(Report("care-of address found", fields=fields))
        for bid, one in after.items():
            if one.leaving is not None and (bid not in before or before[bid].leaving is None):
                fields = {"bid": bid, "link": one.link, "care_of_address": str(one.address)}
                actions.append(Report("care-of address withdrawn", fields=fields))
        if actions:
            state.hold = state.stopped = None
            self._agents.links_changed(now)
        before_out, self._left_out = self._left_out, {str(one.address) for one in found if one not in care_of}
        if self._left_out - before_out:
            out = {"care_of_addresses": sorted(self._left_out), "registered": len(care_of)}
            actions.append(Report("more care-of addresses than can be registered", "warning", out))
        if (home is None) != (state.home is None):
            actions.append(Report("home link found" if home else "home link left"))
            state.hold, state.stopped, state.cleared, self._announced = None, None, False, False
        state.care_of, state.home = care_of, home
        if self._goodbye is None:
            state.goal = Goal.NOTHING if home is not None else Goal.REGISTERED
        return actions

    def _choose_ways(self, now: float) -> list[Action]:
        """What the home agent's answers, their absence and the probes say of each link's way to it."""
        state, access = self._registration, self._registration.access
        heard = {bid for bid, path_state in state.paths.items() if path_state in ANSWERING}
        answering = {one.link for one in state.active() if one.bid in heard} if heard else set()
        actions = access.expire(now, answering)
        if access.chosen() != self._ways:
            actions += self._observe(self._links, self._observed)
        return actions

    def _set_clock(self, offset: float) -> None:
        """The time of day. A jump makes what the home agent said of the clock before (status 144) worthless."""
        if abs(offset - self._registration.wall_offset) > CLOCK_JUMP:
            self._registration.correction = 0.0
        self._registration.wall_offset = offset

    def _path_mtu(self, local: IPAddress, remote: IPAddress, mtu: int, now: float) -> list[Action]:
        """RFC 8201 §4: only ever lower, until it is forgotten."""
        known = any(one.address == local for one in self._registration.care_of)
        state = self._registration
        ends = () if state.home_agent is None else self.settings.addresses_of(state.home_agent)
        if not known or remote not in ends or mtu >= self._path_mtus.get(local, (1 << 16, 0.0))[0]:
            return []
        self._path_mtus[local] = mtu, now + PATH_MTU_LIFETIME
        return [Report("path MTU", fields={"care_of_address": str(local), "mtu": mtu})]

    def _path_changed(self, bid: int, path_state: PathState, now: float) -> list[Action]:
        """Flows leave a path that is down in this turn, at the home agent by the Binding Update that follows. Where the
        way may be to blame, a Binding Update over that very link finds it out."""
        state = self._registration
        state.heard(bid, path_state)
        link = next((one.link for one in state.active() if one.bid == bid), None)
        if link is not None and path_state in ANSWERING:
            state.access.path_up(link)
        elif link is not None and path_state in FAILED and state.access.path_down(link):
            state.ask_over(bid, link, now)
        return [path_report(path_state, {"bid": bid, "link": link, "state": str(path_state)})]

    def _shut_down(self, now: float) -> list[Action]:
        """Deregister everything (RFC 6275 §11.7.1); not if the home agent was never told anything."""
        state = self._registration
        self._goodbye = now + GOODBYE_TIME
        state.goal, state.hold = Goal.NOTHING, None
        if state.home is None and not state.update_list.held and not state.update_list.outstanding:
            state.cleared = True
        return [Report("shutting down")]

    def _farewell(self, now: float) -> list[Action]:
        if self._goodbye is None:
            return []
        state = self._registration
        unsendable = state.home is None and not state.care_of
        if work(state, now) is None or now >= self._goodbye or unsendable:
            self._gone = True
            return [ShutdownComplete()]
        return []

    def _announce(self) -> list[Action]:
        """RFC 6275 §11.5.5: back home, once the home agent no longer defends the home address."""
        state = self._registration
        if state.home is None or not state.cleared or self._announced or self._goodbye is not None:
            return []
        self._announced = True
        return [AnnounceNeighbour(self.settings.home_address, state.home.name, self.settings.mobile_router)]

    # --- what follows from it --------------------

    def _changes(self) -> list[Action]:
        mtus = {local: mtu for local, (mtu, _) in self._path_mtus.items()}
        table = views.forwarding_table(self.settings, self._registration, mtus, self._table)
        kernel = views.kernel_state(self.settings, self._registration)
        changes: list[Action] = []
        if kernel != self._kernel:
            self._kernel = kernel
            changes.append(KernelChanged())
        if table != self._table:
            self._table = table
            changes.append(ForwardingChanged())
        return changes
