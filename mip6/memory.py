"""What a data plane remembers from packet to packet. All of it is bounded, and forgetting is always allowed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from mip6.forwarding import FlowRule
from mip6.packet import Parsed

FRAGMENTS_REMEMBERED = 1024
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


class Memory:
    """All of it together, for one data plane. It outlives the tables."""

    def __init__(self) -> None:
        self.fragments = FragmentMemory()
