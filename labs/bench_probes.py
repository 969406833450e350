"""What path measurement costs a home agent with 1,000 mobile nodes of three paths each, of which one is busy, as where
no flow says otherwise.

    nodes ---- ha

In ha runs the home agent's `Prober` alone, as its daemon runs it; in nodes one process plays all mobile nodes: it sends
the probes of busy and idle paths at their default intervals, answers the home agent's own, and counts the answers that
it gets. All packets are authenticated. Without tunnels: what a data plane needs for these packets its own benchmark
says.
"""

from __future__ import annotations

import asyncio
import json
import select
import signal
import socket
import statistics
import struct
import sys
import time
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from labs.bench_pair import DEVICE, HOME_AGENT, NEIGHBOUR, pair, shares
from mip6.dataplane.interface import Counters, TunnelCounters
from mip6.forwarding import End, ForwardingTable, Node, Tunnel
from mip6.path import PathSettings
from mip6.paths import JITTER
from mip6.probeflows import probe_port, probe_rules
from mip6.stamp import REFLECTOR_PORT, derive_key, read_probe, reflect, write_probe
from mip6.system.probes import Measured, Prober

NODES, BIDS, BUSY = 1000, (1, 2, 3), 1
INTERVAL, IDLE_INTERVAL = (one * sum(JITTER) / 2 for one in (PathSettings().interval, PathSettings().idle_interval))
SLOTS = round(IDLE_INTERVAL / INTERVAL)  # a busy path is probed in each, an idle one in one of them
WINDOWS, SECONDS, MARGIN = 5, 2.0, 2.0
HOMES = IPv6Network("2001:db8:f00::/64")
SECRET = bytes(range(20))
LATEST = 0.5  # seconds without an answer, after which none is under way
_BUFFER = 8 << 20
_SO_RCVBUFFORCE, _IPV6_FREEBIND = 33, 78
_PACKET_INFORMATION = struct.Struct("@16sI")


def _homes() -> list[IPv6Address]:
    return [HOMES[number + 16] for number in range(NODES)]


async def _home_agent() -> None:
    """The measured process, until SIGTERM."""
    agent = IPv6Address(HOME_AGENT)
    nodes = {}
    for number, home in enumerate(_homes()):
        care_of = [IPv6Address(f"2001:db8:{bid}::{number + 16:x}") for bid in BIDS]
        tunnels = tuple(Tunnel(bid, agent, one) for bid, one in zip(BIDS, care_of, strict=True))
        nodes[home] = Node(home, (), tunnels, probe_rules(home, agent, BIDS))
    settings, keys = PathSettings(), {home: (derive_key(SECRET, home),) for home in nodes}
    traffic = {(home, bid): TunnelCounters() for home in nodes for bid in BIDS}

    def counters() -> Counters:
        for home in nodes:
            traffic[home, BUSY].packets_out += 1000
        return Counters(traffic)

    prober = Prober(Measured(agent, End.HOME_AGENT, DEVICE, keys.__getitem__, lambda tunnel: settings))
    prober.start(lambda changed: None, counters)
    prober.set_table(ForwardingTable(End.HOME_AGENT, agent, nodes))
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print("ready", flush=True)
    await over.wait()
    prober.close()


def _open(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)  # any address of the prefix may be the source
    sock.bind(("::", port))
    return sock


def _mobile_nodes() -> None:
    """All of them, for so many seconds; prints how many probes were due, sent and answered."""
    homes = _homes()
    keys = {home.packed: derive_key(SECRET, home) for home in homes}
    sockets = {bid: _open(probe_port(bid)) for bid in BIDS}
    reflector = _open(REFLECTOR_PORT)
    sources = [
        (home, [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PACKET_INFORMATION.pack(home.packed, 0))]) for home in homes
    ]
    round_ = [
        (bid, home, source)
        for slot in range(SLOTS)
        for number, (home, source) in enumerate(sources)
        for bid in BIDS
        if bid == BUSY or (number + bid) % SLOTS == slot
    ]
    sequences = dict.fromkeys(((bid, home) for bid, home, _ in round_), 0)
    sent = answered = 0
    print("ready", flush=True)
    begin = time.monotonic()
    while (now := time.monotonic() - begin) < WINDOWS * SECONDS + 2 * MARGIN:
        due = int(now / IDLE_INTERVAL * len(round_))
        for number in range(sent, min(due, sent + 64)):
            bid, home, source = round_[number % len(round_)]
            packet = write_probe(sequences[bid, home], number << 16, bid, keys[home.packed])
            sequences[bid, home] += 1
            sockets[bid].sendmsg([packet], source, 0, (HOME_AGENT, REFLECTOR_PORT))
            sent += 1
        answered += sum(_drain(sock) for sock in sockets.values())
        _reflect(reflector, keys)
        if sent >= due:
            select.select([], [], [], 0.001)
    while select.select(sockets.values(), [], [], LATEST)[0]:
        answered += sum(_drain(sock) for sock in sockets.values())
    print(json.dumps([due, sent, answered]), flush=True)


def _drain(sock: socket.socket, most: int = 200) -> int:
    for count in range(most):
        try:
            sock.recv(256)
        except BlockingIOError:
            return count
    return most


def _reflect(sock: socket.socket, keys: dict[bytes, Any]) -> None:
    for _ in range(200):
        try:
            data, ancillary, _, address = sock.recvmsg(256, 64)
        except BlockingIOError:
            return
        home = ancillary[0][2][:16]
        probe = read_probe(data, keys[home])
        answer = reflect(probe, keys[home], probe.sequence, probe.timestamp, probe.timestamp, 64)
        source = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PACKET_INFORMATION.pack(home, 0))]
        sock.sendmsg([answer], source, 0, address)


def measure() -> list[dict[str, Any]]:
    """The shares of the probes that the nodes could send in time and that the home agent answered, the share of one
    processor that it took, and its processor time for a probe that it answered. Needs root.

    Where less than all are answered it took what it got: the machine has more to do than these two processes can."""
    with pair() as spaces:
        spaces.ip("ha", f"route add {HOMES} via {NEIGHBOUR}")
        spaces.ip("nodes", f"route add local {HOMES} dev lo")
        home_agent = spaces.start("ha", "labs.bench_probes", "home_agent")
        nodes = spaces.start("nodes", "labs.bench_probes", "mobile_nodes")
        time.sleep(MARGIN)
        share = statistics.median(shares(home_agent, WINDOWS, SECONDS))
        assert nodes.stdout is not None
        due, sent, answered = json.loads(nodes.stdout.readline())
    if not answered:
        raise RuntimeError(f"of {sent} probes none was answered")
    per_second = answered / (WINDOWS * SECONDS + 2 * MARGIN)
    return [
        {"name": "probes_1000x3_sent", "value": 100 * sent / due, "unit": "% of due", "ratio_to_plain": None},
        {"name": "probes_1000x3_answered", "value": 100 * answered / sent, "unit": "% of sent", "ratio_to_plain": None},
        {"name": "probes_1000x3_cpu_share", "value": 100 * share, "unit": "% of a CPU", "ratio_to_plain": None},
        {"name": "probe_us", "value": 1e6 * share / per_second, "unit": "us", "ratio_to_plain": None},
    ]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["home_agent"]:
            asyncio.run(_home_agent())
        case ["mobile_nodes"]:
            _mobile_nodes()
        case _:
            print(json.dumps(measure(), indent=1))
