"""Binding cache of the home agent: what it knows of each mobile node (RFC 6275 §9.1, RFC 3963 §6.1, RFC 5648, 6089).

One `BindingCacheEntry` per home address holds all its bindings, because sequence number, timestamp, flags, prefixes
and flow bindings are shared by all BIDs (RFC 5648 §4.1). Entries are frozen: a registration makes a new one, or is
refused and changes nothing. `to_record` and `from_record` are its form in stable storage.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from mip6.forwarding import DSMIP_PORT, Encapsulation, FlowRule, IPAddress
from mip6.selectors import TrafficSelector, decode_selector, encode_selector
from mip6.values import value

MAX_DELETE_BCE_TIMEOUT = 10.0  # seconds, RFC 6275 §12
PLAIN = 0  # BID of a binding registered without a BID option
LOWEST_PRIORITY = 128  # BID-PRI 0: the sender knows no RFC 6089 and says nothing of its preference


@value
class Binding:
    """One care-of address of a home address. `lifetime` in seconds as granted, `expires` on the engine's clock.

    Where a NAT made `care_of_address` of the one that the mobile node has, that is `inside` (RFC 5555 §4.2); `port` is
    where its UDP packets come from. Data is encapsulated as `encapsulation` says.
    """

    bid: int
    care_of_address: IPAddress
    priority: int
    lifetime: int
    expires: float
    encapsulation: Encapsulation = Encapsulation.NATIVE
    port: int = DSMIP_PORT
    inside: IPAddress | None = None

    @property
    def stated(self) -> IPAddress:
        """The care-of address as the mobile node's Binding Updates state it."""
        return self.inside or self.care_of_address

    @property
    def signalled_in_udp(self) -> bool:
        """Whether messages to this care-of address go inside UDP (RFC 5555 §4.2: always, over IPv4)."""
        return isinstance(self.care_of_address, IPv4Address) or self.encapsulation is Encapsulation.UDP

    def rank(self) -> tuple[int, int]:
        """Preference: lower first (RFC 6089 §4.1: lowest BID-PRI)."""
        return self.priority or LOWEST_PRIORITY, self.bid


@value
class FlowBinding:
    """A flow binding entry (RFC 6089 §4.3). It is active while one of `bids` is bound.

    `weights`, one for each of `bids`, and what follows them came by `mip6.flowextension`.
    """

    fid: int
    priority: int
    selector: TrafficSelector
    bids: tuple[int, ...]
    weights: tuple[int, ...] = ()
    drop: bool = False
    unreachable: bool = False
    copied: bool = False

    @property
    def may_repeat(self) -> bool:
        """Whether the mobile node may send several copies of its packets."""
        return self.copied or (len(self.bids) > 1 and not self.weights)

    def rule(self, usable: Container[int]) -> FlowRule:
        """What the data plane does with it while these BIDs can be sent to."""
        if self.drop and not any(bid in usable for bid in self.bids):
            return FlowRule(self.fid, self.priority, self.selector, drop=True, unreachable=self.unreachable)
        return FlowRule(self.fid, self.priority, self.selector, self.bids, weights=self.weights)

    def to_record(self) -> list[Any]:
        """JSON form; the last member only with an extension."""
        extension = {"weights": list(self.weights), "drop": self.drop}
        extension |= {"unreachable": self.unreachable, "copied": self.copied}
        base = [self.fid, self.priority, encode_selector(self.selector).hex(), list(self.bids)]
        return [*base, extension] if any(extension.values()) else base


