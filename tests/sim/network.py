"""A simulated network between a mobile node's engine and a home agent's: the real engines, no socket, no waiting.

Packets are lost, delayed, repeated and so reordered by `Weather`; a partition loses all of them. The clock jumps to
the earliest wake-up: a packet's arrival or an engine's deadline. Either end restarts, the home agent with or without
its store, and either clock jumps. After every step `invariants.Watch` looks at the end that acted, and at the clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from random import Random
from typing import Any

from homeagent.engine import HomeAgent
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.actions import Action, Answer, Report, SendPacket, StoreNode
from mip6.auth import Algorithm, SecurityAssociation, sign
from mip6.events import (
    AddressState,
    Event,
    LinksObserved,
    LinkState,
    OperatorRequest,
    PacketReceived,
    PathChanged,
    RouterState,
    TimerExpired,
    WallClockSet,
)
from mip6.forwarding import Encapsulation, IPAddress
from mip6.headers import build_packet
from mip6.messages import BindingUpdate
from mip6.numbers import UpdateFlag
from mip6.options import BindingIdentifier, MobileNodeIdentifier
from mip6.path import PathState
from mip6.selectors import IPv6Selector
from mip6.udp import UdpEnds
from mobilenode.engine import MobileNode
from mobilenode.settings import FlowSettings, LinkSettings, MobileNodeSettings, copy, via
from tests.sim.invariants import Watch
from tests.sim.nat import Nat, mirrored

HOME = IPv6Address("2001:db8:100::5")
AGENT = IPv6Address("2001:db8:100::1")
HOME_PREFIX = IPv6Network("2001:db8:100::/64")
PREFIX = IPv6Network("2001:db8:f00::/56")
IDENTIFIER = "mr@example.com"
KEY = SecurityAssociation(4096, Algorithm.HMAC_SHA1, bytes(16))
WRONG_KEY = SecurityAssociation(4096, Algorithm.HMAC_SHA1, bytes(range(16)))
WLAN = IPv6Address("2001:db8:a::1")
CELL = IPv6Address("2001:db8:b::1")
AGENT4 = IPv4Address("203.0.113.1")
GATEWAY = IPv4Address("10.0.0.1")
NOON = 1_700_000_000.0  # the time of day when a history begins, seconds since 1970
MOST_STEPS = 3000  # between two looks of a story; more is an engine that never rests

HOME_AGENT = HomeAgentSettings(
    address=AGENT,
    home_prefixes=(HOME_PREFIX,),
    nodes=(NodeSettings(HOME, IDENTIFIER, mobile_router=True, prefixes=(PREFIX,), associations=(KEY,)),),
)
MOBILE_NODE = MobileNodeSettings(
    home_address=HOME,
    home_agents=(AGENT,),
    home_prefix=HOME_PREFIX,
    identifier=IDENTIFIER,
    prefixes=(PREFIX,),
    mobile_router=True,
    association=KEY,
    links=(LinkSettings("wlan0", 1, 10), LinkSettings("wwan0", 2, 20)),
    flows=(
        FlowSettings(10, 10, "voice", IPv6Selector(next_header=(17, 17)), via("wwan0", "wlan0")),
        FlowSettings(20, 20, "ping", IPv6Selector(next_header=(58, 58)), copy("wwan0", "wlan0")),
    ),
)


def link(name: str, *addresses: IPAddress, router: bool = True) -> LinkState:
    """An access link that is up, with these addresses of /64 and /24, and a router for each family."""
    index = 2 if name == "wlan0" else 3
    states = tuple(AddressState(one, 64 if isinstance(one, IPv6Address) else 24) for one in addresses)
    routers = {RouterState(IPv6Address("fe80::1") if one.version == 6 else GATEWAY) for one in addresses}
    return LinkState(name, index, True, 1500, b"", states, tuple(routers) if router else ())


BOTH = (link("wlan0", WLAN), link("wwan0", CELL))


@dataclass(frozen=True)
class Weather:
    """What happens to packets: shares of those lost and repeated, and the longest delay in seconds."""

    loss: float = 0.0
    repetition: float = 0.0
    delay: float = 0.02


FAIR = Weather()
PARTITION = Weather(loss=1.0)


@dataclass(order=True)
class Arrival:
    """A packet under way; `number` keeps the order of equal times."""

    time: float
    number: int
    to_home_agent: bool = field(compare=False)
    packet: bytes = field(compare=False)
    outer: UdpEnds | None = field(compare=False, default=None)  # as its receiver sees it


class Network:
    """Both engines, the packets between them, the home agent's store and the clock."""

    def __init__(
        self,
        seed: int,
        home_agent: HomeAgentSettings = HOME_AGENT,
        mobile_node: MobileNodeSettings = MOBILE_NODE,
        mobile_clock: float = 0.0,
    ) -> None:
        self.random = Random(seed)
        self.settings = home_agent
        self.mobile_settings = mobile_node
        self.weather = FAIR
        self.deaf = False  # the mobile node: what is sent to it is lost
        self.nat = Nat()  # in front of every IPv4 address of the mobile node
        self.blocked: set[IPAddress] = set()  # care-of addresses that only UDP gets through from and to
        self.now = 0.0
        self.links: tuple[LinkState, ...] = ()
        self.store: dict[IPv6Address, Mapping[str, Any]] = {}
        self._log: list[tuple[float, str, object]] = []
        self.home_offset = NOON
        self.mobile_offset = NOON + mobile_clock
        self._under_way: list[Arrival] = []
        self._number = 0
        self.asked: dict[int, float] = {}  # changes of rules under way: when they are answered at the latest
        self.answers: dict[int, Mapping[str, Any]] = {}
        self._requests = 0
        self._deadlines: dict[str, float | None] = {}
        self.watch = Watch(self.settings)
        self.home_agent = HomeAgent(self.settings, Random(self.random.random()))
        self.mobile_node = MobileNode(self.mobile_settings, Random(self.random.random()))
        self.to_home_agent(WallClockSet(self.home_offset))
        self.to_mobile_node(WallClockSet(self.mobile_offset))

    # --- what happens -------------------------------------------------------------------------------------------------

    def to_home_agent(self, event: Event) -> None:
        """One event for the home agent, and what it does about it."""
        if isinstance(event, PacketReceived):
            self.watch.arriving(event.packet, event.outer)
        self._home_agent_does(self.home_agent.handle(event, self.now), type(event).__name__)

    def to_mobile_node(self, event: Event) -> None:
        """One event for the mobile node, and what it does about it."""
        self._note("mobile node:", type(event).__name__)
        for action in self.mobile_node.handle(event, self.now):
            if isinstance(action, SendPacket):
                self.watch.sent_by_mobile_node(action.packet, self.now)
                self._from_mobile_node(action)
            self._note_action(action)
        self._deadlines["mobile node"] = _time_of(self.mobile_node.next_deadline())
        self.watch.mobile_node_acted(self.mobile_node, self.present())
        self._time_passed()

    def observe(self, *links: LinkState) -> None:
        """The mobile node's links are these now."""
        self.links = links
        self._note("links:", [(one.name, *(address.address for address in one.addresses)) for one in links])
        self.to_mobile_node(LinksObserved(links))

    def restart_home_agent(self, *, with_store: bool) -> None:
        """A crash: what was not stored is gone; without its store all is."""
        self._note("home agent restarts,", "with its store" if with_store else "without its store")
        self.home_agent = HomeAgent(self.settings, Random(self.random.random()))
        if not with_store:
            self.store.clear()
        self.watch.restarted(self.store.get(HOME), self.home_offset)
        self.home_agent.handle(WallClockSet(self.home_offset), self.now)
        self._home_agent_does(self.home_agent.restore(dict(self.store), self.now), "restore")

    def restart_mobile_node(self) -> None:
        """A crash of the mobile node, which stores nothing."""
        self._note("mobile node restarts")
        self.mobile_node = MobileNode(self.mobile_settings, Random(self.random.random()))
        self.watch.mobile_node_restarted()
        self.asked.clear()
        self.to_mobile_node(WallClockSet(self.mobile_offset))
        self.to_mobile_node(LinksObserved(self.links))

    def jump_clock(self, seconds: float, *, home_agent: bool) -> None:
        """The time of day of one end is now this far from the simulation's."""
        if home_agent:
            self.home_offset = NOON + seconds
            self.to_home_agent(WallClockSet(self.home_offset))
        else:
            self.mobile_offset = NOON + seconds
            self.to_mobile_node(WallClockSet(self.mobile_offset))

    def change(self, rules: tuple[FlowSettings, ...], limit: float = 5.0) -> int:
        """`mip6 flow`: the number of the request; its answer is looked for among `answers`."""
        self._requests += 1
        event = OperatorRequest("flows", {"rules": rules, "limit": limit}, self._requests)
        self.asked[self._requests] = self.now + limit
        self.to_mobile_node(event)
        return self._requests

    def path(self, bid: int, state: PathState, *, home_agent: bool) -> None:
        """The probes of one end say that a path is in this state now."""
        event = PathChanged(HOME, bid, state)
        if home_agent:
            self.to_home_agent(event)
        else:
            self.to_mobile_node(event)

    def revoke(self) -> None:
        """`mip6 revoke` of all bindings, when there are any and none is being revoked."""
        bindings = self.bindings()
        if bindings and all(one["state"] == "active" for one in bindings):
            self.to_home_agent(OperatorRequest("revoke", {"home_address": str(HOME)}))

    def forge(self, care_of: IPv6Address) -> None:
        """Somebody without the key registers a care-of address of his own."""
        options = (BindingIdentifier(1, 0, False, 1, care_of), MobileNodeIdentifier(1, IDENTIFIER.encode()))
        flags = UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION | UpdateFlag.MOBILE_ROUTER
        update = BindingUpdate(self.random.randrange(65536), flags, 600, options)
        mh = sign(update, WRONG_KEY, care_of, HOME)
        self._send(build_packet(care_of, AGENT, mh, home_address=HOME), to_home_agent=True)

    def run(self, seconds: float) -> None:
        """Let time pass, from wake-up to wake-up."""
        until = self.now + seconds
        for _ in range(MOST_STEPS):
            due = self._wake_ups()
            if not due or min(due)[0] > until:
                self.now = until
                self._time_passed()
                return
            self.now, who = min(due)
            if who == "home agent":
                self.to_home_agent(TimerExpired())
            elif who == "mobile node":
                self.to_mobile_node(TimerExpired())
            else:
                self._arrive(heapq.heappop(self._under_way))
        raise AssertionError(f"no rest: {self.mobile_node.next_deadline()}, {self.home_agent.next_deadline()}")

    # --- what is to be seen -------------------------------------------------------------------------------------------

    def bindings(self) -> list[dict[str, Any]]:
        """The home agent's bindings of the mobile node, as `mip6 status` shows them."""
        found: list[dict[str, Any]] = self.home_agent.status(self.now)["nodes"][0]["bindings"]
        return found

    def care_of_addresses(self) -> set[str]:
        """Where the home agent sends to."""
        node = self.home_agent.forwarding_table().nodes.get(HOME)
        return set() if node is None else {str(one.remote) for one in node.tunnels}

    def under_way(self) -> list[bytes]:
        """The packets that are neither lost nor there."""
        return [one.packet for one in sorted(self._under_way)]

    def story(self, lines: int) -> str:
        """The last lines of what happened."""
        return "\n".join(f"{when:.3f} {text} {more}" for when, text, more in self._log[-lines:])

    def state(self) -> str:
        """The mobile node's state in one word."""
        return str(self.mobile_node.status(self.now)["state"])

    # --- inside -------------------------------------------------------------------------------------------------------

    def _wake_ups(self) -> list[tuple[float, str]]:
        due = [(max(when, self.now), who) for who, when in self._deadlines.items() if when is not None]
        return [*due, (self._under_way[0].time, "packet")] if self._under_way else due

    def _arrive(self, arrival: Arrival) -> None:
        event = PacketReceived(arrival.packet, "eth0" if arrival.to_home_agent else "wlan0", outer=arrival.outer)
        if self.deaf and not arrival.to_home_agent:
            return
        if arrival.to_home_agent:
            self.to_home_agent(event)
        elif arrival.outer is not None:
            if arrival.outer.local in self.present():
                self.to_mobile_node(event)
        elif IPv6Address(arrival.packet[24:40]) in self.present() | {HOME}:
            self.to_mobile_node(event)

    def present(self) -> set[IPAddress]:
        """The addresses that the mobile node has on its links."""
        return {address.address for one in self.links for address in one.addresses}

    def _from_mobile_node(self, action: SendPacket) -> None:
        outer = action.outer
        if outer is None:
            if IPv6Address(action.packet[8:24]) not in self.blocked:
                self._send(action.packet, to_home_agent=True)
        elif isinstance(outer.local, IPv4Address):
            self._send(action.packet, to_home_agent=True, outer=self.nat.out(outer, self.now))
        else:
            self._send(action.packet, to_home_agent=True, outer=mirrored(outer))

    def _from_home_agent(self, action: SendPacket) -> None:
        outer = action.outer
        if outer is None:
            if IPv6Address(action.packet[24:40]) not in self.blocked:
                self._send(action.packet, to_home_agent=False)
        elif isinstance(outer.remote, IPv6Address):
            self._send(action.packet, to_home_agent=False, outer=mirrored(outer))
        elif (inside := self.nat.back(outer, self.now)) is not None:
            self._send(action.packet, to_home_agent=False, outer=inside)

    def reachable(self) -> bool:
        """Whether what the home agent sends to where it thinks the mobile node is gets there."""
        node = self.home_agent.forwarding_table().nodes.get(HOME)
        for tunnel in () if node is None else node.tunnels:
            if tunnel.encapsulation is Encapsulation.UDP and isinstance(tunnel.remote, IPv4Address):
                ends = UdpEnds(tunnel.local, tunnel.remote, remote_port=tunnel.remote_port)
                inside = self.nat.back(ends, self.now)
                if inside is None or inside.local not in self.present():
                    return False
            elif tunnel.remote not in self.present():
                return False
        return True

    def _send(self, packet: bytes, *, to_home_agent: bool, outer: UdpEnds | None = None) -> None:
        if self.random.random() < self.weather.loss:
            return
        for _ in range(2 if self.random.random() < self.weather.repetition else 1):
            self._number += 1
            arrives = self.now + self.random.uniform(0.01, self.weather.delay)
            heapq.heappush(self._under_way, Arrival(arrives, self._number, to_home_agent, packet, outer))

    def _home_agent_does(self, actions: Iterable[Action], why: str) -> None:
        self._note("home agent:", why)
        for action in actions:
            if isinstance(action, StoreNode):
                self.watch.stored(action.record, self.home_offset, self.now)
                if action.record is None:
                    del self.store[action.home_address]
                else:
                    self.store[action.home_address] = action.record
            elif isinstance(action, SendPacket):
                self._from_home_agent(action)
            self._note_action(action)
        self._deadlines["home agent"] = _time_of(self.home_agent.next_deadline())
        self.watch.home_agent_acted(self.home_agent, self.now)
        self._time_passed()

    def _note(self, text: str, more: object = "") -> None:
        self._log.append((self.now, text, more))

    def _note_action(self, action: Action) -> None:
        if isinstance(action, Report):
            self._note(f"  {action.event}", action.fields)
        elif isinstance(action, Answer):
            del self.asked[action.number]  # each is answered once
            self.answers[action.number] = action.answer
            self._note("  answer", action.answer)

    def _time_passed(self) -> None:
        assert all(self.now <= limit for limit in self.asked.values()), "a change of rules was not answered in time"
        self.watch.time_passed(self.now)


def _time_of(deadline: tuple[float, str] | None) -> float | None:
    return None if deadline is None else deadline[0]


def guarded_by_sequence(
    home_agent: HomeAgentSettings, mobile_node: MobileNodeSettings
) -> tuple[HomeAgentSettings, MobileNodeSettings]:
    """The same pair with sequence numbers for replay protection instead of timestamps."""
    nodes = tuple(replace(one, replay="sequence") for one in home_agent.nodes)
    return replace(home_agent, nodes=nodes), replace(mobile_node, replay="sequence")
