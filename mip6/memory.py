"""What a data plane remembers from packet to packet. All of it is bounded, and forgetting is always allowed."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address

from mip6.duplicates import DuplicateFilter, content_of
from mip6.forwarding import FlowRule, Tunnel
from mip6.packet import Parsed
from mip6.sharing import Flow, choose

FRAGMENTS_REMEMBERED = 1024
FLOWS_REMEMBERED = 65536
FLOW_IDLE = 60.0  # seconds without a packet, after which a flow that goes on is a new one
_CHANCES = 16  # how many flows that are in use are passed over in search of one that is not
_Key = tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address, int, int]


class FragmentMemory:
    """Which rule the first fragment of a packet met, so that the others follow it (RFC 6089 §5.3.6)."""

    def __init__(self) -> None:
        self._rules: dict[_Key, FlowRule | None] = {}

    def remember(self, packet: Parsed, rule: FlowRule | None) -> None:
        """Note the rule of a first fragment; any other packet is left alone."""
        key = _fragmented(packet)
        if key is not None and packet.fragment is not None and packet.fragment.offset == 0:
            self._rules.pop(key, None)
            if len(self._rules) >= FRAGMENTS_REMEMBERED:
                del self._rules[next(iter(self._rules))]
            self._rules[key] = rule

    def recall(self, packet: Parsed) -> tuple[FlowRule | None] | None:
        """The rule in a tuple, None when the first fragment was not seen."""
        if packet.fragment is None or packet.fragment.offset == 0:
            return None
        key = _fragmented(packet)
        return (self._rules[key],) if key in self._rules else None


def _fragmented(packet: Parsed) -> _Key | None:
    """What the fragments of one packet have in common (RFC 8200 §4.5; in IPv4 the protocol too, RFC 791 §3.2)."""
    if packet.fragment is None:
        return None
    protocol = packet.protocol if packet.version == 4 else 0
    return packet.source, packet.destination, protocol, packet.fragment.identification


class SharedFlow:
    """A flow that a rule with weights sent over the tunnel `bid`; its last packet was `seen` then, in seconds."""

    __slots__ = ("_queued", "bid", "seen")

    def __init__(self, bid: int, now: float) -> None:
        self.bid, self.seen, self._queued = bid, now, now

    def has_another_chance(self) -> bool:
        """Whether it was seen since it was asked for the last time."""
        used, self._queued = self.seen > self._queued, self.seen
        return used


class FlowMemory:
    """Which tunnel a shared flow goes over, so that it keeps it while others and their weights change. What was unused
    for longest is forgotten first, or nearly."""

    def __init__(self) -> None:
        self._flows: OrderedDict[Flow, SharedFlow] = OrderedDict()

    def tunnel(self, flow: Flow, tunnels: list[tuple[Tunnel, int]], now: float) -> tuple[Tunnel, SharedFlow]:
        """The tunnel for the next packet of a flow, of usable ones with their weights. A flow that was idle, or whose
        tunnel is not among them, chooses anew."""
        known = self._flows.get(flow)
        if known is not None and now - known.seen <= FLOW_IDLE:
            for tunnel, _ in tunnels:
                if tunnel.bid == known.bid:
                    known.seen = now
                    return tunnel, known
        even = not any(weight for _, weight in tunnels)
        bid = choose(flow, ((tunnel.bid, 1 if even else weight) for tunnel, weight in tunnels))
        known = SharedFlow(bid, now)
        self._flows.pop(flow, None)
        if len(self._flows) >= FLOWS_REMEMBERED:
            self._forget_one()
        self._flows[flow] = known
        return next(tunnel for tunnel, _ in tunnels if tunnel.bid == bid), known

    def _forget_one(self) -> None:
        for _ in range(_CHANCES):
            flow, known = self._flows.popitem(last=False)
            if not known.has_another_chance():
                return
            self._flows[flow] = known
        self._flows.popitem(last=False)


class Memory:
    """All of it together, for one data plane. It outlives the tables."""

    def __init__(self) -> None:
        self.fragments = FragmentMemory()
        self.flows = FlowMemory()
        self.duplicates = DuplicateFilter()

    def is_duplicate(self, packet: bytes, path: int, now: float) -> bool:
        """Whether an n-cast inner packet that came at `now` over `path` (a BID) is to be dropped. To be asked once for
        each."""
        return self.duplicates.is_duplicate(content_of(packet), path, now)
