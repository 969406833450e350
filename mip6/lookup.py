"""The questions that a forwarding table is asked, and the answers that cannot be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mip6.forwarding import Encapsulation, End, ForwardingTable, IPAddress, Node, Tunnel

Ports = tuple[int, int] | None
"""Local and remote port of UDP encapsulation, None without it."""


class Lookup(Protocol):
    """The questions. Among equal prefixes the lowest home address wins."""

    table: ForwardingTable

    def owner(self, address: IPAddress) -> Node | None:
        """The node that owns an inner address, by longest prefix."""

    def between(self, local: IPAddress, remote: IPAddress, ports: Ports = None) -> Sequence[tuple[Node, Tunnel]]:
        """The tunnels with these ends, and whose they are: those without UDP, or in UDP between these ports."""

    def is_local(self, address: IPAddress) -> bool:
        """Whether a tunnel ends here at this address."""


def ports_of(tunnel: Tunnel) -> Ports:
    """Those that tell a tunnel from others between the same addresses."""
    return (tunnel.local_port, tunnel.remote_port) if tunnel.encapsulation is Encapsulation.UDP else None


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

    def between(self, local: IPAddress, remote: IPAddress, ports: Ports = None) -> Sequence[tuple[Node, Tunnel]]:
        return [
            (node, tunnel)
            for node in self.table.nodes.values()
            for tunnel in node.tunnels
            if (tunnel.local, tunnel.remote, ports_of(tunnel)) == (local, remote, ports)
        ]

    def is_local(self, address: IPAddress) -> bool:
        if self.table.end is End.HOME_AGENT and address in (self.table.address, self.table.ipv4_address):
            return True
        return any(tunnel.local == address for node in self.table.nodes.values() for tunnel in node.tunnels)
