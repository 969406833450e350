"""A forwarding table behind hash tables: `lookup.Lookup` for 10,000 nodes. Only what differs is indexed anew."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from ipaddress import IPv6Address
from operator import itemgetter

from mip6.forwarding import End, ForwardingTable, IPAddress, Node, Tunnel
from mip6.lookup import Ports, ports_of
from mip6.nodes import Nodes


class Index:
    """Answers as `lookup.Plain` does."""

    def __init__(self, end: End, address: IPv6Address) -> None:
        self.table = ForwardingTable(end, address)
        self._nodes = Nodes()
        # by IP version; by prefix length, longest first; by prefix: the nodes that have it, lowest home address first
        self._owners: dict[int, dict[int, dict[int, list[tuple[IPv6Address, Node]]]]] = {4: {}, 6: {}}
        self._tunnels: dict[tuple[IPAddress, IPAddress, Ports], list[tuple[Node, Tunnel]]] = {}
        self._locals: dict[tuple[IPAddress, str | None], int] = {}  # how many tunnels leave by it

    def set_table(self, table: ForwardingTable) -> list[IPv6Address]:
        """Take a table over; the home addresses that are gone."""
        nodes = Nodes.of(table.nodes)
        gone = []
        for home, before, now in nodes.since(self._nodes):
            if before is not None:
                self._remove(before)
            if now is not None:
                self._add(now)
            else:
                gone.append(home)
        self._nodes, self.table = nodes, table
        self._owners = {version: dict(sorted(one.items(), reverse=True)) for version, one in self._owners.items()}
        return gone

    def senders(self) -> set[tuple[IPAddress, str | None]]:
        """The pairs of local address and device that tunnels leave by."""
        return set(self._locals)

    def owner(self, address: IPAddress) -> Node | None:
        number, bits = int(address), address.max_prefixlen
        for length, owners in self._owners[address.version].items():
            found = owners.get(number >> bits - length)
            if found:
                return found[0][1]
        return None

    def between(self, local: IPAddress, remote: IPAddress, ports: Ports = None) -> Sequence[tuple[Node, Tunnel]]:
        return self._tunnels.get((local, remote, ports), ())

    def is_local(self, address: IPAddress) -> bool:
        if self.table.end is End.HOME_AGENT and address in (self.table.address, self.table.ipv4_address):
            return True
        return any(local == address for local, _ in self._locals)

    def _prefixes(self, node: Node) -> set[tuple[int, int, int]]:
        """IP version, length and that many bits of each."""
        found = {
            (one.version, one.prefixlen, int(one.network_address) >> one.max_prefixlen - one.prefixlen)
            for one in node.prefixes
        }
        return found | {(6, 128, int(node.home_address))}

    def _add(self, node: Node) -> None:
        for version, length, prefix in self._prefixes(node):
            owners = self._owners[version].setdefault(length, {}).setdefault(prefix, [])
            insort(owners, (node.home_address, node), key=itemgetter(0))
        for tunnel in node.tunnels:
            self._tunnels.setdefault((tunnel.local, tunnel.remote, ports_of(tunnel)), []).append((node, tunnel))
            key = tunnel.local, tunnel.device
            self._locals[key] = self._locals.get(key, 0) + 1

    def _remove(self, node: Node) -> None:
        for version, length, prefix in self._prefixes(node):
            owners = self._owners[version][length]
            owners[prefix] = [one for one in owners[prefix] if one[1] is not node]
            if not owners[prefix]:
                del owners[prefix]
        for tunnel in node.tunnels:
            ends = tunnel.local, tunnel.remote, ports_of(tunnel)
            left = [one for one in self._tunnels.get(ends, ()) if one[0] is not node]
            if left:
                self._tunnels[ends] = left
            else:
                self._tunnels.pop(ends, None)
            key = tunnel.local, tunnel.device
            self._locals[key] -= 1
            if not self._locals[key]:
                del self._locals[key]
