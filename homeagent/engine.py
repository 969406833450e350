"""The home agent as a pure engine: events in, actions out (RFC 6275 §10, RFC 3963 §6, RFC 5648 §6, RFC 6089 §5.3).

How it thinks: a packet climbs the ladder of RFC 6275 §9.2 (`reception`), a Binding Update then those of RFC 4285
(`security.authenticate`), of RFC 6275 §9.5.1 (`admission.judge`) and of `registration.register`. What passes is
committed in one place (`_commit`): record stored, forwarding changed, acknowledgement sent, in that order, so nothing
is acknowledged that a crash could lose.
Each home address has at most one live entry in the timer heap; what is due is looked up when it rings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from homeagent import views
from homeagent.admission import judge
from homeagent.answers import Exchange, accept, refuse
from homeagent.bindingcache import BindingCacheEntry, from_record
from homeagent.deadlines import Deadlines
from homeagent.detection import DuplicateDetection
from homeagent.discovery import Discovery
from homeagent.dualstack import Ipv4HomeAddresses, reachable
from homeagent.reception import ERRORS_PER_SECOND, Reception
from homeagent.registration import Accepted, Refusal
from homeagent.reload import fitted
from homeagent.revocation import Revocations, requested_bids
from homeagent.security import Discard, authenticate
from homeagent.settings import HomeAgentSettings, NodeSettings
from homeagent.tunnels import Tunnels
from mip6 import actions, events
from mip6.actions import Action, Report, SendPacket
from mip6.explain import explain, question
from mip6.forwarding import ForwardingTable
from mip6.headers import SignallingPacket
from mip6.icmp6 import HomeAgentDiscoveryRequest, MobilePrefixSolicitation
from mip6.messages import BindingRevocationAcknowledgement, BindingUpdate
from mip6.numbers import BindingStatus
from mip6.ratelimit import RateLimit
from mip6.wire import FormError

if TYPE_CHECKING:
    from random import Random

CLOCK_STEP = 10.0  # seconds that the time of day may be set by before the records on disk are written anew


class HomeAgent:
    """The engine. `random` gives the first sequence number of Binding Revocations."""

    def __init__(self, settings: HomeAgentSettings, random: Random) -> None:
        self.settings = settings
        self._nodes = {node.home_address: node for node in settings.nodes}
        self._cache: dict[IPv6Address, BindingCacheEntry] = {}
        self._tunnels = Tunnels(settings, self._nodes, self._cache)
        self._detection = DuplicateDetection()
        self._revocations = Revocations(settings, random)
        self._deadlines = Deadlines()
        self._offset = 0.0
        self._counts: Counter[str] = Counter()
        self._ipv4 = Ipv4HomeAddresses(settings, self._cache)
        self._strangers = RateLimit(ERRORS_PER_SECOND, ERRORS_PER_SECOND)
        self._discovery = Discovery(settings, random)
        self._reception = Reception(settings, self._cache, self._counts)

    # --- the engine's interface -------------------------------------------------------------------------------------

    def handle(self, event: events.Event, now: float) -> list[Action]:
        """Take in one event; what is to be done, in order."""
        match event:
            case events.PacketReceived():
                return self._receive(event, now)
            case events.TimerExpired():
                return self._expire(now)
            case events.WallClockSet(offset):
                return self._set_clock(offset)
            case events.DuplicateAddressChecked(address, duplicate):
                return self._address_checked(address, duplicate, now)
            case events.PathMtuChanged(_, remote, mtu):
                return self._tunnels.path_mtu(remote, mtu, now)
            case events.RouterAdvertised():
                return self._learn(event, now)
            case events.PathChanged():
                return self._tunnels.path_changed(event)
            case events.OperatorRequest("revoke", arguments):
                return self._revoke(arguments, now)
            case events.OperatorRequest(command):
                raise ValueError(f"a home agent knows no command {command!r}")
            case events.ShuttingDown():
                return [actions.ShutdownComplete()]
            case events.LinksObserved():
                pass  # a home agent does not move
        return []

    def next_deadline(self) -> tuple[float, str] | None:
        """When `TimerExpired` is due, and what for."""
        first = self._deadlines.next()
        found = [(first[0], f"binding of {first[1]}")] if first else []
        if (forgotten := self._tunnels.deadline()) is not None:
            found.append((forgotten, "learned path MTUs"))
        return min(found, default=None)

    def forwarding_table(self) -> ForwardingTable:
        """The whole desired state of the data plane; nodes that did not change are the same objects."""
        return self._tunnels.table()

    def kernel_state(self) -> actions.KernelState:
        """The whole desired state of routes and proxied neighbours."""
        return views.kernel_state(self.settings, self._cache)

    def restore(self, records: Mapping[IPv6Address, Mapping[str, Any]], now: float) -> list[Action]:
        """Take over the records of an earlier run; after the first `WallClockSet`, before anything else.

        The store has put aside what cannot be read (`Store.records`); what is found to be so here is reported and left
        there.
        """
        result: list[Action] = []
        for home, record in records.items():
            if home not in self._nodes and not self.settings.insecure:
                fields = {"home_address": str(home)}
                result += [Report("binding of a node no longer configured", "warning", fields)]
                result += [actions.StoreNode(home, None)]
                continue
            try:
                entry = reachable(self.settings, from_record(home, record, self._offset).as_of(now))
                node = self._nodes.get(home) or NodeSettings(home_address=home)
                self._set_entry(fitted(entry, node, self._ipv4.reserved))
            except (ValueError, KeyError, TypeError) as error:
                fields = {"home_address": str(home), "error": repr(error)}
                result.append(Report("stored binding is not readable", "error", fields))
        result += self._expire(now)
        restored = sum(len(entry.bindings) for entry in self._cache.values())
        result.append(Report("bindings restored", fields={"bindings": restored}))
        return [*result, actions.ForwardingChanged(), actions.KernelChanged()]

    def reconfigure(self, settings: HomeAgentSettings, now: float) -> list[Action]:
        """These settings hold from now on; `reload.needs_restart` says which may differ. Bindings stay, but for those
        of nodes that are gone; of a node that changed, what is no longer its own ends."""
        before = self._nodes
        self._nodes = {node.home_address: node for node in settings.nodes}
        self.settings = settings
        self._tunnels.configure(settings, self._nodes)
        self._revocations.settings = settings
        self._ipv4.configure(settings)
        self._discovery.configure(settings)
        result: list[Action] = []
        for home, entry in list(self._cache.items()):
            node = self._nodes.get(home)
            if node is None and not settings.insecure:
                result += self._end(home, frozenset(), "no longer configured")
                del self._cache[home]
                self._arm(home, None)
                result.append(actions.StoreNode(home, None))
                continue
            if node == before.get(home):
                continue
            left = fitted(entry, node or NodeSettings(home_address=home), self._ipv4.reserved)
            result += self._set_entry(left)
            if left != entry:
                result.append(actions.StoreNode(home, left.to_record(self._offset)))
        # a first registration that waits for duplicate address detection was judged by what held before
        self._detection.keep(lambda home: self._nodes.get(home) == before.get(home))
        return [*result, actions.ForwardingChanged(), actions.KernelChanged()]

    def status(self, now: float) -> dict[str, Any]:
        """What `mip6 status` shows, counters of the data plane aside."""
        nodes = []
        for home in sorted(self._cache.keys() | self._nodes.keys()):
            entry = self._cache.get(home) or BindingCacheEntry(home, False, 0)
            revoking = {one.bid for one in entry.bindings if self._revocations.covers(home, one.bid)}
            nodes.append(views.node_status(entry, self._nodes.get(home), now, revoking))
        return {
            "role": "homeagent",
            "address": str(self.settings.address),
            "ipv4_address": None if self.settings.ipv4_address is None else str(self.settings.ipv4_address),
            "device": self.settings.device,
            "nodes": nodes,
            "signalling": dict(self._counts),
        }

    def explain(self, arguments: Mapping[str, object]) -> dict[str, Any]:
        """What `mip6 explain` shows of one packet; ValueError when it is none."""
        return explain(self.forwarding_table(), question(arguments), self._tunnels.backgrounds())

    # --- Binding Update ---------------------------------------------------------------------------------------------

    def _receive(self, event: events.PacketReceived, now: float) -> list[Action]:
        received = self._reception.receive(event, now)
        if isinstance(received, list):
            return received
        match received:
            case packet, BindingUpdate() as update:
                return self._binding_update(event, packet, update, now)
            case packet, BindingRevocationAcknowledgement() as acknowledgement:
                return self._revocation_acknowledged(packet, acknowledgement, now)
            case packet, HomeAgentDiscoveryRequest() as request:
                return self._said("discovery_reply", self._discovery.discovery_reply(packet, request, now))
            case packet, MobilePrefixSolicitation() as solicitation:
                answer = self._discovery.prefix_advertisement(packet, solicitation, now)
                return self._said("prefix_advertisement", answer)
        return self._count("ignored")

    def _said(self, name: str, answer: SendPacket | None) -> list[Action]:
        return self._count(f"{name}_held_back") if answer is None else [*self._count(name), answer]

    def _learn(self, event: events.RouterAdvertised, now: float) -> list[Action]:
        try:
            self._discovery.learn(event, now)
        except FormError:
            return self._count("form_error")
        return self._count("router_advertisement")

    def _count(self, name: str) -> list[Action]:
        self._counts[name] += 1
        return []

    def _binding_update(
        self, event: events.PacketReceived, packet: SignallingPacket, update: BindingUpdate, now: float
    ) -> list[Action]:
        home = packet.sender()
        node = self._nodes.get(home)
        if node is None and self.settings.insecure:
            node = NodeSettings(home_address=home)
        entry = self._cache.get(home)
        try:
            if node is None:
                raise Discard("no association")  # RFC 4285 §5.1.1
            home = node.home_address  # as the tables have it: the same object is found without comparing
            proof = authenticate(node, self.settings.insecure, packet, update, entry, now + self._offset)
            exchange = Exchange(event, packet, update, node, proof)
            if proof.refusal is not None:
                return self._refuse(exchange, proof.refusal, now)
            accepted = judge(self.settings, node, entry, exchange.request(), now, self._revocations.pending(home))
        except Discard as why:
            self._counts["discarded"] += 1
            fields = {"home_address": str(home), "source": str(packet.source), "why": str(why)}
            return [Report("Binding Update discarded", "warning", fields)]
        except Refusal as refusal:
            if refusal.status == BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE:
                self._detection.withdraw(home, update)
            return self._refuse(exchange, refusal, now)
        if accepted.created and views.on_home_link(self.settings, home):
            assert self.settings.home_link is not None
            begins = self._detection.wait(home, event)
            return [actions.CheckDuplicateAddress(home, self.settings.home_link)] if begins else []
        return self._commit(exchange, accepted, now)

    def _address_checked(self, home: IPv6Address, duplicate: bool, now: float) -> list[Action]:
        """RFC 6275 §10.3.1: the first registration goes on after duplicate address detection, or ends with 134."""
        waited = self._detection.take(home)
        if waited is None:
            return []
        event, packet, update = waited
        node = self._nodes.get(home) or NodeSettings(home_address=home)
        entry = self._cache.get(home)
        # the packet was authentic when it came; its timestamp has aged by the check and must not be judged again
        received = now + self._offset
        proof = authenticate(node, self.settings.insecure, packet, update, entry, received, aged=True)
        exchange = Exchange(event, packet, update, node, proof)
        if duplicate:
            refusal = Refusal(BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED, f"{home} is in use on the home link")
            return self._refuse(exchange, refusal, now)
        try:
            accepted = judge(self.settings, node, entry, exchange.request(), now, self._revocations.pending(home))
        except Refusal as refusal:
            return self._refuse(exchange, refusal, now)
        return self._commit(exchange, accepted, now)

    def _commit(self, exchange: Exchange, accepted: Accepted, now: float) -> list[Action]:
        """The one place where a registration takes effect: stored, forwarded, defended, acknowledged, in this order."""
        home = exchange.node.home_address
        entry, ipv4 = self._ipv4.bind(exchange.node, accepted.entry, exchange.update)
        try:
            answer = accept(self.settings, exchange, accepted, ipv4)
        except Refusal as refusal:
            return self._refuse(exchange, refusal, now)
        before = self._cache.get(home)
        result: list[Action] = [actions.StoreNode(home, entry.to_record(self._offset)), *self._set_entry(entry)]
        if accepted.created and views.on_home_link(self.settings, home):
            assert self.settings.home_link is not None
            result.append(actions.AnnounceNeighbour(home, self.settings.home_link, entry.mobile_router))
        self._counts["accepted"] += 1
        return [*result, answer, views.registered(before, entry, accepted)]

    def _refuse(self, exchange: Exchange, refusal: Refusal, now: float) -> list[Action]:
        self._counts[f"refused_{int(refusal.status)}"] += 1
        fields = {
            "home_address": str(exchange.packet.sender()),
            "source": str(exchange.packet.source),
            "status": refusal.status.name,
            "why": str(refusal),
        }
        report = Report("Binding Update refused", "warning", fields)
        if refusal.status == BindingStatus.MIPV6_AUTH_FAIL and not self._strangers.allow(now):
            return [report]  # whoever spoofs addresses does not make this a reflector
        return [refuse(self.settings, exchange, refusal), report]

    # --- entries, time, revocation ----------------------------------------------------------------------------------

    def _set_entry(self, entry: BindingCacheEntry) -> list[Action]:
        """Put an entry into the cache; what else changes with it."""
        home = entry.home_address
        before = self._cache.get(home)
        self._cache[home] = entry
        self._ipv4.hold(entry)
        self._arm(home, entry)
        result = self._tunnels.update(entry)
        if self.settings.home_link is not None and (before is None or views.served(before) != views.served(entry)):
            result.append(actions.KernelChanged())
        return result

    def _set_clock(self, offset: float) -> list[Action]:
        """The time of day. Records have their times by it: when it steps (NTP, on a machine that started without),
        those on disk would end at another moment."""
        step, self._offset = abs(offset - self._offset), offset
        if step < CLOCK_STEP:
            return []
        return [actions.StoreNode(home, entry.to_record(offset)) for home, entry in self._cache.items()]

    def _arm(self, home: IPv6Address, entry: BindingCacheEntry | None) -> None:
        due, retry = None if entry is None else entry.deadline(), self._revocations.deadline(home)
        if due is None or (retry is not None and retry < due):
            due = retry
        self._deadlines.set(home, due)

    def _expire(self, now: float) -> list[Action]:
        result = self._tunnels.expire(now)
        for home in self._deadlines.take(now):
            result += self._expire_node(home, now)
            self._arm(home, self._cache.get(home))
        return result

    def _expire_node(self, home: IPv6Address, now: float) -> list[Action]:
        result: list[Action] = []
        match self._revocations.expire(home, now):
            case SendPacket() as repeat:
                result.append(repeat)
            case frozenset() as bids:
                result += self._end(home, bids, "revoked without an answer")
        entry = self._cache.get(home)
        if entry is None:
            return result
        over = frozenset(one.bid for one in entry.bindings if one.expires <= now)
        if over:
            result += self._end(home, over, "expired")
        elif not entry.bindings and not entry.remembers(now):
            if home in self._nodes:  # sequence number and timestamp stay, for replay protection
                self._cache[home] = replace(entry, deleted=None)
            else:
                del self._cache[home]
                result.append(actions.StoreNode(home, None))
        return result

    def _end(self, home: IPv6Address, bids: frozenset[int], why: str) -> list[Action]:
        """Remove bindings that ended otherwise than by the mobile node; no `bids` means all."""
        entry = self._cache.get(home)
        if entry is None or not entry.bindings:
            return []
        ending = {one.bid for one in entry.bindings if not bids or one.bid in bids}
        left = replace(entry.without(ending), deleted=None)
        fields = {"home_address": str(home), "bids": sorted(ending), "why": why}
        changes = self._set_entry(left)
        return [*changes, actions.StoreNode(home, left.to_record(self._offset)), Report("binding ended", fields=fields)]

    def _revoke(self, arguments: Mapping[str, object], now: float) -> list[Action]:
        """`mip6 revoke`: ValueError says what is wrong with the request."""
        home = IPv6Address(str(arguments.get("home_address")))
        entry = self._cache.get(home)
        if entry is None or not entry.bindings:
            raise ValueError(f"{home} has no binding")
        bids = requested_bids(arguments.get("bids") or [], entry)
        if self._revocations.pending(home):
            raise ValueError(f"bindings of {home} are being revoked already")
        node = self._nodes.get(home) or NodeSettings(home_address=home)
        packet = self._revocations.start(entry, node, bids, now, now + self._offset)
        self._arm(home, entry)
        return [packet, Report("revoking binding", fields={"home_address": str(home), "bids": sorted(bids)})]

    def _revocation_acknowledged(
        self, packet: SignallingPacket, message: BindingRevocationAcknowledgement, now: float
    ) -> list[Action]:
        """RFC 5846 §7.3. Whatever its status, the mobile node has heard of it: the bindings end here."""
        home = packet.sender()
        node = self._nodes.get(home)
        if node is None and not self.settings.insecure:
            return self._count("discarded")
        known, wall = node or NodeSettings(home_address=home), now + self._offset
        try:
            proof = authenticate(known, self.settings.insecure, packet, message, None, wall, aged=True)
        except Discard:
            return self._count("discarded")
        if proof.refusal is not None:
            return self._count("discarded")
        bids = self._revocations.acknowledged(home, message.sequence)
        if bids is None:
            return self._count("ignored")
        return self._end(home, bids, "revoked")
