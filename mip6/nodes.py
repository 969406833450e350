"""The nodes of a forwarding table: a frozen mapping whose next version costs what differs, and that knows what differs.

All versions share one dictionary, which the newest holds; an older one has what was there instead, and the newer one to
ask for the rest. Nobody is told about changes: whoever has an old version asks a newer one what differs from it. Who
keeps an old version keeps all that it differs by since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address

from mip6.forwarding import Node

Change = tuple[IPv6Address, Node | None, Node | None]
"""A home address, its node before and its node now; None: there is none."""


class Nodes(Mapping[IPv6Address, Node]):
    """Nodes by home address. As fast as a dictionary in the newest version."""

    __slots__ = ("_all", "_before", "_length", "_newer")

    def __init__(self, nodes: Mapping[IPv6Address, Node] | None = None) -> None:
        """A copy, unrelated to all others."""
        self._all: dict[IPv6Address, Node] | None = dict(nodes or {})  # None: a newer version has it
        self._length = len(self._all)
        self._newer: Nodes | None = None
        self._before: Mapping[IPv6Address, Node | None] = {}  # what stands here and not in the newer version

    @classmethod
    def of(cls, nodes: Mapping[IPv6Address, Node]) -> Nodes:
        """These nodes themselves if they are such, else a copy."""
        return nodes if isinstance(nodes, cls) else cls(nodes)

    def changed(self, changes: Mapping[IPv6Address, Node | None]) -> Nodes:
        """The next version, in which these nodes are others; None: gone."""
        if self._all is None:
            return Nodes(self).changed(changes)
        new = Nodes()
        new._all, self._all = self._all, None
        self._before, self._newer = {home: new._all.get(home) for home in changes}, new
        for home, node in changes.items():
            if node is not None:
                new._all[home] = node
            else:
                new._all.pop(home, None)
        new._length = len(new._all)
        return new

    def since(self, old: Nodes) -> list[Change]:
        """What is another object here than in `old`. Costs what differs if this was made from `old`, else all of it."""
        homes: dict[IPv6Address, None] = {}
        version: Nodes | None = old
        while version is not None and version is not self:
            homes |= dict.fromkeys(version._before)
            version = version._newer
        if version is None:
            homes = dict.fromkeys([*old, *self])
        pairs = ((home, old.get(home), self.get(home)) for home in homes)
        return [one for one in pairs if one[1] is not one[2]]

    def __getitem__(self, home_address: IPv6Address) -> Node:
        version = self
        while version._all is None:
            if home_address in version._before:
                node = version._before[home_address]
                if node is None:
                    raise KeyError(home_address)
                return node
            assert version._newer is not None
            version = version._newer
        return version._all[home_address]

    def __iter__(self) -> Iterator[IPv6Address]:
        return iter(self._whole())

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Nodes({self._whole()!r})"

    def _whole(self) -> dict[IPv6Address, Node]:
        if self._all is not None:
            return self._all
        versions = []
        version = self
        while version._all is None:
            versions.append(version)
            assert version._newer is not None
            version = version._newer
        found: dict[IPv6Address, Node | None] = dict(version._all)
        for one in reversed(versions):
            found |= one._before
        return {home: node for home, node in found.items() if node is not None}
