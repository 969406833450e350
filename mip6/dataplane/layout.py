"""Nodes as octets of the fast path's maps: fastpath/layout.h in Python.

What the programs cannot do is marked, and they leave such packets to userspace.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

from mip6.forwarding import MOST_TUNNELS, FlowRule, IPAddress, IPNetwork, Node, Tunnel
from mip6.lookup import ports_of
from mip6.selectors import FLOW_LABEL_MASK, IPv4Selector, IPv6Selector, Range, TrafficSelector

CHUNK = 448
MAX_CHUNKS = 22
MAX_TUNNELS = MOST_TUNNELS
NO_SLOT = 0xFF
SETTINGS = struct.Struct("=IIIIII16s")
OWNER_KEY = struct.Struct("=II16s")
OWNER = struct.Struct("=16sIIHBBBB2x")
CHUNK_KEY = struct.Struct("=II")
ENDS = struct.Struct("=16s16s2s2sI")
TUNNEL = struct.Struct(f"={ENDS.size}sQIIIHHB7x")
RULE = struct.Struct("=BBBBHBBHHHHBBB5x")
LABELS = struct.Struct("=IIII")
SPAN = struct.Struct("=QQQQ")
WEIGHTS = struct.Struct(f"={MAX_TUNNELS}H")
COUNT = struct.Struct("=QQQQQQ")
NUMBER = struct.Struct("=I")
DROP = struct.Struct("=Q")
SIZES = {  # key and value of each map
    "settings": (NUMBER.size, SETTINGS.size),
    "owners": (OWNER_KEY.size, OWNER.size),
    "tunnels": (NUMBER.size, TUNNEL.size),
    "rules": (CHUNK_KEY.size, CHUNK),
    "counts": (NUMBER.size, COUNT.size),
    "pairs": (ENDS.size, NUMBER.size),
    "locals": (16, NUMBER.size),
    "drops": (NUMBER.size, DROP.size),
    "grace": (NUMBER.size, NUMBER.size),
}

_FAMILY_BITS = 32
_SPI, _FLOW_LABEL, _SOURCE, _DESTINATION, _PORTS = 1, 2, 4, 8, 16
_SEND, _DROP, _USERSPACE, _SHARE = 0, 1, 2, 3
_RAW, _AWAY = 1, 2
_UINT32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Device:
    """An access device of this machine; `raw`: it has no link-layer header."""

    index: int
    raw: bool


def address(value: IPAddress) -> bytes:
    """An address as 16 octets."""
    return value.packed if isinstance(value, IPv6Address) else value.packed + bytes(12)


def ends(tunnel: Tunnel) -> bytes:
    """The key in `pairs`; it begins with the one in `locals`."""
    local, remote = ports_of(tunnel) or (0, 0)
    return ENDS.pack(
        *(address(tunnel.local), address(tunnel.remote)),
        *(local.to_bytes(2, "big"), remote.to_bytes(2, "big")),
        tunnel.local.version,
    )


def owner_keys(node: Node) -> set[bytes]:
    """The keys in `owners` of all that a node owns."""
    found = {_owner_key(prefix) for prefix in node.prefixes}
    found.add(OWNER_KEY.pack(_FAMILY_BITS + 128, 6, node.home_address.packed))
    return found


def _owner_key(prefix: IPNetwork) -> bytes:
    family = 6 if isinstance(prefix, IPv6Network) else 4
    return OWNER_KEY.pack(_FAMILY_BITS + prefix.prefixlen, family, address(prefix.network_address))


def pack_tunnel(tunnel: Tunnel, ends: bytes, device: Device | None, counter: int, serial: int) -> bytes:
    """The value in `tunnels`; `ends` are its own. `device` is the one it names, None if it names none or it is gone.
    `expires` is there in nanoseconds of CLOCK_BOOTTIME, 0: never."""
    expires = 0 if tunnel.expires is None else max(int(tunnel.expires * 1e9), 1)
    flags = _RAW if device is not None and device.raw else 0
    if device is None and tunnel.device is not None:
        flags |= _AWAY
    return TUNNEL.pack(
        ends,
        expires,
        device.index if device else 0,
        counter,
        serial,
        min(tunnel.mtu, 0xFFFF),
        tunnel.bid,
        flags,
    )


def pack_rules(rules: tuple[FlowRule, ...], usable: tuple[int | None, ...]) -> list[bytes]:
    """The chunks of a node's active rules. `usable` has the BID of each slot, None where nothing is to be sent."""
    chunks: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    slots = {bid: 1 << slot for slot, bid in enumerate(usable) if bid is not None}
    masks: dict[tuple[int, ...], int] = {}
    for rule in rules:
        mask = 0
        if not rule.drop:
            found = masks.get(rule.bids)
            if found is None:
                found = masks[rule.bids] = sum(slots.get(bid, 0) for bid in set(rule.bids))
            mask = found
            if not mask:
                continue  # inactive
        weights = _pack_weights(rule, usable) if rule.weights else b""
        action = _USERSPACE if rule.unreachable else _DROP if rule.drop else _SHARE if rule.weights else _SEND
        one = _pack_rule(rule.selector, action, mask, weights)
        if one is None:
            continue  # matches nothing
        size += len(one)
        if size > CHUNK:
            chunks.append(b"".join(parts).ljust(CHUNK, b"\0"))
            parts, size = [], len(one)
        parts.append(one)
    if parts:
        chunks.append(b"".join(parts).ljust(CHUNK, b"\0"))
    return chunks


