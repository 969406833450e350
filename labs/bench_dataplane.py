"""How fast the data planes are, beside plain forwarding through the same namespaces in the same run.

    lfn ---- mr ---- core ---- ha ---- cn

The data planes run in mr and ha with a fixed table, without the agents. Packets per second: the highest rate of
packets of 64 octets from lfn to cn of which at most one in a hundred is lost, counted where they arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.forwarding import End, ForwardingTable, Node, Tunnel
from mip6.system.tun import Tun

HOME_AGENT, CARE_OF = "2001:db8:2::1", "2001:db8:1::1"
HOME_ADDRESS, MOBILE_NETWORK, CORRESPONDENT = "2001:db8:f00::1", "2001:db8:f00::/64", "2001:db8:c::2"
NODES = ("lfn", "mr", "core", "ha", "cn")
LINKS = (
    ("lfn", "2001:db8:f00::2", "mr", HOME_ADDRESS),
    ("mr", CARE_OF, "core", "2001:db8:1::2"),
    ("core", "2001:db8:2::2", "ha", HOME_AGENT),
    ("ha", "2001:db8:c::1", "cn", CORRESPONDENT),
)
PLAIN_ROUTES = (
    ("lfn", "default via 2001:db8:f00::1"),
    ("cn", "default via 2001:db8:c::1"),
    ("mr", "default via 2001:db8:1::2"),
    ("ha", "default via 2001:db8:2::2"),
    ("core", f"{MOBILE_NETWORK} via {CARE_OF}"),
    ("core", f"2001:db8:c::/64 via {HOME_AGENT}"),
)
TUNNEL_ROUTES = (("mr", "2001:db8:c::/64 dev mip0"), ("ha", f"{MOBILE_NETWORK} dev mip0"))
PAYLOAD = 64 - 40 - 8
LOSS_ALLOWED = 0.01
TRIAL = 0.5  # seconds of one rate
STEPS, REPEATS = 7, 3
TCP_SECONDS = 2
BATCH = 32  # packets of one sendmmsg


class _Namespaces:
    def __init__(self) -> None:
        self._prefix = f"dpb{os.getpid()}"

    def name(self, node: str) -> str:
        return f"{self._prefix}-{node}"

    def command(self, node: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name(node), *command]

    def run(self, node: str, *command: str) -> str:
        return subprocess.run(self.command(node, *command), check=True, capture_output=True, text=True).stdout

    def python(self, node: str, *arguments: str) -> list[str]:
        return self.command(node, sys.executable, "-m", "labs.bench_dataplane", *arguments)


@contextlib.contextmanager
def _namespaces() -> Iterator[_Namespaces]:
    spaces = _Namespaces()
    with contextlib.ExitStack() as stack:
        for node in NODES:
            subprocess.run(["ip", "netns", "add", spaces.name(node)], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", spaces.name(node)], check=True)
            spaces.run(node, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        for left, left_address, right, right_address in LINKS:
            spaces.run(left, "ip", "link", "add", right, "type", "veth", "peer", left, "netns", spaces.name(right))
            for node, device, address in ((left, right, left_address), (right, left, right_address)):
                spaces.run(node, "ip", "address", "add", f"{address}/64", "dev", device, "nodad")
                spaces.run(node, "ip", "link", "set", device, "up")
        for node, route in PLAIN_ROUTES:
            spaces.run(node, "ip", "-6", "route", "add", *route.split())
        yield spaces


async def _end(node: str) -> None:
    """One end of the tunnel until SIGTERM."""
    agent, care_of, home = IPv6Address(HOME_AGENT), IPv6Address(CARE_OF), IPv6Address(HOME_ADDRESS)
    local, remote = (care_of, agent) if node == "mr" else (agent, care_of)
    entry = Node(home, (IPv6Network(MOBILE_NETWORK),), (Tunnel(1, local, remote),))
    end = End.MOBILE_NODE if node == "mr" else End.HOME_AGENT
    plane = UserspaceDataPlane(Tun("mip0", 1460), lambda changed: None)
    plane.start()
    plane.set_table(ForwardingTable(end, home if node == "mr" else agent, {home: entry}))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    plane.stop(remove=True)


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr of a connected socket."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vector", ctypes.POINTER(_IoVector)),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


def _send(rate: float) -> None:
    """Send at `rate` packets per second for one trial; prints how many were sent and in what time."""
    library = ctypes.CDLL(None, use_errno=True)
    vector = _IoVector(b"x" * PAYLOAD, PAYLOAD)
    messages = (_Message * BATCH)()
    for message in messages:
        message.header.vector, message.header.vectors = ctypes.pointer(vector), 1
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.connect((CORRESPONDENT, 9))
        sent, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < TRIAL:
            ahead = (sent + BATCH) / rate - elapsed
            if ahead > 0.0002:
                time.sleep(ahead)
            done = library.sendmmsg(sock.fileno(), messages, BATCH, 0)
            if done < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            sent += done
    print(json.dumps([sent, time.perf_counter() - start]))


def _sink() -> None:
    """Hold the port until SIGTERM, so that nothing is answered; what overflows has arrived all the same."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind((CORRESPONDENT, 9))
        print("ready", flush=True)
        signal.pause()


