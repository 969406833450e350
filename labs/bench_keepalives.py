"""What the keepalives of 10,000 mobile nodes, each behind a NAT, cost a home agent: its daemon as it is, with store,
sockets and data plane.

    nodes ---- ha

In ha runs the daemon; in nodes one process plays all mobile nodes and their NATs: every node has a port of its own at
one of the NATs' addresses. It registers them, and then sends their Binding Updates at the advised interval.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from homeagent import daemon
from homeagent.config import Configuration
from homeagent.settings import HomeAgentSettings, NodeSettings
from labs.bench_pair import DEVICE, HOME_AGENT, HOME_AGENT4, NEIGHBOUR4, pair, shares
from mip6.auth import Algorithm, SecurityAssociation, ntp_timestamp, sign
from mip6.forwarding import DSMIP_PORT
from mip6.headers import IPV6_HEADER, build_packet
from mip6.messages import BindingUpdate
from mip6.numbers import MessageType, UpdateFlag
from mip6.options import BindingIdentifier, MessageIdentification, MobileNodeIdentifier
from mip6.system import log
from mobilenode.dualstack import JITTER

NODES = 10_000
HOMES = IPv6Network("2001:db8:100::/64")
NATS = IPv4Network("198.51.100.0/24")
PORTS = range(20_000, 20_050)  # of every NAT
INSIDE = IPv4Address("192.0.2.2")  # every node's own address, behind its NAT
KEY = SecurityAssociation(4096, Algorithm.HMAC_SHA1, bytes(range(16)))
LIFETIME = 600  # seconds
WINDOWS, SECONDS, MARGIN = 5, 4.0, 2.0
AT_ONCE = 64  # registrations that may be without an answer
PATIENCE, LIMIT = 5.0, 30.0  # seconds without an answer until a registration is sent again, and until all is given up
ANSWERED_AT_LEAST = 0.98
_IP_PKTINFO = 8
_PACKET_INFORMATION = struct.Struct("@i4s4s")  # struct in_pktinfo


def _settings(directory: str) -> HomeAgentSettings:
    nodes = tuple(
        NodeSettings(HOMES[number + 16], f"node{number}@example.com", associations=(KEY,)) for number in range(NODES)
    )
    return HomeAgentSettings(
        IPv6Address(HOME_AGENT),
        (HOMES,),
        nodes=nodes,
        ipv4_address=IPv4Address(HOME_AGENT4),
        on_exit="clean",
        state=f"{directory}/homeagent.sqlite",
        control=f"{directory}/homeagent.sock",
        log="error",
    )


class _Nodes:
    """All mobile nodes. `answers` has how many of its Binding Updates were accepted, by number of the node."""

    def __init__(self) -> None:
        self.answers = [0] * NODES
        self._sent = [0] * NODES
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}  # by descriptor
        self._by_port = {port: self._open(port) for port in PORTS}
        self._number = {self._end(number): number for number in range(NODES)}

    def _open(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind(("", port))
        self._sockets[sock.fileno()] = sock
        self._poll.register(sock, select.EPOLLIN)
        return sock

    def _end(self, number: int) -> tuple[bytes, int]:
        """Address and port of its NAT."""
        nat, port = divmod(number, len(PORTS))
        return NATS[nat + 1].packed, PORTS[port]

    def send(self, number: int) -> None:
        """A Binding Update of this node, authentic and new."""
        home, (address, port) = HOMES[number + 16], self._end(number)
        self._sent[number] += 1
        options = (
            BindingIdentifier(1, 0, False, 1, INSIDE),
            MobileNodeIdentifier(1, f"node{number}@example.com".encode()),
            MessageIdentification(ntp_timestamp(time.time())),
        )
        flags = UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION
        mh = sign(BindingUpdate(self._sent[number], flags, LIFETIME, options), KEY, home, home)
        source = (socket.IPPROTO_IP, _IP_PKTINFO, _PACKET_INFORMATION.pack(0, address, bytes(4)))
        packet = build_packet(home, IPv6Address(HOME_AGENT), mh)
        self._by_port[port].sendmsg([packet], [source], 0, (HOME_AGENT4, DSMIP_PORT))

    def receive(self, limit: float) -> None:
        """Count the answers that are there, or come within so many seconds."""
        for descriptor, _ in self._poll.poll(max(0.0, limit)):
            sock = self._sockets[descriptor]
            port = int(sock.getsockname()[1])
            for packet, address in _waiting(sock):
                message, status = packet[IPV6_HEADER + 2], packet[IPV6_HEADER + 6]
                if message == MessageType.BINDING_ACKNOWLEDGEMENT and status < 128:
                    self.answers[self._number[address, port]] += 1

    def register(self) -> None:
        """All of them; RuntimeError when the home agent does not answer any more."""
        todo = list(range(NODES))
        asked: dict[int, float] = {}  # when
        heard = time.monotonic()
        while todo or asked:
            now = time.monotonic()
            if now - heard > LIMIT:
                raise RuntimeError(f"{len(todo) + len(asked)} of {NODES} nodes could not register")
            while todo and len(asked) < AT_ONCE:
                number = todo.pop()
                self.send(number)
                asked[number] = now
            self.receive(0.01)
            before = len(asked)
            asked = {number: when for number, when in asked.items() if not self.answers[number]}
            if len(asked) < before:
                heard = now
            late = [number for number, when in asked.items() if now - when > PATIENCE]
            for number in late:
                del asked[number]
            todo += late

    def keep_alive(self, interval: float, seconds: float) -> tuple[int, int]:
        """Each at the interval, evenly spread; how many were sent, and how many answered."""
        before, sent = sum(self.answers), 0
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            due = now * NODES / interval
            if sent < due:
                self.send(sent % NODES)
                sent += 1
            self.receive((sent - due) * interval / NODES)
        self.receive(0.5)
        return sent, sum(self.answers) - before


def _waiting(sock: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Each packet with the address that it came to."""
    while True:
        try:
            packet, ancillary, _, _ = sock.recvmsg(2048, 64)
        except BlockingIOError:
            return
        yield packet, ancillary[0][2][8:12]


