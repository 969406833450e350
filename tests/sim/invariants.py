"""What must hold after every step of a history, and what must hold when all has been quiet for a while.

`Watch` keeps its own account, from the packets that arrive and the records that the home agent stores, so that it
does not believe the engine's word for what the engine did.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from homeagent.engine import HomeAgent
from homeagent.settings import HomeAgentSettings
from mip6.auth import ntp_difference, ntp_timestamp, verify
from mip6.forwarding import IPAddress
from mip6.headers import parse_packet
from mip6.messages import BindingUpdate, decode_message
from mip6.numbers import MessageType, Protocol
from mip6.options import AlternateCareOfAddress, BindingIdentifier
from mip6.udp import UdpEnds
from mobilenode.engine import MobileNode

MAX_UPDATE_RATE = 3  # Binding Updates in a second (RFC 6275 §12)
MH_TYPE = 2  # where it stands in a Mobility Header (RFC 6275 §6.1.1)
STORED_PRECISION = 0.002  # seconds: the store keeps milliseconds


class Watch:
    """The account of one history: authentic care-of addresses, stored bindings, accepted numbers, times of sending."""

    def __init__(self, settings: HomeAgentSettings) -> None:
        self._node = settings.nodes[0]
        self._authentic: set[IPAddress] = set()
        self._record: Mapping[str, Any] | None = None
        self._expires: dict[tuple[int, str], float] = {}
        self._sent: deque[float] = deque(maxlen=MAX_UPDATE_RATE + 1)

    def arriving(self, packet: bytes, outer: UdpEnds | None) -> None:
        """A packet on its way into the home agent: whose addresses it proves."""
        parsed = parse_packet(packet)
        if parsed.protocol != Protocol.MOBILITY:
            return
        message = decode_message(parsed.payload)
        if not isinstance(message, BindingUpdate):
            return
        key = self._node.associations[0]
        if not verify(parsed.payload, message, key, parsed.source, parsed.sender()):
            return
        self._authentic.add(parsed.source if outer is None else outer.remote)
        alternate: AlternateCareOfAddress | None = message.find(AlternateCareOfAddress)
        if alternate is not None:
            self._authentic.add(alternate.care_of_address)
        for one in message.find_all(BindingIdentifier):
            if one.care_of_address is not None:
                self._authentic.add(one.care_of_address)

    def sent_by_mobile_node(self, packet: bytes, now: float) -> None:
        """RFC 6275 §11.8: the rate of Binding Updates is bounded."""
        parsed = parse_packet(packet)
        if parsed.protocol != Protocol.MOBILITY or parsed.payload[MH_TYPE] != MessageType.BINDING_UPDATE:
            return
        self._sent.append(now)
        if len(self._sent) > MAX_UPDATE_RATE:
            took = self._sent[-1] - self._sent[0]
            assert took > 1 - 1e-6, f"{MAX_UPDATE_RATE + 1} Binding Updates in {took:.3f} s"

    def mobile_node_restarted(self) -> None:
        """A new run of the mobile node knows nothing of what the last one sent."""
        self._sent.clear()

    def restarted(self, record: Mapping[str, Any] | None, offset: float) -> None:
        """The home agent starts again with this record of its store, or with none."""
        self._account(record, offset)

    def stored(self, record: Mapping[str, Any] | None, offset: float, now: float) -> None:
        """The home agent stores a record: the numbers it accepted do not go back; a timestamp only where its clock did,
        and then the sequence number tells a replay."""
        before, guarded = self._record, False
        assert record is not None, "the record of a configured node holds its replay protection"
        if before is not None:
            if before["timestamp"]:
                back = ntp_difference(before["timestamp"], record["timestamp"])
                ahead = ntp_difference(before["timestamp"], ntp_timestamp(now + offset))
                assert back <= 0 or ahead > self._node.timestamp_window, f"accepted timestamp went back by {back} s"
                guarded = back > 0
            if before["bindings"] or self._node.replay == "sequence" or guarded:
                step = (record["sequence"] - before["sequence"]) % 65536
                assert step <= 32767, f"accepted sequence number {before['sequence']} became {record['sequence']}"
        self._account(record, offset)

    def _account(self, record: Mapping[str, Any] | None, offset: float) -> None:
        self._record = record
        bindings = [] if record is None else record["bindings"]
        self._expires = {(one[0], str(ip_address(one[1]))): one[4] - offset for one in bindings}

    def home_agent_acted(self, home_agent: HomeAgent, now: float) -> None:
        """What its forwarding table, its status and the stored record say of it is the same, and authentic."""
        home = self._node.home_address
        node = home_agent.forwarding_table().nodes.get(home)
        tunnels = () if node is None else node.tunnels
        bids = [one.bid for one in tunnels]
        assert len(bids) == len(set(bids)), f"more than one binding of a BID: {bids}"
        forwarded = {(one.bid, str(one.remote)) for one in tunnels}
        shown = [(one["bid"], one["care_of_address"]) for one in home_agent.status(now)["nodes"][0]["bindings"]]
        assert sorted(forwarded) == sorted(shown), f"forwarded {sorted(forwarded)}, status {sorted(shown)}"
        assert forwarded == set(self._expires), f"forwarded {forwarded}, stored {set(self._expires)}"
        strangers = {one.remote for one in tunnels} - self._authentic
        assert not strangers, f"forwarded to {strangers}, which no authentic Binding Update named"

    def mobile_node_acted(self, mobile_node: MobileNode, present: set[IPAddress]) -> None:
        """It sends from what is `present` on its links."""
        home = self._node.home_address
        sending = mobile_node.forwarding_table().nodes.get(home)  # none before the first look at the links
        for tunnel in () if sending is None else sending.tunnels:
            assert tunnel.local in present, f"the mobile node sends from {tunnel.local}, which it has not"

    def time_passed(self, now: float) -> None:
        """The home agent forwards to what is stored, as of its last step: none of that has expired since."""
        for one, expires in self._expires.items():
            assert now <= expires + STORED_PRECISION, f"{one} is forwarded to, but expired at {expires:.3f}"


def agree(home_agent: HomeAgent, mobile_node: MobileNode, settings: HomeAgentSettings, now: float) -> None:
    """After quiet time with links up: registered, and both ends hold the same bindings and flows."""
    mine = mobile_node.status(now)
    yours = home_agent.status(now)["nodes"][0]
    assert mine["state"] == "registered", f"the mobile node is {mine['state']}"
    registered = [one for one in mine["bindings"] if one["state"] == "registered"]
    held = {one["bid"]: (one["care_of_address"], one["encapsulation"]) for one in registered}
    cached = {one["bid"]: (one["inside"] or one["care_of_address"], one["encapsulation"]) for one in yours["bindings"]}
    assert held == cached, f"binding update list {held}, binding cache {cached}"
    assert mine["ipv4_home_address"] == yours["ipv4_home_address"], "the IPv4 home addresses differ"
    if settings.multiple_bindings:
        states = {one["bid"]: one["state"] for one in mine["bindings"]}
        assert len(held) == len(states), f"not all links are registered: {states}"
    flows = {}
    if settings.multiple_bindings and settings.flow_bindings:
        flows = {one["fid"]: tuple(one["down_bids"]) for one in mine["flows"] if one["down_bids"]}
    bound = {one["fid"]: tuple(one["bids"]) for one in yours["flows"]}
    assert flows == bound, f"flows of the mobile node {flows}, of the home agent {bound}"
