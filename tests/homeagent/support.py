"""A scripted mobile node for the home agent's tests: it signs Binding Updates and reads the answers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from homeagent.engine import HomeAgent
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6 import actions, events
from mip6.auth import Algorithm, SecurityAssociation, ntp_timestamp, sign, verify
from mip6.forwarding import IPAddress
from mip6.headers import SignallingPacket, build_packet, parse_packet
from mip6.messages import BindingAcknowledgement, BindingUpdate, Message, decode_message, encode_message
from mip6.numbers import UpdateFlag
from mip6.options import BindingIdentifier, MessageIdentification, MobileNodeIdentifier, Option
from mip6.udp import UdpEnds

HA = IPv6Address("2001:db8:100::1")
HOME = IPv6Address("2001:db8:100::5")
WLAN = IPv6Address("2001:db8:a::77")
CELLULAR = IPv6Address("2001:db8:b::77")
PREFIX = IPv6Network("2001:db8:f00::/56")
KEY = SecurityAssociation(4096, Algorithm.HMAC_SHA1, bytes(range(16)))
KEY256 = SecurityAssociation(4097, Algorithm.HMAC_SHA256, bytes(range(16, 48)))
ROUTER = NodeSettings(HOME, "mr@example.com", True, (PREFIX,), associations=(KEY, KEY256))
HOST = NodeSettings(IPv6Address("2001:db8:100::6"), "mn@example.com", associations=(KEY,))
SETTINGS = HomeAgentSettings(HA, (IPv6Network("2001:db8:100::/64"),), nodes=(ROUTER, HOST))
U = UpdateFlag
AHR = U.ACKNOWLEDGE | U.HOME_REGISTRATION | U.MOBILE_ROUTER
AHRO = AHR | U.OVERWRITE
WALL = 1_700_000_000.0


def bid(number: int, care_of: IPAddress | None = None, priority: int | None = None) -> BindingIdentifier:
    return BindingIdentifier(number, 0, False, 10 * number if priority is None else priority, care_of)


@dataclass
class Script:
    """A home agent and a node that talks to it. `now` moves on a little with every message."""

    settings: HomeAgentSettings = SETTINGS
    node: NodeSettings = ROUTER
    association: SecurityAssociation = KEY
    now: float = 100.0
    sequence: int = 0
    seen: list[actions.Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agent = HomeAgent(self.settings, random.Random(1))
        self.agent.handle(events.WallClockSet(WALL), self.now)

    def packet(
        self,
        *options: Option,
        flags: UpdateFlag = AHR,
        lifetime: int = 600,
        sequence: int | None = None,
        source: IPv6Address = WLAN,
        home_option: bool = True,
        signed: bool = True,
        stamp: int | None = None,
        association: SecurityAssociation | None = None,
        outer: UdpEnds | None = None,
    ) -> bytes:
        self.sequence = self.sequence + 1 if sequence is None else sequence
        home = self.node.home_address
        if outer is not None:  # RFC 5555 §4.2: inside UDP the source is the home address
            source, home_option = home, False
        update: Message = BindingUpdate(self.sequence % 65536, flags, lifetime, options)
        if signed:
            assert self.node.identifier is not None
            extra: tuple[Option, ...] = (MobileNodeIdentifier(1, self.node.identifier.encode()),)
            if stamp != 0:
                extra += (MessageIdentification(stamp or ntp_timestamp(self.now + WALL)),)
            update = update.with_options((*update.options, *extra))
            mh = sign(update, association or self.association, source, home)
        else:
            mh = encode_message(update)
        return build_packet(source, HA, mh, home_address=home if home_option else None)

    def give(self, packet: bytes, outer: UdpEnds | None = None) -> list[actions.Action]:
        self.now += 0.01
        link_layer = b"\x02\0\0\0\0\7" if outer is None else b""
        self.seen = self.agent.handle(events.PacketReceived(packet, "eth0", link_layer, outer), self.now)
        return self.seen

    def update(self, *options: Option, **how: object) -> BindingAcknowledgement:
        """Send a Binding Update; the acknowledgement, which must be authentic and in the same encapsulation."""
        outer = how.get("outer")
        assert outer is None or isinstance(outer, UdpEnds)
        self.give(self.packet(*options, **how), outer)  # type: ignore[arg-type]
        assert {one.outer for one in self.seen if isinstance(one, actions.SendPacket)} == {outer}
        answer, message = self.answer()
        assert isinstance(message, BindingAcknowledgement)
        if how.get("signed", True):
            association = how.get("association") or self.association
            assert isinstance(association, SecurityAssociation)
            assert verify(answer.payload, message, association, answer.destination, self.node.home_address)
        return message

    def answer(self) -> tuple[SignallingPacket, Message]:
        """The one packet that was sent."""
        (sent,) = [one for one in self.seen if isinstance(one, actions.SendPacket)]
        packet = parse_packet(sent.packet)
        assert packet.checksum_is_right()
        return packet, decode_message(packet.payload)

    def silence(self, packet: bytes, outer: UdpEnds | None = None) -> bool:
        return not [one for one in self.give(packet, outer) if isinstance(one, actions.SendPacket)]

    def bindings(self) -> dict[int, str]:
        (node,) = [n for n in self.agent.status(self.now)["nodes"] if n["home_address"] == str(self.node.home_address)]
        return {one["bid"]: one["care_of_address"] for one in node["bindings"]}

    def flows(self) -> dict[int, list[int]]:
        (node,) = [n for n in self.agent.status(self.now)["nodes"] if n["home_address"] == str(self.node.home_address)]
        return {one["fid"]: one["bids"] for one in node["flows"]}

    def pass_time(self, seconds: float) -> list[actions.Action]:
        """Let time pass; every deadline on the way rings."""
        end, result = self.now + seconds, []
        while (due := self.agent.next_deadline()) is not None and due[0] <= end:
            self.now = max(self.now, due[0])
            result += self.agent.handle(events.TimerExpired(), self.now)
        self.now = end
        return result
