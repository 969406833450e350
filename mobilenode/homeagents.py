"""Which home agent the mobile node registers with: configured in order of preference, or discovered (RFC 6275 §11.4.1).

One is the current one as long as it answers. When it is silent or refuses, the next of the list has its turn; whoever
accepts stays, so a home agent that comes back takes nobody away from another. The one that was left gets a
deregistration once the next has accepted, for it may be alive and still forward to the bindings it holds.

Nothing of discovery is authenticated: a forged answer can only name home agents that do not know the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from mip6.actions import Action, Report, SendPacket
from mip6.headers import SignallingPacket
from mip6.icmp6 import HomeAgentDiscoveryReply, HomeAgentDiscoveryRequest, build_icmp6, home_agents_anycast
from mobilenode.bindingupdatelist import SentUpdate, Update
from mobilenode.registration import SLOW_RETRY, SLOWEST_RETRY, Goal, Registration
from mobilenode.settings import MobileNodeSettings
from mobilenode.updates import binding_update

if TYPE_CHECKING:
    from random import Random

INITIAL_DHAAD_TIMEOUT = 3.0  # seconds, RFC 6275 §12
DHAAD_RETRIES = 4  # RFC 6275 §12
PATIENCE = 10.0  # seconds: a home agent that never accepted is left after three Binding Updates without an answer
PATIENCE_REGISTERED = 30.0  # one that holds bindings when the next timeout would be the largest (RFC 6275 §11.7.1)
FAREWELLS = 4  # deregistrations to a home agent that was left
FAREWELL_INTERVAL = 4.0  # seconds, doubled each time


@dataclass(slots=True)
class Discovery:
    """A question to the home agents of the home link: the same request until it is answered or given up."""

    identifier: int
    tries: int = 0
    due: float = 0.0


@dataclass(slots=True)
class Farewell:
    """A home agent that was left and may hold bindings; `due` None until the next one has accepted."""

    tries: int = 0
    due: float | None = None


class HomeAgents:
    """Turns `state` to another home agent where the current one fails."""

    def __init__(self, settings: MobileNodeSettings, state: Registration, random: Random) -> None:
        self.known = settings.home_agents
        self._settings = settings
        self._state = state
        self._random = random
        self._discovery: Discovery | None = None
        self._rounds = 0  # that ended without success
        self._rest: float | None = None  # until the next round
        self._failed: list[IPv6Address] = []  # in this round
        self._stopped: set[IPv6Address] = set()  # those with a status after which nothing more is sent
        self._left: dict[IPv6Address, Farewell] = {}
        if not self.known:
            self._ask(0.0)

    def advance(self, now: float) -> list[Action]:
        """Before `Registration.advance`: the home agent that the next Binding Update goes to."""
        state = self._state
        actions: list[Action] = []
        if state.update_list.held and state.silent is None and state.hold is None:
            self._failed, self._rounds, self._rest = [], 0, None
            actions += self._say_farewell(now)
        if self._discovery is not None:
            actions += self._discover(self._discovery, now)
        why = self._failure(now)
        if why is not None and state.home_agent not in self._failed:
            actions += self._next(why, now)
        elif self._rest is not None and self._rest <= now:
            self._failed, self._rest = [], None
            actions += self._turn_to(self._candidates(), "next round")
        return actions

    def deadlines(self) -> list[tuple[float, str]]:
        """When `advance` has to be called again, and why."""
        times = [(one.due, "deregistration at the former home agent") for one in self._left.values() if one.due]
        if self._discovery is not None and self._state.source(0) is not None:
            times.append((self._discovery.due, "home agent discovery"))
        if self._rest is not None:
            times.append((self._rest, "next round of home agents"))
        return times

    def links_changed(self, now: float) -> None:
        """There is a new way: what rests is tried at once, and who said never may be asked again."""
        self._stopped.clear()
        if self._discovery is not None:
            self._discovery.due = now
        if self._rest is not None:
            self._rest = now

    # --- one after the other --------------------

    def _candidates(self) -> list[IPv6Address]:
        return [one for one in self.known if one not in self._stopped and one not in self._failed]

    def _failure(self, now: float) -> str | None:
        """Why the current home agent is to be left. A deregistration goes to the one that holds the bindings."""
        state = self._state
        if state.home_agent is None or state.goal is not Goal.REGISTERED:
            return None
        if state.stopped is not None or state.hold is not None:
            return "refused"
        patience = PATIENCE_REGISTERED if state.update_list.held else PATIENCE
        if state.silent is not None and now >= max(state.silent + patience, state.retransmit):
            return "no answer"
        return None

    def _next(self, why: str, now: float) -> list[Action]:
        state = self._state
        assert state.home_agent is not None
        if state.stopped is not None:
            self._stopped.add(state.home_agent)
        self._failed.append(state.home_agent)
        actions: list[Action] = []
        candidates = self._candidates()
        if not candidates:  # the round is over
            if not self._settings.home_agents and self._discovery is None:
                self._ask(now)
            self._failed = [] if why == "no answer" else self._failed
            candidates = self._candidates()
            if not candidates and len(self.known) > 1 and self._stopped != set(self.known):
                self._rest = now + min(SLOW_RETRY * 2.0**self._rounds, SLOWEST_RETRY)
                self._rounds += 1
        if candidates and candidates[0] != state.home_agent:
            actions += self._turn_to(candidates, why)
        return actions

    def _turn_to(self, candidates: list[IPv6Address], why: str) -> list[Action]:
        state = self._state
        if not candidates or candidates[0] == state.home_agent:
            return []
        old, new = state.home_agent, candidates[0]
        if old is not None and (state.update_list.held or state.update_list.outstanding):
            self._left.setdefault(old, Farewell()).due = None
        self._left.pop(new, None)
        state.turn_to(new)
        fields = {"home_agent": str(new)} if old is None else {"home_agent": str(new), "before": str(old), "why": why}
        return [Report("home agent chosen", "info" if old is None else "warning", fields)]

    def _say_farewell(self, now: float) -> list[Action]:
        state, actions = self._state, list[Action]()
        source = state.source(0) or state.source_in_udp(0)
        for agent, farewell in list(self._left.items()):
            if source is None or (farewell.due is not None and now < farewell.due):
                continue
            if farewell.tries == FAREWELLS:
                del self._left[agent]
                continue
            update = Update(replaces=True, mobile_router=self._settings.mobile_router)
            state.update_list.sequence = (state.update_list.sequence + 1) % 65536
            sent = SentUpdate(update, state.update_list.sequence, state.timestamp(now), state.clock, now, 0)
            actions.append(binding_update(self._settings, sent, source, agent, ()))
            farewell.tries += 1
            farewell.due = now + FAREWELL_INTERVAL * 2.0 ** (farewell.tries - 1)
        return actions

    def farewell_answered(self, agent: IPv6Address) -> bool:
        """A home agent that was left has heard it."""
        return self._left.pop(agent, None) is not None

    def is_left(self, agent: IPv6Address) -> bool:
        """Whether an answer of this former home agent is waited for."""
        return agent in self._left

    # --- discovery --------------------

    def _ask(self, now: float) -> None:
        self._discovery = Discovery(self._random.getrandbits(16), due=now)

    def _discover(self, discovery: Discovery, now: float) -> list[Action]:
        source = self._state.source(discovery.tries)
        if source is None or now < discovery.due or self._settings.home_prefix is None:
            return []
        assert isinstance(source.address, IPv6Address)
        request = HomeAgentDiscoveryRequest(discovery.identifier, self._settings.mobile_router)
        packet = build_icmp6(source.address, home_agents_anycast(self._settings.home_prefix), request)
        actions: list[Action] = [SendPacket(packet, source.link)]
        if discovery.tries < DHAAD_RETRIES:
            discovery.due = now + INITIAL_DHAAD_TIMEOUT * 2.0**discovery.tries
            discovery.tries += 1
            return actions
        wait = min(SLOW_RETRY * 2.0**self._rounds, SLOWEST_RETRY)
        self._rounds += 1
        self._ask(now + wait)
        return [*actions, Report("no home agent found", "warning", {"retry_after": wait})]

    def discovered(self, packet: SignallingPacket, reply: HomeAgentDiscoveryReply) -> list[Action] | None:
        """A reply of some home agent; None when nothing of the kind was asked for."""
        if self._discovery is None or reply.identifier != self._discovery.identifier:
            return None
        found = [one for one in dict.fromkeys(reply.addresses) if self._is_possible(one)]
        if not found:
            return None
        self._discovery = None
        self.known = tuple(found)
        self._failed, self._rest, self._rounds = [], None, 0
        self._stopped &= set(found)
        fields = {"from": str(packet.source), "home_agents": [str(one) for one in found]}
        actions: list[Action] = [Report("home agents discovered", fields=fields)]
        if self._state.home_agent not in found:
            actions += self._turn_to(self._candidates(), "not a home agent any more")
        return actions

    def _is_possible(self, address: IPv6Address) -> bool:
        if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
            return False
        return address != self._settings.home_address and not any(address in one for one in self._settings.prefixes)