def _pack_weights(rule: FlowRule, usable: tuple[int | None, ...]) -> bytes:
    """Of a rule that shares, by slot."""
    given = dict(zip(rule.bids, rule.weights, strict=True))
    weights = [0 if bid is None else given.get(bid, 0) for bid in usable]
    return WEIGHTS.pack(*weights, *[0] * (MAX_TUNNELS - len(weights)))


@lru_cache(maxsize=1 << 14)  # a fleet's nodes have much the same rules
def _pack_rule(selector: TrafficSelector, action: int, mask: int, weights: bytes) -> bytes | None:
    """One rule with its parts, None when no packet can meet it."""
    if isinstance(selector, IPv6Selector):
        family, codepoint, protocol = 6, selector.traffic_class, selector.next_header
        label = selector.flow_label
    elif isinstance(selector, IPv4Selector):
        family, codepoint, protocol = 4, selector.ds_field, selector.protocol
        label = None
    else:
        return None
    conditions, behind = 0, b""
    if selector.spi is not None or label is not None:
        spis, labels = selector.spi or (0, _UINT32), label or (0, FLOW_LABEL_MASK)
        labels = labels[0] & FLOW_LABEL_MASK, labels[1] & FLOW_LABEL_MASK
        if spis[1] < spis[0] or labels[1] < labels[0]:
            return None
        conditions |= (_SPI if selector.spi is not None else 0) | (_FLOW_LABEL if label is not None else 0)
        behind += LABELS.pack(spis[0], spis[1] - spis[0], labels[0], labels[1] - labels[0])
    for condition, span in ((_SOURCE, selector.source), (_DESTINATION, selector.destination)):
        if span is not None:
            conditions |= condition
            behind += _pack_span(*span)
    if selector.source_port is not None or selector.destination_port is not None:
        conditions |= _PORTS
    ranges = (
        *_following(codepoint and (codepoint[0] >> 2, codepoint[1] >> 2), 0xFF),
        *_following(selector.source_port, 0xFFFF),
        *_following(selector.destination_port, 0xFFFF),
        *_following(protocol, 0xFF),
    )
    if min(ranges) < 0:
        return None
    slot = (mask & -mask).bit_length() - 1 if mask else 0
    behind += weights
    return RULE.pack(RULE.size + len(behind), family, conditions, action, mask, *ranges, slot) + behind


def _following(span: Range | None, largest: int) -> Range:
    """A range as its first value and how many follow; negative when it is empty."""
    return (0, largest) if span is None else (span[0], span[1] - span[0])


def _pack_span(first: IPAddress, last: IPAddress) -> bytes:
    low, high = int(first), int(last)
    return SPAN.pack(low >> 64, low & _MASK64, high >> 64, high & _MASK64)


@dataclass(frozen=True, slots=True)
class Sending:
    """How a node's packets are sent: the chunks of its rules, the slot for what no rule matches, and whether all of it
    is left to userspace. `copied` are the chunks of what the far end may n-cast."""

    rules: list[bytes]
    first: int
    userspace: bool
    copied: list[bytes]


def pack_sending(node: Node) -> Sending:
    """A node that has more tunnels or rules than the programs have room for is marked."""
    usable = tuple(tunnel.bid if tunnel.usable else None for tunnel in node.tunnels)
    copied = pack_rules(tuple(FlowRule(0, 0, selector, drop=True) for selector in node.copied), ())
    if len(copied) > MAX_CHUNKS:  # everything may be
        copied = pack_rules((FlowRule(0, 0, IPv6Selector(), drop=True), FlowRule(0, 0, IPv4Selector(), drop=True)), ())
    if len(usable) <= MAX_TUNNELS:
        rules = pack_rules(node.rules, usable)
        if len(rules) <= MAX_CHUNKS:
            first = next((slot for slot, bid in enumerate(usable) if bid is not None), NO_SLOT)
            return Sending(rules, first, False, copied)
    return Sending([], NO_SLOT, True, copied)
