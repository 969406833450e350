"""The questions that a forwarding table is asked, and the answers that cannot be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mip6.forwarding import End, ForwardingTable, IPAddress, Node, Tunnel


class Lookup(Protocol):
    """The questions. Among equal prefixes the lowest home address wins."""

    table: ForwardingTable

    def owner(self, address: IPAddress) -> Node | None:
        """The node that owns an inner address, by longest prefix."""

    def between(self, local: IPAddress, remote: IPAddress) -> Sequence[tuple[Node, Tunnel]]:
        """The tunnels with these ends, and whose they are."""

    def is_local(self, address: IPAddress) -> bool:
        """Whether a tunnel ends here at this address."""


class Plain:
    """Goes through the whole table."""

    def __init__(self, table: ForwardingTable) -> None:
        self.table = table

    def owner(self, address: IPAddress) -> Node | None:
        found: list[tuple[int, Node]] = []
        for node in self.table.nodes.values():
            lengths = [prefix.prefixlen for prefix in node.prefixes if address in prefix]
            lengths += [128] * (address == node.home_address)
            if lengths:
                found.append((-max(lengths), node))
        return min(found, key=lambda one: (one[0], one[1].home_address))[1] if found else None

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