def measure() -> list[dict[str, Any]]:
    """The share of one processor; RuntimeError when too few keepalives were answered for it to mean anything. Needs
    root."""
    with pair() as spaces, tempfile.TemporaryDirectory() as directory:
        spaces.ip("ha", f"route add {NATS} via {NEIGHBOUR4} dev {DEVICE}")
        spaces.ip("nodes", f"route add local {NATS} dev lo")
        home_agent = spaces.start("ha", "labs.bench_keepalives", "home_agent", directory)
        nodes = spaces.start("nodes", "labs.bench_keepalives", "mobile_nodes")
        time.sleep(MARGIN)
        found = shares(home_agent, WINDOWS, SECONDS)
        assert nodes.stdout is not None
        sent, answered = json.loads(nodes.stdout.readline())
    if answered < ANSWERED_AT_LEAST * sent:
        raise RuntimeError(f"of {sent} keepalives only {answered} were answered")
    share = 100 * statistics.median(found)
    return [{"name": "nat_keepalive_cpu_10k_nodes", "value": share, "unit": "% of a CPU", "ratio_to_plain": None}]


def main() -> None:
    """One of the two ends."""
    match sys.argv[1:]:
        case ["home_agent", directory]:
            settings = _settings(directory)
            log.configure(settings.log)
            print("ready", flush=True)
            asyncio.run(daemon.run(Configuration(Path(directory, "homeagent.toml"), settings)))
        case ["mobile_nodes"]:
            nodes = _Nodes()
            nodes.register()
            print("ready", flush=True)
            interval = HomeAgentSettings(IPv6Address(HOME_AGENT), (HOMES,)).nat_refresh * sum(JITTER) / 2
            print(json.dumps(nodes.keep_alive(interval, WINDOWS * SECONDS + 2 * MARGIN)), flush=True)
        case _:
            print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