@contextlib.contextmanager
def _children(spaces: _Namespaces, *wanted: tuple[str, ...]) -> Iterator[None]:
    """Run parts of this module, each (namespace, arguments...), and end them."""
    running = []
    try:
        for node, *arguments in wanted:
            child = subprocess.Popen(spaces.python(node, *arguments), stdout=subprocess.PIPE, text=True)
            running.append(child)
            assert child.stdout is not None
            if child.stdout.readline().strip() != "ready":
                raise RuntimeError(f"{' '.join(arguments)} in {node} did not start")
        yield
    finally:
        for child in running:
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=10)


def _arrived(spaces: _Namespaces) -> int:
    found = json.loads(spaces.run("cn", "ip", "-j", "-s", "link", "show", "ha"))
    return int(found[0]["stats64"]["rx"]["packets"])


def _trial(spaces: _Namespaces, rate: float) -> tuple[float, float]:
    """The rate that was reached and the share that was lost."""
    before = _arrived(spaces)
    done = subprocess.run(spaces.python("lfn", "send", str(rate)), check=True, capture_output=True, text=True)
    sent, elapsed = json.loads(done.stdout)
    time.sleep(0.1)  # the queues empty themselves
    return sent / elapsed, 1 - (_arrived(spaces) - before) / sent


def _packets_per_second(spaces: _Namespaces) -> float:
    """Median of several searches by bisection."""
    found = []
    for _ in range(REPEATS):
        best, low, high = 0.0, 4_000.0, 1_000_000.0
        for _ in range(STEPS):
            rate = (low * high) ** 0.5
            reached, lost = _trial(spaces, rate)
            if lost <= LOSS_ALLOWED:
                best, low = max(best, reached), rate
                if reached < rate * 0.9:
                    break  # the sender is at its end
            else:
                high = rate
        found.append(best)
    return statistics.median(found)


def _tcp_gbps(spaces: _Namespaces) -> float:
    found = []
    for _ in range(REPEATS):
        server = subprocess.Popen(spaces.command("cn", "iperf3", "-s", "-1", "--forceflush"), stdout=subprocess.PIPE)
        assert server.stdout is not None
        while b"listening" not in server.stdout.readline():
            if server.poll() is not None:
                raise RuntimeError("iperf3 did not start")
        result = spaces.run("lfn", "iperf3", "-6", "-J", "-c", CORRESPONDENT, "-t", str(TCP_SECONDS))
        server.communicate(timeout=10)
        found.append(float(json.loads(result)["end"]["sum_received"]["bits_per_second"]) / 1e9)
    return statistics.median(found)


def measure() -> list[dict[str, Any]]:
    """The four figures; `ratio_to_plain` is None for plain forwarding itself. Needs root and iperf3."""
    with _namespaces() as spaces, _children(spaces, ("cn", "sink")):
        plain = {"tcp_gbps": _tcp_gbps(spaces), "pps_64": _packets_per_second(spaces)}
        with _children(spaces, ("mr", "end", "mr"), ("ha", "end", "ha")):
            for node, route in TUNNEL_ROUTES:
                spaces.run(node, "ip", "-6", "route", "replace", *route.split(), "metric", "1")
            tunnel = {"tcp_gbps": _tcp_gbps(spaces), "pps_64": _packets_per_second(spaces)}
    rows: list[dict[str, Any]] = []
    for kind, values in (("plain", plain), ("userspace", tunnel)):
        for name, value in values.items():
            ratio = None if kind == "plain" else value / plain[name]
            unit = "Gbit/s" if name == "tcp_gbps" else "packets/s"
            rows.append({"name": f"{kind}_{name}", "value": value, "unit": unit, "ratio_to_plain": ratio})
    return rows


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["end", node]:
            asyncio.run(_end(node))
        case ["sink"]:
            _sink()
        case ["send", rate]:
            _send(float(rate))
        case _:
            print(json.dumps(measure(), indent=1))
