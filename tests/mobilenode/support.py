"""A mobile node with two links and a scripted home agent: the codecs as the other end, without its logic.

`World` drives the engine by its own deadlines and keeps what it sent; a test decides what is answered and when.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from random import Random

from mip6.actions import Action, Report, SendPacket
from mip6.auth import Algorithm, SecurityAssociation, sign, verify
from mip6.events import (
    AddressState,
    Event,
    LinksObserved,
    LinkState,
    PacketReceived,
    RouterState,
    TimerExpired,
    WallClockSet,
)
from mip6.forwarding import IPAddress, Node
from mip6.headers import SignallingPacket, build_packet, parse_packet
from mip6.messages import BindingAcknowledgement, BindingUpdate, Message, decode_message
from mip6.numbers import AckFlag, UpdateFlag
from mip6.options import BindingIdentifier, FlowIdentification, FlowSummary, MessageIdentification, Option
from mip6.selectors import IPv6Selector
from mip6.udp import UdpEnds
from mobilenode.engine import MobileNode
from mobilenode.settings import FlowSettings, LinkSettings, MobileNodeSettings, via

HOME = IPv6Address("2001:db8:100::5")
AGENT = IPv6Address("2001:db8:100::1")
WLAN = IPv6Address("2001:db8:a::77")
CELL = IPv6Address("2001:db8:b::77")
ROUTER, GATEWAY = IPv6Address("fe80::1"), IPv4Address("10.0.0.1")
PREFIX = IPv6Network("2001:db8:f00::/56")
KEY = SecurityAssociation(4096, Algorithm.HMAC_SHA1, bytes(range(16)))
NOON = 1_700_000_000.0
VOICE = FlowSettings(10, 10, "voice", IPv6Selector(next_header=(17, 17)), via("wwan0", "wlan0"))
SETTINGS = MobileNodeSettings(
    home_address=HOME,
    home_agents=(AGENT,),
    home_prefix=IPv6Network("2001:db8:100::/64"),
    identifier="mr@example.com",
    prefixes=(PREFIX,),
    mobile_router=True,
    association=KEY,
    links=(LinkSettings("wlan0", 1, 10), LinkSettings("wwan0", 2, 20)),
    flows=(VOICE,),
)


def link(name: str, *addresses: IPAddress | AddressState, up: bool = True, router: bool = True) -> LinkState:
    """One link as the kernel holds it, with a router of each family; plain addresses have /64, /24, nothing special."""
    states = tuple(
        one if isinstance(one, AddressState) else AddressState(one, 64 if one.version == 6 else 24) for one in addresses
    )
    families = {one.address.version for one in states} or {6}
    routers = [RouterState(ROUTER)] if 6 in families else []
    routers += [RouterState(GATEWAY)] if 4 in families else []
    return LinkState(name, 2, up, 1500, b"", states, tuple(routers) if router else ())


BOTH = (link("wlan0", WLAN), link("wwan0", CELL))


@dataclass(frozen=True)
class Sent:
    """One Binding Update that the mobile node sent."""

    time: float
    interface: str | None
    packet: SignallingPacket
    update: BindingUpdate
    outer: UdpEnds | None = None

    def bids(self) -> dict[int, object]:
        return {one.bid: one.care_of_address for one in self.update.find_all(BindingIdentifier)}

    def overwrites(self) -> bool:
        return bool(self.update.flags & UpdateFlag.OVERWRITE)

    def flows(self) -> dict[int, tuple[int, ...]]:
        """Flows stated in full: FID to BIDs."""
        found: dict[int, tuple[int, ...]] = {}
        for one in self.update.find_all(FlowIdentification):
            reference = one.binding_reference()
            found[one.fid] = reference.bids if reference else ()
        return found

    def summary(self) -> tuple[int, ...]:
        return tuple(fid for one in self.update.find_all(FlowSummary) for fid in one.fids)


class World:
    """The engine, its clock, and everything it did."""

    def __init__(self, settings: MobileNodeSettings = SETTINGS, seed: int = 1) -> None:
        self.settings = settings
        self.engine = MobileNode(settings, Random(seed))
        self.now = 0.0
        self.sent: list[Sent] = []
        self.other: list[SignallingPacket] = []
        self.actions: list[Action] = []
        self.give(WallClockSet(NOON))

    def give(self, event: Event) -> list[Action]:
        actions = self.engine.handle(event, self.now)
        self.actions += actions
        for action in actions:
            if isinstance(action, SendPacket):
                packet = parse_packet(action.packet)
                message = decode_message(packet.payload) if packet.protocol == 135 else None
                if isinstance(message, BindingUpdate):
                    assert packet.checksum_is_right() and len(action.packet) <= 1280
                    if self.settings.association is not None:
                        assert verify(
                            packet.payload, message, self.settings.association, packet.source, packet.sender()
                        )
                    self.sent.append(Sent(self.now, action.interface, packet, message, action.outer))
                else:
                    self.other.append(packet)
        return actions

    def links(self, *links: LinkState) -> list[Action]:
        return self.give(LinksObserved(links))

    def run(self, seconds: float) -> None:
        """Let time pass, waking the engine when it asked for it."""
        until = self.now + seconds
        for _ in range(10_000):
            deadline = self.engine.next_deadline()
            if deadline is None or deadline[0] > until:
                self.now = until
                return
            self.now = max(self.now, deadline[0])
            self.give(TimerExpired())
        raise AssertionError(f"the engine never rests: {self.engine.next_deadline()}")

    def receive(
        self,
        message: Message,
        *,
        to: IPv6Address = WLAN,
        source: IPv6Address = AGENT,
        key: SecurityAssociation | None = KEY,
        outer: UdpEnds | None = None,
    ) -> list[Action]:
        """A message of the home agent, signed, by type 2 routing header unless it goes to the home address."""
        mh: Message | bytes = message if key is None else sign(message, key, to, HOME)
        packet = build_packet(source, to, mh, routing_address=None if to == HOME else HOME)
        return self.give(PacketReceived(packet, "wlan0", outer=outer))

    def answer(
        self,
        sent: Sent | None = None,
        status: int = 0,
        *,
        lifetime: int = 600,
        bid_status: dict[int, int] | None = None,
        flow_status: dict[int, int] | None = None,
        change: Callable[[BindingAcknowledgement], BindingAcknowledgement] = lambda one: one,
        extra: tuple[Option, ...] = (),
        key: SecurityAssociation | None = KEY,
    ) -> list[Action]:
        """What a home agent would answer to a Binding Update, by default the last one."""
        sent = sent or self.sent[-1]
        options: list[Option] = list(extra)
        for one in sent.update.find_all(BindingIdentifier):
            options.append(BindingIdentifier(one.bid, (bid_status or {}).get(one.bid, 0), False, one.priority))
        for flow in sent.update.find_all(FlowIdentification):
            options.append(FlowIdentification(flow.fid, flow.priority, (flow_status or {}).get(flow.fid, 0)))
        for fid in sent.summary():
            if fid in (flow_status or {}):
                options.append(FlowIdentification(fid, 0, (flow_status or {})[fid]))
        stamp = sent.update.find(MessageIdentification)
        if stamp is not None:
            options.append(stamp)
        flags = AckFlag.MOBILE_ROUTER if sent.update.flags & UpdateFlag.MOBILE_ROUTER else AckFlag(0)
        granted = 0 if sent.update.lifetime == 0 else lifetime
        message = BindingAcknowledgement(status, flags, sent.update.sequence, granted, tuple(options))
        return self.receive(change(message), to=sent.packet.source, key=key, outer=sent.outer)

    # --- looking ------------------------------------------------------------------------------------------------------

    def state(self) -> str:
        return str(self.engine.status(self.now)["state"])

    def binding(self, bid: int) -> str:
        return next(str(one["state"]) for one in self.engine.status(self.now)["bindings"] if one["bid"] == bid)

    def count(self, name: str) -> int:
        return int(self.engine.status(self.now)["signalling"].get(name, 0))

    def node(self) -> Node:
        return self.engine.forwarding_table().nodes[HOME]

    def usable(self) -> list[int]:
        return [one.bid for one in self.node().tunnels if one.usable]

    def times(self, since: int = 0) -> list[float]:
        """When Binding Updates went out, relative to the first of them."""
        return [round(one.time - self.sent[since].time, 6) for one in self.sent[since:]]

    def reports(self) -> list[str]:
        return [one.event for one in self.actions if isinstance(one, Report)]


def registered(settings: MobileNodeSettings = SETTINGS) -> World:
    """A mobile node with both links registered, a second ago."""
    world = World(settings)
    world.links(*BOTH)
    world.answer()
    world.run(1.5)
    assert world.state() == "registered"
    return world


def with_flows(*flows: FlowSettings) -> MobileNodeSettings:
    return replace(SETTINGS, flows=flows)
