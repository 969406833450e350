"""The sockets of path measurement: sends probes when `mip6.paths` says so, answers the far end's, tells of changes.

One UDP socket is the reflector (port 862), one for each BID in use sends probes and takes the answers
(`mip6.system.probesockets`). Each mobile node's probes carry the HMAC of its association's key; without a key only what
comes out of the tunnel device is taken. Timestamps follow the clock that never jumps, set once to the time of day.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address
from random import Random, SystemRandom
from typing import Any

from mip6.auth import NTP_EPOCH
from mip6.dataplane.interface import Counters, TunnelCounters
from mip6.events import PathChanged
from mip6.forwarding import End, ForwardingTable, Node, Tunnel
from mip6.measurement import Quality
from mip6.nodes import Nodes
from mip6.path import NEVER, PathSettings
from mip6.paths import Paths
from mip6.probeflows import PORT_BASE, is_probe_rule, probe_port, probed
from mip6.stamp import MASK64, REFLECTOR_PORT, Key, WrongHmac, read_probe, read_reply, reflect, write_probe
from mip6.system import log
from mip6.system.clock import clock
from mip6.system.probesockets import BATCH, Arrival, open_socket, receive
from mip6.wire import FormError

BATCHES_PER_TURN = 16  # before peers are judged
PEERS_PER_TURN = 64  # that are judged and probed
LOOK = 0.5  # seconds between two looks at the counters of the tunnels
TRAFFIC = 2  # packets that are not ours between two looks make a path busy
LEAST_WAIT = 0.002  # seconds between two wake-ups, so that many paths share one


@dataclass(frozen=True, slots=True)
class Measured:
    """What is measured: the paths of the tunnels that have probe rules, from the address `own` of this end. `keys` are
    those of a home address."""

    own: IPv6Address
    end: End
    device: str
    keys: Callable[[IPv6Address], Sequence[Key]]
    settings: Callable[[Tunnel], PathSettings]


@dataclass(slots=True)
class _Peer:
    """The far end of one mobile node's paths."""

    home_address: IPv6Address
    address: tuple[str, int]  # of its reflector
    keys: tuple[Key | None, ...]  # the one that was last right comes first
    paths: Paths
    tunnels: dict[int, Tunnel] = field(default_factory=dict)  # that are measured, by BID
    seen: dict[int, int] = field(default_factory=dict)  # packets of a tunnel that were no probes, by BID


