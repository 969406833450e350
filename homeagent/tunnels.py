"""The home agent's forwarding table: each node's part of it follows from its binding cache entry (`views`), from path
MTUs that were learned and from what this end's own probes say of its paths."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address

from homeagent import views
from homeagent.bindingcache import BindingCacheEntry
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.actions import Action, ForwardingChanged, Report
from mip6.events import PathChanged
from mip6.explain import Background
from mip6.forwarding import End, ForwardingTable, IPAddress, Node
from mip6.nodes import Nodes
from mip6.path import PathState
from mip6.paths import path_report

PATH_MTU_LIFETIME = 600.0  # seconds after which a learned path MTU is forgotten (RFC 8201 §4)


class Tunnels:
    """The parts, by home address. The engine says when an entry has changed; everything else is found out here."""

    def __init__(
        self,
        settings: HomeAgentSettings,
        nodes: Mapping[IPv6Address, NodeSettings],
        cache: Mapping[IPv6Address, BindingCacheEntry],
    ) -> None:
        self._settings, self._nodes, self._cache = settings, nodes, cache
        self._parts = Nodes()
        self._remotes: dict[IPAddress, set[IPv6Address]] = {}  # whose tunnels end at each care-of address
        self._mtus: dict[IPAddress, int] = {}
        self._mtus_end = 0.0  # when the oldest learned path MTU is forgotten
        self._states: dict[IPv6Address, dict[int, PathState]] = {}

    def configure(self, settings: HomeAgentSettings, nodes: Mapping[IPv6Address, NodeSettings]) -> None:
        """These hold from now on; the engine then says which entries they change."""
        self._settings, self._nodes = settings, nodes

    def table(self) -> ForwardingTable:
        """The whole desired state of the data plane; nodes that did not change are the same objects."""
        return ForwardingTable(
            End.HOME_AGENT,
            self._settings.address,
            self._parts,
            eliminate_duplicates=self._settings.eliminate_duplicates,
            ipv4_address=self._settings.ipv4_address,
            zero_checksum=self._settings.udp_zero_checksum,
        )

    def backgrounds(self) -> dict[IPv6Address, Background]:
        """What `mip6 explain` says beside the table, for each node that has a binding."""
        return {home: views.background(self._cache[home], self._states.get(home, {})) for home in self._parts}

    def update(self, entry: BindingCacheEntry) -> list[Action]:
        """This entry is in the cache now."""
        home = entry.home_address
        if not entry.bindings:
            return [ForwardingChanged()] if self._replace(home, None) else []
        node = self._nodes.get(home) or NodeSettings(home_address=home)
        new = views.forwarding_node(self._settings, node, entry, self._mtus, self._states.get(home, {}))
        return [ForwardingChanged()] if self._replace(home, new) else []

    def _replace(self, home: IPv6Address, new: Node | None) -> bool:
        """Put in a node's new part, None: take it out. Whether that changes anything."""
        old = self._parts.get(home)
        if old == new:
            return False
        before = [] if old is None else [one.remote for one in old.tunnels]
        after = [] if new is None else [one.remote for one in new.tunnels]
        if before != after:
            for remote in before:
                if homes := self._remotes.get(remote):
                    homes.discard(home)
                    if not homes:
                        del self._remotes[remote]
            for remote in after:
                self._remotes.setdefault(remote, set()).add(home)
        self._parts = self._parts.changed({home: new})
        return True

    def path_mtu(self, remote: IPAddress, mtu: int, now: float) -> list[Action]:
        """RFC 8201 §4: what a path to a care-of address carries; only ever lower, until all of it is forgotten. Anybody
        can send such news: those of an address that no tunnel ends at are none, and the others cost little."""
        homes = self._remotes.get(remote)
        if not homes or mtu >= self._mtus.get(remote, self._settings.mtu):
            return []
        if not self._mtus:
            self._mtus_end = now + PATH_MTU_LIFETIME
        self._mtus[remote] = mtu
        return [Report("path MTU", fields={"care_of_address": str(remote), "mtu": mtu}), *self._rebuild(sorted(homes))]

    def path_changed(self, event: PathChanged) -> list[Action]:
        """A path that is not good enough is used by this end only when there is nothing better."""
        home = event.home_address
        entry = self._cache.get(home)
        if entry is None:
            return []
        states = self._states.get(home, {}) | {event.bid: event.state}
        self._states[home] = {bid: one for bid, one in states.items() if entry.binding(bid) is not None}
        fields = {"home_address": str(home), "bid": event.bid, "state": str(event.state)}
        return [*self.update(entry), path_report(event.state, fields)]

    def deadline(self) -> float | None:
        """When `expire` has something to do."""
        return self._mtus_end if self._mtus else None

    def expire(self, now: float) -> list[Action]:
        """Forget what was learned of path MTUs, when it is old."""
        if not self._mtus or now < self._mtus_end:
            return []
        homes = sorted({home for remote in self._mtus for home in self._remotes.get(remote, ())})
        self._mtus.clear()
        return self._rebuild(homes)

    def _rebuild(self, homes: list[IPv6Address]) -> list[Action]:
        return [change for home in homes for change in self.update(self._cache[home])][:1]
