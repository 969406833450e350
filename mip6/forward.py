"""What a forwarding table means: the reference of every data plane.

`encapsulate` is for packets that the routes sent into the tunnel device, `decapsulate` for outer packets of an access
link, after the kernel has put their fragments together. `mip6.pathmtu` has what follows from ICMP errors about these.

Hop limit (RFC 2473 §3.1): one decrement per tunnel. The kernel has made it when it forwarded a packet into the tunnel
device, and a packet that starts on this machine is not forwarded; so nothing is decremented here. Behind the tunnel the
kernel decrements again, as any router does, where it forwards the inner packet further.
"""

from __future__ import annotations

from dataclasses import dataclass

from mip6.errors import Error, error_about, forwardable, largest
from mip6.forwarding import DropReason, End, FlowRule, IPAddress, Node, Tunnel
from mip6.lookup import Lookup
from mip6.matching import matches
from mip6.memory import Memory, SharedFlow
from mip6.numbers import Protocol
from mip6.outer import INSIDE, outer_packets
from mip6.packet import Parsed, parse
from mip6.sharing import flow_of

_CONGESTION_EXPERIENCED, _ECT1, _ECT0 = 3, 1, 2


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of an inner packet: the whole outer packets that carry it over one tunnel, several if fragmented."""

    tunnel: Tunnel
    packets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """An inner packet of `size` octets leaves over one tunnel or, n-casting, over several. `flow` is what is remembered
    of its flow where a rule with weights chose the tunnel."""

    node: Node
    size: int
    copies: tuple[Copy, ...]
    flow: SharedFlow | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """The headers of an outer packet. `protocol`: 41, 4 or 17, with UDP and then its source and destination `ports`.

    The UDP checksum is not looked at here: a socket does, and the inner packet has its own.
    """

    source: IPAddress
    destination: IPAddress
    traffic_class: int
    protocol: int = Protocol.IPV6
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The inner packet of a tunnel packet, for the local stack. `first`: it is n-cast, and no copy came before."""

    node: Node
    tunnel: Tunnel
    packet: bytes
    first: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """Discarded. `error` is the ICMP error for the inner sender, to be rate limited (RFC 4443 §2.4 (f)); `duplicate`
    is what a duplicate would have been delivered as."""

    reason: DropReason
    error: bytes | None = None
    duplicate: Delivered | None = None


def encapsulate(
    lookup: Lookup, packet: bytes, memory: Memory, identification: int, now: float
) -> Encapsulated | Dropped:
    """What becomes of a packet read from the tunnel device at `now`, in seconds of a clock that never jumps.
    `identification` is for the outer fragments, if any."""
    table = lookup.table
    parsed = parse(packet)
    if parsed is None:
        return Dropped(DropReason.MALFORMED)
    if not (forwardable(parsed.source) and forwardable(parsed.destination)):
        return Dropped(DropReason.NOT_FORWARDABLE)
    packet = packet[: parsed.length]
    uplink = table.end is End.MOBILE_NODE
    node = lookup.owner(parsed.source if uplink else parsed.destination)
    if node is None:
        if uplink:  # a mobile router's ingress check, RFC 3963 §9
            return Dropped(DropReason.SOURCE_NOT_OWNED)
        # RFC 4443 §3.1; a node without tunnels is about to have one: silence
        return Dropped(DropReason.NO_NODE, error_about(table, packet, parsed, Error.NO_ADDRESS))
    rule = _rule(node, parsed, uplink, memory)
    if rule is not None and rule.drop:
        # a policy without a working link is no route: that ends no connection which lives longer (RFC 1122 §4.2.3.9)
        error = error_about(table, packet, parsed, Error.NO_ROUTE) if rule.unreachable else None
        return Dropped(DropReason.RULE, error)
    tunnels = _tunnels(node, rule)
    if not tunnels:
        return Dropped(DropReason.NO_TUNNEL)
    flow = None
    if rule is not None and rule.weights:
        weights = dict(zip(rule.bids, rule.weights, strict=True))
        weighted = [(tunnel, weights[tunnel.bid]) for tunnel in tunnels]
        chosen, flow = memory.flows.tunnel(flow_of(parsed, uplink), weighted, now)
        tunnels = (chosen,)
    if any((parsed.source, parsed.destination) == (tunnel.local, tunnel.remote) for tunnel in tunnels):
        return Dropped(DropReason.LOOP)  # RFC 2473 §4.1.2
    if parsed.hop_limit == 0:
        return Dropped(DropReason.HOP_LIMIT, error_about(table, packet, parsed, Error.TIME_EXCEEDED))
    limit = largest(parsed, min(tunnel.mtu for tunnel in tunnels))
    if len(packet) > limit:  # RFC 2473 §7.1 (a), §7.2 (a)
        return Dropped(DropReason.TOO_BIG, error_about(table, packet, parsed, Error.TOO_BIG, limit))
    copies = tuple(
        Copy(one, outer_packets(one, packet, parsed.traffic_class, identification, table.zero_checksum))
        for one in tunnels
    )
    return Encapsulated(node, len(packet), copies, flow)


