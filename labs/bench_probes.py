"""What path measurement costs a home agent with 1,000 mobile nodes of three paths each, all of them busy.

    nodes ---- ha

In ha runs the home agent's `Prober` alone, as its daemon runs it; in nodes one process plays all mobile nodes: it sends
every path's probe each 100 ms, answers the home agent's own, and counts the answers it gets. All packets are
authenticated. Without tunnels: what a data plane needs for these packets its own benchmark says.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from mip6.dataplane.interface import Counters, TunnelCounters
from mip6.forwarding import End, ForwardingTable, Node, Tunnel
from mip6.path import PathSettings
from mip6.probeflows import probe_port, probe_rules
from mip6.stamp import REFLECTOR_PORT, derive_key, read_probe, reflect, write_probe
from mip6.system.probes import Measured, Prober

NODES, BIDS = 1000, (1, 2, 3)
INTERVAL = PathSettings().interval
SECONDS, SETTLE = 8, 2
HOMES = IPv6Network("2001:db8:f00::/64")
HOME_AGENT, NEIGHBOUR = "2001:db8:2::1", "2001:db8:2::2"
SECRET = bytes(range(20))
ANSWERED_AT_LEAST = 0.98
_BUFFER = 8 << 20
_SO_RCVBUFFORCE, _IPV6_FREEBIND = 33, 78
_PACKET_INFORMATION = struct.Struct("@16sI")
DEVICE = "veth0"


def _homes() -> list[IPv6Address]:
    return [HOMES[number + 16] for number in range(NODES)]


async def _home_agent() -> None:
    """The measured process: says how much processor time it took between two lines on its input."""
    agent = IPv6Address(HOME_AGENT)
    nodes = {}
    for number, home in enumerate(_homes()):
        care_of = [IPv6Address(f"2001:db8:{bid}::{number + 16:x}") for bid in BIDS]
        tunnels = tuple(Tunnel(bid, agent, one) for bid, one in zip(BIDS, care_of, strict=True))
        nodes[home] = Node(home, (), tunnels, probe_rules(home, agent, BIDS))
    settings, keys = PathSettings(), {home: (derive_key(SECRET, home),) for home in nodes}
    traffic = {(home, bid): TunnelCounters() for home in nodes for bid in BIDS}

    def counters() -> Counters:
        for one in traffic.values():
            one.packets_out += 1000  # every path is busy
        return Counters(traffic)

    prober = Prober(Measured(agent, End.HOME_AGENT, DEVICE, keys.__getitem__, lambda tunnel: settings))
    prober.start(lambda changed: None, counters)
    prober.set_table(ForwardingTable(End.HOME_AGENT, agent, nodes))
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)

    def asked() -> None:
        os.read(sys.stdin.fileno(), 1024)
        print(json.dumps([sum(os.times()[:2]), time.monotonic()]), flush=True)

    loop.add_reader(sys.stdin, asked)
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
    """All of them, for so many seconds; prints how many probes they sent, and how many were answered."""
    homes = _homes()
    keys = {home.packed: derive_key(SECRET, home) for home in homes}
    sockets = {bid: _open(probe_port(bid)) for bid in BIDS}
    reflector = _open(REFLECTOR_PORT)
    sources = [
        (home, [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PACKET_INFORMATION.pack(home.packed, 0))]) for home in homes
    ]
    every = [(bid, home, source) for home, source in sources for bid in BIDS]
    sent = answered = 0
    begin = time.monotonic()
    per_second = len(every) / INTERVAL
    while (now := time.monotonic() - begin) < SECONDS + 2 * SETTLE:
        due = int(now * per_second)
        for number in range(sent, min(due, sent + 64)):
            sequence, which = divmod(number, len(every))
            bid, home, source = every[which]
            packet = write_probe(sequence, number << 16, bid, keys[home.packed])
            sockets[bid].sendmsg([packet], source, 0, (HOME_AGENT, REFLECTOR_PORT))
            sent += 1
        answered += sum(_drain(sock) for sock in sockets.values())
        _reflect(reflector, keys)
        if sent >= due:
            select.select([], [], [], 0.001)
    time.sleep(0.2)
    answered += sum(_drain(sock, 100_000) for sock in sockets.values())
    print(json.dumps([sent, answered]), flush=True)


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
    """The share of one processor, and the share of the probes that were answered; RuntimeError when too few were."""
    prefix = f"prb{os.getpid()}"
    agent, nodes = f"{prefix}-ha", f"{prefix}-nodes"
    started: list[subprocess.Popen[str]] = []
    made: list[str] = []

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def start(space: str, role: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", space, sys.executable, "-m", "labs.bench_probes", role]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    try:
        for space in (agent, nodes):
            ip("netns", "add", space)
            made.append(space)
            ip("-n", space, "link", "set", "lo", "up")
        ip("-n", agent, "link", "add", DEVICE, "type", "veth", "peer", DEVICE, "netns", nodes)
        for space, address in ((agent, HOME_AGENT), (nodes, NEIGHBOUR)):
            ip("-n", space, "address", "add", f"{address}/64", "dev", DEVICE, "nodad")
            ip("-n", space, "link", "set", DEVICE, "up")
        ip("-n", agent, "-6", "route", "add", str(HOMES), "via", NEIGHBOUR)
        ip("-n", nodes, "-6", "route", "add", "local", str(HOMES), "dev", "lo")
        measured = start(agent, "home_agent")
        assert measured.stdin is not None and measured.stdout is not None
        measured.stdout.readline()
        load = start(nodes, "mobile_nodes")
        assert load.stdout is not None
        figures = []
        for wait in (SETTLE, SECONDS):
            time.sleep(wait)
            measured.stdin.write("now\n")
            measured.stdin.flush()
            figures.append(json.loads(measured.stdout.readline()))
        (before, began), (after, ended) = figures
        sent, answered = json.loads(load.stdout.readline())
    finally:
        for process in started:
            process.terminate()
            process.wait()
        for space in made:
            ip("netns", "delete", space)
    expected = (SECONDS + 2 * SETTLE) * NODES * len(BIDS) / INTERVAL
    share = answered / expected
    if share < ANSWERED_AT_LEAST:
        print(f"bench: of {expected:.0f} probes {sent} were sent and {answered} answered: too busy", file=sys.stderr)
    return [
        {"name": name, "value": value, "unit": unit, "ratio_to_plain": None}
        for name, value, unit in (
            ("probes_1000x3_cpu_share", (after - before) / (ended - began), "of a CPU"),
            ("probes_1000x3_answered", share, "of all due"),
        )
    ]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["home_agent"]:
            asyncio.run(_home_agent())
        case ["mobile_nodes"]:
            _mobile_nodes()
        case _:
            print(json.dumps(measure(), indent=1))
