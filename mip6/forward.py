"""What a forwarding table means: the reference of every data plane.

`encapsulate` is for packets that the routes sent into the tunnel device, `decapsulate` for outer packets of an access
link, after the kernel has put their fragments together; `path_mtu_changed` is for ICMPv6 errors about outer packets.

Hop limit (RFC 2473 §3.1): one decrement per tunnel. The kernel has made it when it forwarded a packet into the tunnel
device, and a packet that starts on this machine is not forwarded; so nothing is decremented here. Behind the tunnel the
kernel decrements again, as any router does, where it forwards the inner packet further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Protocol as Interface

from mip6.events import PathMtuChanged
from mip6.forwarding import (
    IPV6_HEADER,
    MINIMUM_MTU,
    DropReason,
    End,
    FlowRule,
    ForwardingTable,
    IPAddress,
    Node,
    Tunnel,
)
from mip6.matching import matches
from mip6.numbers import Icmp6Type, Protocol
from mip6.packet import Parsed, parse
from mip6.wire import internet_checksum, pseudo_header

OUTER_HOP_LIMIT = 64  # RFC 2473 §6.3: the default of the node
FRAGMENTS_REMEMBERED = 1024
_FRAGMENT_HEADER = 8
_CONGESTION_EXPERIENCED, _ECT1, _ECT0 = 3, 1, 2
_ADDRESS_UNREACHABLE = 3  # code of destination unreachable


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of an inner packet: the whole outer packets that carry it over one tunnel, several if fragmented."""

    tunnel: Tunnel
    packets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """An inner packet of `size` octets leaves over one tunnel or, n-casting, over several."""

    node: Node
    size: int
    copies: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The inner packet of a tunnel packet, for the local stack."""

    node: Node
    tunnel: Tunnel
    packet: bytes


@dataclass(frozen=True, slots=True)
class Dropped:
    """Discarded. `error` is the ICMPv6 error for the inner sender, to be rate limited (RFC 4443 §2.4 (f))."""

    reason: DropReason
    error: bytes | None = None


class Lookup(Interface):
    """The two questions that a table is asked. Among equal prefixes the lowest home address wins."""

    table: ForwardingTable

    def owner(self, address: IPv6Address) -> Node | None:
        """The node that owns an inner address, by longest prefix."""

    def between(self, local: IPAddress, remote: IPAddress) -> Sequence[tuple[Node, Tunnel]]:
        """The tunnels with these ends, and whose they are."""

    def is_local(self, address: IPAddress) -> bool:
        """Whether a tunnel ends here at this address."""


class Plain:
    """The lookup that cannot be wrong: it goes through the whole table."""

    def __init__(self, table: ForwardingTable) -> None:
        self.table = table

    def owner(self, address: IPv6Address) -> Node | None:
        found: list[tuple[int, IPv6Address, Node]] = []
        for node in self.table.nodes.values():
            lengths = [prefix.prefixlen for prefix in node.prefixes if address in prefix]
            lengths += [128] * (address == node.home_address)
            if lengths:
                found.append((-max(lengths), node.home_address, node))
        return min(found, key=lambda one: one[:2])[2] if found else None

    def between(self, local: IPAddress, remote: IPAddress) -> Sequence[tuple[Node, Tunnel]]:
        return [
            (node, tunnel)
            for node in self.table.nodes.values()
            for tunnel in node.tunnels
            if (tunnel.local, tunnel.remote) == (local, remote)
        ]

    def is_local(self, address: IPAddress) -> bool:
        if self.table.end is End.HOME_AGENT and address == self.table.address:
            return True
        return any(tunnel.local == address for node in self.table.nodes.values() for tunnel in node.tunnels)


class FragmentMemory:
    """Which rule the first fragment of a packet met, so that the others follow it (RFC 6089 §5.3.6). Bounded."""

    def __init__(self) -> None:
        self._rules: dict[tuple[IPv6Address, IPv6Address, int], FlowRule | None] = {}

    def remember(self, packet: Parsed, rule: FlowRule | None) -> None:
        if packet.fragment is not None:
            key = (packet.source, packet.destination, packet.fragment.identification)
            self._rules.pop(key, None)
            if len(self._rules) >= FRAGMENTS_REMEMBERED:
                del self._rules[next(iter(self._rules))]
            self._rules[key] = rule

    def recall(self, packet: Parsed) -> tuple[FlowRule | None] | None:
        """The rule in a tuple, None when the first fragment was not seen."""
        if packet.fragment is None or packet.fragment.offset == 0:
            return None
        key = (packet.source, packet.destination, packet.fragment.identification)
        return (self._rules[key],) if key in self._rules else None


def encapsulate(
    lookup: Lookup, packet: bytes, fragments: FragmentMemory, identification: int
) -> Encapsulated | Dropped:
    """What becomes of a packet read from the tunnel device. `identification` is for the outer fragments, if any."""
    table = lookup.table
    parsed = parse(packet)
    if parsed is None:
        return Dropped(DropReason.MALFORMED)
    if not (_forwardable(parsed.source) and _forwardable(parsed.destination)):
        return Dropped(DropReason.NOT_FORWARDABLE)
    packet = packet[: parsed.length]
    uplink = table.end is End.MOBILE_NODE
    node = lookup.owner(parsed.source if uplink else parsed.destination)
    if node is None:
        if uplink:  # a mobile router's ingress check, RFC 3963 §9
            return Dropped(DropReason.SOURCE_NOT_OWNED)
        error = _error(table.address, packet, parsed, Icmp6Type.DESTINATION_UNREACHABLE, 0, _ADDRESS_UNREACHABLE)
        return Dropped(DropReason.NO_NODE, error)  # RFC 4443 §3.1; a node without tunnels is about to have one: silence
    rule = _rule(node, parsed, uplink, fragments)
    if rule is not None and rule.drop:
        return Dropped(DropReason.RULE)
    tunnels = _tunnels(node, rule)
    if not tunnels:
        return Dropped(DropReason.NO_TUNNEL)
    if any((parsed.source, parsed.destination) == (tunnel.local, tunnel.remote) for tunnel in tunnels):
        return Dropped(DropReason.LOOP)  # RFC 2473 §4.1.2
    if parsed.hop_limit == 0:
        return Dropped(DropReason.HOP_LIMIT, _error(table.address, packet, parsed, Icmp6Type.TIME_EXCEEDED, 0))
    smallest = min(tunnel.mtu for tunnel in tunnels)
    if len(packet) > max(smallest, MINIMUM_MTU):  # RFC 2473 §7.1 (a)
        mtu = max(smallest, MINIMUM_MTU)
        return Dropped(DropReason.TOO_BIG, _error(table.address, packet, parsed, Icmp6Type.PACKET_TOO_BIG, mtu))
    copies = (Copy(one, _outer(one, packet, parsed.traffic_class, identification)) for one in tunnels)
    return Encapsulated(node, len(packet), tuple(copies))


def decapsulate(
    lookup: Lookup, source: IPv6Address, destination: IPv6Address, traffic_class: int, inner: bytes
) -> Delivered | Dropped:
    """What becomes of the payload `inner` of an outer packet with these header fields."""
    candidates = lookup.between(destination, source)
    if not candidates:
        known = lookup.is_local(destination)
        return Dropped(DropReason.UNKNOWN_OUTER_SOURCE if known else DropReason.UNKNOWN_OUTER_DESTINATION)
    if inner and inner[0] >> 4 != 6:
        return Dropped(DropReason.INNER_PROTOCOL)
    parsed = parse(inner)
    if parsed is None:
        return Dropped(DropReason.MALFORMED)
    if not (_forwardable(parsed.source) and _forwardable(parsed.destination)):
        return Dropped(DropReason.NOT_FORWARDABLE)
    uplink = lookup.table.end is End.HOME_AGENT
    owner = lookup.owner(parsed.source if uplink else parsed.destination)
    mine = next((one for one in candidates if one[0] is owner), None)
    if mine is None:  # RFC 6275 §10.4.5, RFC 3963 §6.3
        return Dropped(DropReason.SOURCE_NOT_OWNED if uplink else DropReason.DESTINATION_NOT_OWNED)
    ecn = decapsulated_ecn(parsed.traffic_class & 3, traffic_class & 3)
    if ecn is None:
        return Dropped(DropReason.ECN)
    packet = inner[: parsed.length]
    if ecn != parsed.traffic_class & 3:
        packet = packet[:1] + bytes((packet[1] & 0xCF | ecn << 4,)) + packet[2:]
    return Delivered(*mine, packet)


def decapsulated_ecn(inner: int, outer: int) -> int | None:
    """The ECN field of the delivered packet, None when it is to be dropped (RFC 6040 §4.2, figure 4)."""
    if outer == _CONGESTION_EXPERIENCED:
        return _CONGESTION_EXPERIENCED if inner else None
    if inner == _ECT0 and outer == _ECT1:
        return _ECT1
    return inner


def path_mtu_changed(lookup: Lookup, message: bytes) -> PathMtuChanged | None:
    """The event for an ICMPv6 message, if it is a packet too big about a packet of a tunnel of the table and lowers its
    MTU. One that names less than 1280 is discarded (RFC 8201 §4)."""
    quoted = message[8:]
    if len(quoted) < IPV6_HEADER or message[0] != Icmp6Type.PACKET_TOO_BIG or quoted[0] >> 4 != 6:
        return None
    fragment = quoted[6] == Protocol.FRAGMENT and quoted[IPV6_HEADER : IPV6_HEADER + 1] == bytes((Protocol.IPV6,))
    if quoted[6] != Protocol.IPV6 and not fragment:
        return None
    mtu = int.from_bytes(message[4:8], "big")
    local, remote = IPv6Address(quoted[8:24]), IPv6Address(quoted[24:40])
    known = max((tunnel.mtu for _, tunnel in lookup.between(local, remote)), default=0)
    return PathMtuChanged(local, remote, mtu) if MINIMUM_MTU <= mtu < known + IPV6_HEADER else None


def relayed_too_big(lookup: Lookup, message: bytes) -> bytes | None:
    """The packet too big for the inner sender that follows from one about an outer packet, when so much of the inner
    packet is quoted that its sender is known, and it was larger than 1280 (RFC 2473 §8.1, §8.2)."""
    changed = path_mtu_changed(lookup, message)
    inner = message[8 + IPV6_HEADER :]
    if changed is None or message[8 + 6] != Protocol.IPV6 or len(inner) < IPV6_HEADER:
        return None
    size = IPV6_HEADER + int.from_bytes(inner[4:6], "big")
    quoted = parse(inner[:4] + (len(inner) - IPV6_HEADER).to_bytes(2, "big") + inner[6:])  # as far as it is here
    if quoted is None or size <= MINIMUM_MTU or not _forwardable(quoted.source):
        return None
    inside = quoted.source if lookup.table.end is End.MOBILE_NODE else quoted.destination
    owner = lookup.owner(inside)
    if all(node is not owner for node, _ in lookup.between(changed.local, changed.remote)):
        return None  # nothing that was ever sent through this tunnel
    mtu = max(changed.mtu - IPV6_HEADER, MINIMUM_MTU)
    return _error(lookup.table.address, inner, quoted, Icmp6Type.PACKET_TOO_BIG, mtu)


def outer_header(tunnel: Tunnel, traffic_class: int) -> tuple[bytes, bytes]:
    """What stands before and behind the payload length: DSCP and ECN copied (RFC 2473 §6.4, RFC 6040 §4.1)."""
    behind = bytes((Protocol.IPV6, OUTER_HOP_LIMIT)) + tunnel.local.packed + tunnel.remote.packed
    return (6 << 28 | traffic_class << 20).to_bytes(4, "big"), behind


def _outer(tunnel: Tunnel, packet: bytes, traffic_class: int, identification: int) -> tuple[bytes, ...]:
    """The outer packet, or its fragments when the inner one is larger than the tunnel MTU (RFC 2473 §7.1 (b))."""
    before, behind = outer_header(tunnel, traffic_class)
    if len(packet) <= tunnel.mtu:
        return (before + len(packet).to_bytes(2, "big") + behind + packet,)
    behind = bytes((Protocol.FRAGMENT,)) + behind[1:]
    step = tunnel.mtu - _FRAGMENT_HEADER & ~7
    fragments = []
    for at in range(0, len(packet), step):
        part = packet[at : at + step]
        field = at | (at + step < len(packet))
        header = bytes((Protocol.IPV6, 0)) + field.to_bytes(2, "big") + identification.to_bytes(4, "big")
        fragments.append(before + (len(part) + _FRAGMENT_HEADER).to_bytes(2, "big") + behind + header + part)
    return tuple(fragments)


def _rule(node: Node, packet: Parsed, uplink: bool, fragments: FragmentMemory) -> FlowRule | None:
    """The flow rule that decides about a packet: the first active one that matches (RFC 6089 §5.3.6)."""
    if packet.protocol == Protocol.MOBILITY:
        return None  # signalling is exempt from flow rules
    recalled = fragments.recall(packet)
    if recalled is not None:
        rule = recalled[0]
        if rule is None or any(rule is one and _active(node, one) for one in node.rules):
            return rule
    found = (one for one in node.rules if _active(node, one) and matches(one.selector, packet, uplink))
    rule = next(found, None)
    if packet.fragment is not None and packet.fragment.offset == 0:
        fragments.remember(packet, rule)
    return rule


def _active(node: Node, rule: FlowRule) -> bool:
    return rule.drop or any(tunnel.usable and tunnel.bid in rule.bids for tunnel in node.tunnels)


def _tunnels(node: Node, rule: FlowRule | None) -> tuple[Tunnel, ...]:
    """Every usable tunnel of the rule; without one, the first usable tunnel."""
    usable = tuple(tunnel for tunnel in node.tunnels if tunnel.usable)
    return usable[:1] if rule is None else tuple(tunnel for tunnel in usable if tunnel.bid in rule.bids)


def _forwardable(address: IPv6Address) -> bool:
    return not (address.is_link_local or address.is_multicast or address.is_loopback or address.is_unspecified)


def _error(
    source: IPv6Address, packet: bytes, parsed: Parsed, kind: Icmp6Type, value: int, code: int = 0
) -> bytes | None:
    """An ICMPv6 error with as much of the packet as fits into 1280 octets, None where none may be sent: about an
    ICMPv6 error or redirect (RFC 4443 §2.4 (e)); one that cannot be seen to be neither counts as one."""
    if parsed.protocol == Protocol.ICMPV6:
        if (parsed.fragment is not None and parsed.fragment.offset) or parsed.upper >= len(packet):
            return None
        about = packet[parsed.upper]
        if about < Icmp6Type.ECHO_REQUEST or about == Icmp6Type.REDIRECT:
            return None
    body = bytes((kind, code, 0, 0)) + value.to_bytes(4, "big") + packet[: MINIMUM_MTU - IPV6_HEADER - 8]
    header = pseudo_header(source, parsed.source, len(body), Protocol.ICMPV6)
    body = body[:2] + internet_checksum(header + body).to_bytes(2, "big") + body[4:]
    start = (6 << 28).to_bytes(4, "big") + len(body).to_bytes(2, "big") + bytes((Protocol.ICMPV6, OUTER_HOP_LIMIT))
    return start + source.packed + parsed.source.packed + body
