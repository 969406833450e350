"""Binding Revocation on the operator's request (RFC 5846 §7.3, §11).

The indication is sent, repeated once, and the bindings are removed when it is acknowledged or given up: a mobile node
that cannot be reached loses them all the same. Until then Binding Updates of that node are refused (129).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from homeagent.bindingcache import PLAIN, Binding, BindingCacheEntry
from homeagent.dualstack import udp_ends
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.actions import SendPacket
from mip6.auth import ntp_timestamp, sign
from mip6.headers import build_packet
from mip6.messages import BindingRevocationIndication, encode_message
from mip6.numbers import RevocationFlag, RevocationTrigger
from mip6.options import BindingIdentifier, MessageIdentification, MobileNodeIdentifier, Option

if TYPE_CHECKING:
    from random import Random

INITIAL_DELAY = 1.0  # InitMINDelayBRIs, seconds
MAX_BRACK_TIMEOUT = 2.0  # seconds
MAX_RETRIES = 1  # BRIMaxRetriesNumber


@dataclass(slots=True)
class Revocation:
    """One indication under way; no `bids` means all bindings of the home address."""

    sequence: int
    bids: frozenset[int]
    binding: Binding
    packet: SendPacket
    retry_at: float
    delay: float = INITIAL_DELAY
    retries: int = 0


def requested_bids(wanted: object, entry: BindingCacheEntry) -> frozenset[int]:
    """The BIDs that an operator names, none for all; ValueError says what is wrong with them."""
    if not isinstance(wanted, list) or not all(isinstance(one, int) for one in wanted):
        raise ValueError(f"bids: expected a list of numbers, not {wanted!r}")
    missing = set(wanted) - {one.bid for one in entry.bindings}
    if missing:
        raise ValueError(f"{entry.home_address} has no binding with BID {min(missing)}")
    return frozenset(wanted)


class Revocations:
    """The indications that wait for an acknowledgement, at most one per home address."""

    def __init__(self, settings: HomeAgentSettings, random: Random) -> None:
        self.settings = settings
        self._sequence = random.randrange(65536)
        self._waiting: dict[IPv6Address, Revocation] = {}

    def pending(self, home: IPv6Address) -> bool:
        """Whether bindings of this node are being revoked."""
        return home in self._waiting

    def covers(self, home: IPv6Address, bid: int) -> bool:
        """Whether this binding is being revoked."""
        waiting = self._waiting.get(home)
        return waiting is not None and (not waiting.bids or bid in waiting.bids)

    def start(
        self, entry: BindingCacheEntry, node: NodeSettings, bids: frozenset[int], now: float, wall: float
    ) -> SendPacket:
        """Begin; the indication goes to the best care-of address, by type 2 routing header (RFC 5846 §7.3), or inside
        UDP to the home address itself. `wall` is the time of day, for a node whose messages have timestamps."""
        self._sequence = (self._sequence + 1) % 65536
        best = min(entry.bindings, key=Binding.rank)
        options: tuple[Option, ...] = tuple(
            BindingIdentifier(one.bid, 0, False, one.priority)
            for one in entry.bindings
            if one.bid in bids and one.bid != PLAIN
        )
        if node.identifier is not None:
            options += (MobileNodeIdentifier(1, node.identifier.encode()),)
        if node.associations and node.replay == "timestamp":
            options += (MessageIdentification(ntp_timestamp(wall)),)
        message = BindingRevocationIndication(
            RevocationTrigger.ADMINISTRATIVE, self._sequence, RevocationFlag(0), options
        )
        home, outer = entry.home_address, udp_ends(self.settings, best)
        care_of = home if outer is not None else best.care_of_address
        assert isinstance(care_of, IPv6Address)  # IPv4 goes inside UDP
        # same protection as a Binding Acknowledgement (RFC 5846 §4); RFC 4285 has no option of its own for it
        mh = sign(message, node.associations[0], care_of, home) if node.associations else encode_message(message)
        routing = None if outer is not None else home
        packet = SendPacket(build_packet(self.settings.address, care_of, mh, routing_address=routing), outer=outer)
        self._waiting[home] = Revocation(self._sequence, bids, best, packet, now + INITIAL_DELAY)
        return packet

    def deadline(self, home: IPv6Address) -> float | None:
        """When the indication is repeated or given up."""
        waiting = self._waiting.get(home)
        return None if waiting is None else waiting.retry_at

    def expire(self, home: IPv6Address, now: float) -> SendPacket | frozenset[int] | None:
        """At the deadline: the packet to repeat, or the BIDs to remove because nobody answered."""
        waiting = self._waiting.get(home)
        if waiting is None or waiting.retry_at > now:
            return None
        if waiting.retries >= MAX_RETRIES:
            del self._waiting[home]
            return waiting.bids
        waiting.retries += 1
        waiting.delay = min(2 * waiting.delay, MAX_BRACK_TIMEOUT)
        waiting.retry_at = now + waiting.delay
        return waiting.packet

    def acknowledged(self, home: IPv6Address, sequence: int) -> frozenset[int] | None:
        """The BIDs to remove; None when no such indication is outstanding (RFC 5846 §7.3: silence)."""
        waiting = self._waiting.get(home)
        if waiting is None or waiting.sequence != sequence:
            return None
        del self._waiting[home]
        return waiting.bids