@value
class BindingCacheEntry:
    """All that is bound to one home address; `bindings` stand in the order of their `rank`.

    `deleted` is when the last binding was removed by the mobile node: until MAX_DELETE_BCE_TIMEOUT later the entry
    still answers delayed Binding Updates with 135 (RFC 6275 §10.3.2). `timestamp` is the last MESG-ID accepted.
    """

    home_address: IPv6Address
    mobile_router: bool
    sequence: int
    timestamp: int = 0
    bindings: tuple[Binding, ...] = ()
    flows: tuple[FlowBinding, ...] = ()
    prefixes: tuple[IPv6Network, ...] = ()
    deleted: float | None = None
    ipv4_home_address: IPv4Address | None = None
    ipv4_prefixes: tuple[IPv4Network, ...] = ()

    def binding(self, bid: int) -> Binding | None:
        """The binding of this BID."""
        return next((one for one in self.bindings if one.bid == bid), None)

    def remembers(self, now: float) -> bool:
        """Whether the sequence number still counts: a binding lives, or was deleted a moment ago."""
        return bool(self.bindings) or (self.deleted is not None and now < self.deleted + MAX_DELETE_BCE_TIMEOUT)

    def without(self, bids: set[int], deleted: float | None = None) -> BindingCacheEntry:
        """The entry less these bindings; flows and prefixes end with the last one (RFC 3963 §6.7, RFC 6089 §5.3)."""
        left = tuple(one for one in self.bindings if one.bid not in bids)
        if left:
            return replace(self, bindings=left)
        # the IPv4 home address is no longer used, but stays the node's (RFC 5555 §2.5)
        return replace(self, bindings=(), flows=(), prefixes=(), ipv4_prefixes=(), deleted=deleted)

    def as_of(self, now: float) -> BindingCacheEntry:
        """A restored entry whose times are possible: a clock that was set back meanwhile makes no binding live longer
        than was granted."""
        bindings = tuple(replace(one, expires=min(one.expires, now + one.lifetime)) for one in self.bindings)
        return replace(self, bindings=bindings, deleted=None if self.deleted is None else min(self.deleted, now))

    def deadline(self) -> float | None:
        """When something of this entry ends by itself."""
        if self.bindings:
            return min(one.expires for one in self.bindings)
        return None if self.deleted is None else self.deleted + MAX_DELETE_BCE_TIMEOUT

    def to_record(self, offset: float) -> dict[str, Any]:
        """JSON form; `offset` turns the engine's clock into the time of day, which alone survives a restart."""
        return {
            "mobile_router": self.mobile_router,
            "sequence": self.sequence,
            "timestamp": self.timestamp,
            "deleted": None if self.deleted is None else self.deleted + offset,
            "bindings": [
                [
                    one.bid,
                    _text(one.care_of_address),
                    one.priority,
                    one.lifetime,
                    round(one.expires + offset, 3),
                    one.encapsulation,
                    one.port,
                    None if one.inside is None else _text(one.inside),
                ]
                for one in self.bindings
            ],
            "flows": [one.to_record() for one in self.flows],
            "prefixes": [str(one) for one in self.prefixes],
            "ipv4_home_address": None if self.ipv4_home_address is None else str(self.ipv4_home_address),
            "ipv4_prefixes": [str(one) for one in self.ipv4_prefixes],
        }


def _text(address: IPAddress) -> str:
    """Of an address, for a record: an IPv6 one in full, as shortening it takes longer than all the rest of a record."""
    return address.packed.hex(":", 2) if isinstance(address, IPv6Address) else str(address)


def from_record(home_address: IPv6Address, record: Mapping[str, Any], offset: float) -> BindingCacheEntry:
    """The entry of a stored record; ValueError, KeyError or TypeError when it is not one. What an older version did not
    store, about IPv4, is as it was then."""
    flows = []
    for fid, priority, selector, bids, *rest in record["flows"]:
        octets = bytes.fromhex(selector)
        extension = rest[0] if rest else {}
        flows.append(
            FlowBinding(
                fid,
                priority,
                decode_selector(octets, 0, len(octets)),
                tuple(bids),
                tuple(extension.get("weights", ())),
                bool(extension.get("drop", False)),
                bool(extension.get("unreachable", False)),
                bool(extension.get("copied", False)),
            )
        )
    return BindingCacheEntry(
        home_address,
        bool(record["mobile_router"]),
        int(record["sequence"]),
        int(record["timestamp"]),
        tuple(_binding(offset, *one) for one in record["bindings"]),
        tuple(flows),
        tuple(IPv6Network(one) for one in record["prefixes"]),
        None if record["deleted"] is None else float(record["deleted"]) - offset,
        None if record.get("ipv4_home_address") is None else IPv4Address(record["ipv4_home_address"]),
        tuple(IPv4Network(one) for one in record.get("ipv4_prefixes", ())),
    )


def _binding(
    offset: float,
    bid: int,
    care_of: str,
    priority: int,
    lifetime: int,
    expires: float,
    encapsulation: str = Encapsulation.NATIVE,
    port: int = DSMIP_PORT,
    inside: str | None = None,
) -> Binding:
    return Binding(
        int(bid),
        ip_address(care_of),
        int(priority),
        int(lifetime),
        float(expires) - offset,
        Encapsulation(encapsulation),
        int(port),
        None if inside is None else ip_address(inside),
    )