def decapsulate(lookup: Lookup, outer: Arrival, inner: bytes, memory: Memory, now: float) -> Delivered | Dropped:
    """What becomes at `now` of `inner`, the payload of an outer packet."""
    ports = outer.ports and (outer.ports[1], outer.ports[0])
    candidates = lookup.between(outer.destination, outer.source, ports)
    if not candidates:
        known = lookup.is_local(outer.destination)
        return Dropped(DropReason.UNKNOWN_OUTER_SOURCE if known else DropReason.UNKNOWN_OUTER_DESTINATION)
    inside = INSIDE.get(inner[0] >> 4) if inner else None
    if inner and (inside is None or outer.protocol not in (inside, Protocol.UDP)):
        return Dropped(DropReason.INNER_PROTOCOL)
    parsed = parse(inner)
    if parsed is None:
        return Dropped(DropReason.MALFORMED)
    if not (forwardable(parsed.source) and forwardable(parsed.destination)):
        return Dropped(DropReason.NOT_FORWARDABLE)
    uplink = lookup.table.end is End.HOME_AGENT
    owner = lookup.owner(parsed.source if uplink else parsed.destination)
    mine = next((one for one in candidates if one[0] is owner), None)
    if owner is None or mine is None:  # RFC 6275 §10.4.5, RFC 3963 §6.3
        return Dropped(DropReason.SOURCE_NOT_OWNED if uplink else DropReason.DESTINATION_NOT_OWNED)
    ecn = decapsulated_ecn(parsed.traffic_class & 3, outer.traffic_class & 3)
    if ecn is None:
        return Dropped(DropReason.ECN)
    packet = inner[: parsed.length]
    copied = lookup.table.eliminate_duplicates and _is_copied(owner, parsed, uplink)
    repeated = copied and memory.is_duplicate(packet, mine[1].bid, now)
    if ecn != parsed.traffic_class & 3:
        packet = _with_ecn(packet, ecn)
    delivered = Delivered(*mine, packet, copied)
    return Dropped(DropReason.DUPLICATE, duplicate=delivered) if repeated else delivered


def decapsulated_ecn(inner: int, outer: int) -> int | None:
    """The ECN field of the delivered packet, None when it is to be dropped (RFC 6040 §4.2, figure 4)."""
    if outer == _CONGESTION_EXPERIENCED:
        return _CONGESTION_EXPERIENCED if inner else None
    if inner == _ECT0 and outer == _ECT1:
        return _ECT1
    return inner


def _with_ecn(packet: bytes, ecn: int) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:1] + bytes((packet[1] & 0xCF | ecn << 4,)) + packet[2:]
    tos = packet[1] & 0xFC | ecn  # and the header checksum that follows from it (RFC 1624 §3)
    checksum = (int.from_bytes(packet[10:12], "big") + packet[1] - tos) % 0xFFFF
    return packet[:1] + bytes((tos,)) + packet[2:10] + checksum.to_bytes(2, "big") + packet[12:]


def _rule(node: Node, packet: Parsed, uplink: bool, memory: Memory) -> FlowRule | None:
    """The flow rule that decides about a packet: the first active one that matches (RFC 6089 §5.3.6)."""
    if packet.protocol == Protocol.MOBILITY:
        return None  # signalling is exempt from flow rules
    recalled = memory.fragments.recall(packet)
    if recalled is not None:
        rule = recalled[0]
        if rule is None or any(rule is one and _active(node, one) for one in node.rules):
            return rule
    found = (one for one in node.rules if _active(node, one) and matches(one.selector, packet, uplink))
    rule = next(found, None)
    memory.fragments.remember(packet, rule)
    return rule


def _is_copied(node: Node, packet: Parsed, uplink: bool) -> bool:
    """Whether the far end may n-cast a packet, as far as can be seen: signalling is exempt from flow rules."""
    if packet.protocol == Protocol.MOBILITY:
        return False
    return any(matches(selector, packet, uplink, partly=True) for selector in node.copied)


def _active(node: Node, rule: FlowRule) -> bool:
    return rule.drop or any(tunnel.usable and tunnel.bid in rule.bids for tunnel in node.tunnels)


def _tunnels(node: Node, rule: FlowRule | None) -> tuple[Tunnel, ...]:
    """Every usable tunnel of the rule; without one, the first usable tunnel."""
    usable = tuple(tunnel for tunnel in node.tunnels if tunnel.usable)
    return usable[:1] if rule is None else tuple(tunnel for tunnel in usable if tunnel.bid in rule.bids)