class Prober:
    """`start` opens the sockets, `set_table` says which paths there are."""

    def __init__(self, measured: Measured, random: Random | None = None) -> None:
        self._measured = measured
        self._random = random or SystemRandom()
        self._peers: dict[str, _Peer] = {}  # by the far end's address as the kernel prints it
        self._homes: dict[IPv6Address, _Peer] = {}
        self._senders: dict[int, socket.socket] = {}
        self._reflector: socket.socket | None = None
        self._heap: list[tuple[float, str]] = []
        self._rings: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._table: ForwardingTable | None = None
        self._nodes = Nodes()  # those that the peers are made from
        self._epoch = time.time() + NTP_EPOCH - clock()
        self._interface = 0
        self.counts: Counter[str] = Counter()

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self, on_change: Callable[[PathChanged], None], counters: Callable[[], Counters]) -> None:
        """Inside the running loop. Where the reflector's port is taken nothing is measured, which the log says."""
        self._loop = asyncio.get_running_loop()
        self._on_change, self._counters = on_change, counters
        self._interface = socket.if_nametoindex(self._measured.device)
        try:
            self._reflector = open_socket(self._measured.own, REFLECTOR_PORT)
        except OSError as error:
            log.event("paths_not_measured", "warning", port=REFLECTOR_PORT, error=error.strerror)
            return
        self._loop.add_reader(self._reflector, self._reflect, self._reflector)
        self._look_around()
        if self._table is not None:
            self.set_table(self._table)

    def close(self) -> None:
        """Close everything."""
        for timer in (self._timer, self._look):
            if timer is not None:
                timer.cancel()
        for sock in (self._reflector, *self._senders.values()):
            if sock is not None:
                self._loop.remove_reader(sock)
                sock.close()
        self._reflector, self._senders = None, {}

    def renew_keys(self) -> None:
        """The nodes' keys may be others now."""
        for peer in self._peers.values():
            keys = self._measured.keys(peer.home_address)
            if set(keys) != set(peer.keys):
                peer.keys = tuple(keys) or (None,)

    # --- which paths there are --------------------------------------------------------------------------------------

    def set_table(self, table: ForwardingTable) -> None:
        """The paths are those of the tunnels of this table."""
        self._table = table
        if self._reflector is None:
            return
        now, nodes = clock(), Nodes.of(table.nodes)
        for home, _, node in nodes.since(self._nodes):
            self._set_node(home, node, now)
        self._nodes = nodes
        self._arm()

    def _set_node(self, home: IPv6Address, node: Node | None, now: float) -> None:
        home_agent, after = (None, {}) if node is None else probed(node)
        peer = self._homes.get(home)
        far = home_agent if self._measured.end is End.MOBILE_NODE else home
        if peer is not None and after and peer.address[0] != str(far):
            self._forget(peer, now)  # another home agent
            peer = None
        if peer is None:
            if not after:
                return
            peer = self._meet(home, str(far))
        needed = set() if node is None else _needed(node)
        for bid in peer.tunnels.keys() - after.keys():
            peer.paths.detach(bid, now)
            peer.seen.pop(bid, None)
        for bid, tunnel in after.items():
            old = peer.tunnels.get(bid)
            new = old is not None and _ends(old) != _ends(tunnel)
            path = peer.paths.attach(bid, self._measured.settings(tunnel), now, new=new)
            path.needed = bid in needed
            peer.paths.sendable(bid, tunnel.usable and self._sender(bid) is not None)
        peer.tunnels = after
        if not peer.paths.paths:
            self._forget(peer, now)
        else:
            self._after(peer)

    def _meet(self, home: IPv6Address, address: str) -> _Peer:
        keys = tuple(self._measured.keys(home)) or (None,)
        leads = self._measured.end is End.MOBILE_NODE
        peer = _Peer(home, (address, REFLECTOR_PORT), keys, Paths(leads, self._random))
        self._homes[home] = self._peers[address] = peer
        return peer

    def _forget(self, peer: _Peer, now: float) -> None:
        for bid in peer.tunnels.keys() & peer.paths.paths.keys():
            peer.paths.detach(bid, now)
        self._after(peer)
        del self._homes[peer.home_address], self._peers[peer.address[0]]
        self._rings.pop(peer.address[0], None)

    def _sender(self, bid: int) -> socket.socket | None:
        sock = self._senders.get(bid)
        if sock is None:
            try:
                sock = self._senders[bid] = open_socket(self._measured.own, probe_port(bid))
            except OSError as error:
                log.event("path_not_measured", "warning", bid=bid, port=probe_port(bid), error=error.strerror)
                return None
            self._loop.add_reader(sock, self._read_sender, sock, bid)
        return sock

    def _look_around(self) -> None:
        """Which paths carry traffic: what their tunnels counted less the probes among it."""
        tunnels, nothing = self._counters().tunnels, TunnelCounters()
        for home, peer in self._homes.items():
            for bid, path in peer.paths.paths.items():
                if path.attached:
                    counted = tunnels.get((home, bid), nothing)
                    other = counted.packets_in + counted.packets_out - path.own_packets()
                    path.busy = abs(other - peer.seen.get(bid, other)) >= TRAFFIC
                    peer.seen[bid] = other
            self._ring(peer)
        self._arm()
        self._look = self._loop.call_later(LOOK, self._look_around)

    # --- time -------------------------------------------------------------------------------------------------------

    def _ring(self, peer: _Peer) -> None:
        """Have the peer looked at when it is due; what rings too early is found not to be due then."""
        due, key = peer.paths.due(), peer.address[0]
        if due < self._rings.get(key, NEVER):
            self._rings[key] = due
            heapq.heappush(self._heap, (due, key))

    def _arm(self) -> None:
        while self._heap and self._rings.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer = self._loop.call_later(max(LEAST_WAIT, self._heap[0][0] - clock()), self._wake)

    def _wake(self) -> None:
        """What waits in the sockets counts before anything is given up, and before the far end is taken for silent. Not
        all peers in one turn: where there is much to do, no socket waits for the rest of it."""
        for bid, sock in self._senders.items():
            self._drain(partial(self._receive_answers, sock, bid))
        if self._reflector is not None:
            self._drain(partial(self._reflect, self._reflector))
        now = clock()
        for _ in range(PEERS_PER_TURN):
            if not self._heap or self._heap[0][0] > now:
                break
            due, key = heapq.heappop(self._heap)
            if self._rings.get(key) != due:
                continue
            del self._rings[key]
            peer = self._peers[key]
            for bid in peer.paths.wake(now):
                self._probe(peer, bid)
            self._after(peer)
        self._arm()

    def _drain(self, read: Callable[[], int]) -> None:
        """Read batches until a socket is empty, or so much came that it fills faster than that."""
        for _ in range(BATCHES_PER_TURN):
            if read() < BATCH:
                return

    def _after(self, peer: _Peer) -> None:
        """Tell of what changed, and ring again."""
        changes, peer.paths.changes = peer.paths.changes, []
        self._ring(peer)
        for bid, state in changes:
            self._on_change(PathChanged(peer.home_address, bid, state))

    def _stamp(self, now: float) -> int:
        return int((now + self._epoch) * 0x1_0000_0000) & MASK64

    # --- packets ----------------------------------------------------------------------------------------------------

    def _probe(self, peer: _Peer, bid: int) -> None:
        now = clock()
        # the lowest bits, which no clock has, are not to be guessed: an answer must repeat them
        stamp = self._stamp(now) & ~0x7FF | self._random.getrandbits(11)
        sequence, ssid = peer.paths.probe(bid, stamp, now)
        self._send(self._senders[bid], write_probe(sequence, stamp, ssid, peer.keys[0]), peer.address)

    def _send(self, sock: socket.socket, packet: bytes, address: tuple[str, int]) -> None:
        try:
            sock.sendto(packet, address)
        except OSError as error:
            self.counts[f"send_{errno.errorcode.get(error.errno or 0, 'failed').lower()}"] += 1

    def _read_sender(self, sock: socket.socket, bid: int) -> None:
        if self._receive_answers(sock, bid):
            self._arm()

    def _receive_answers(self, sock: socket.socket, bid: int) -> int:
        """Take a batch; how many packets came."""
        packets = self._packets(sock)
        for packet, source, port, arrived, _, interface in packets:
            peer = self._peers.get(source)
            if peer is None or port != REFLECTOR_PORT:
                self.counts["unexpected"] += 1
                continue
            reply = self._read(read_reply, peer, packet, interface)
            if reply is not None:
                peer.paths.answer(bid, reply, self._stamp(arrived), clock())
                self._after(peer)
        return len(packets)

    def _reflect(self, sock: socket.socket) -> int:
        """Answer a batch; how many packets came."""
        packets = self._packets(sock)
        for packet, source, port, arrived, hop_limit, interface in packets:
            peer = self._peers.get(source)
            bid = port - PORT_BASE
            if peer is None or bid not in peer.paths.paths:
                self.counts["unexpected"] += 1
                continue
            probe = self._read(read_probe, peer, packet, interface)
            if probe is None:
                continue
            now = clock()
            number = peer.paths.heard(bid, probe.ssid, probe.sequence, now)
            if number is not None:
                answer = reflect(probe, peer.keys[0], number, self._stamp(arrived), self._stamp(now), hop_limit)
                self._send(sock, answer, (source, port))
        return len(packets)

    def _read(self, read: Callable[[bytes, Key | None], Any], peer: _Peer, packet: bytes, interface: int) -> Any:
        """The packet as its mode has it; None when it is not to be believed."""
        for key in peer.keys:
            if key is None and interface != self._interface:
                break
            try:
                found = read(packet, key)
            except WrongHmac:
                continue
            except FormError:
                self.counts["form_error"] += 1
                return None
            if key is not peer.keys[0]:
                peer.keys = (key, *(one for one in peer.keys if one is not key))
            return found
        self.counts["not_authentic"] += 1
        return None

    def _packets(self, sock: socket.socket) -> list[Arrival]:
        """A batch of what waits in a socket."""
        packets, refused = receive(sock)
        if refused:  # an ICMPv6 error about an earlier probe: the far end has no reflector
            self.counts["refused"] += refused
        return packets

    def qualities(self, home: IPv6Address) -> dict[int, Quality]:
        """What is known of the paths of a node, by BID."""
        peer = self._homes.get(home)
        paths = {} if peer is None else peer.paths.paths
        return {bid: path.measurement.quality() for bid, path in paths.items() if path.attached}

    # --- looking ----------------------------------------------------------------------------------------------------

    def status(self, home: IPv6Address, bid: int) -> dict[str, Any] | None:
        """What is known of a path, for `mip6 status`; None where it is not measured."""
        peer = self._homes.get(home)
        path = None if peer is None else peer.paths.paths.get(bid)
        if path is None or not path.attached:
            return None
        return path.describe(clock())


def _needed(node: Node) -> set[int]:
    """The BIDs that flows are assigned to, and the one that takes the rest."""
    named = {bid for rule in node.rules if not is_probe_rule(rule) for bid in rule.bids}
    return named | {tunnel.bid for tunnel in [one for one in node.tunnels if one.usable][:1]}


def _ends(tunnel: Tunnel) -> tuple[object, ...]:
    return tunnel.local, tunnel.remote, tunnel.encapsulation, tunnel.local_port, tunnel.remote_port
