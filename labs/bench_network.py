"""The network of the data plane benchmarks, and how it is measured.

    lfn ---- mr ==== core ---- ha ---- cn         ==== are two paths, `a` and `b`

One `Network` per way of forwarding (plain, a data plane of ours, what the kernel has of its own); several stand side
by side, so that they are measured in turn in one run and a slow moment of the machine meets all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from labs.bench_traffic import DELAY_RATE

HOME_AGENT, CARE_OF, CARE_OF_B = "2001:db8:2::1", "2001:db8:a::1", "2001:db8:b::1"
HOME_AGENT4, CARE_OF4 = "192.0.2.65", "192.0.2.1"
HOME_ADDRESS, MOBILE_NETWORK = "2001:db8:f00::1", "2001:db8:f00::/64"
CORRESPONDENT, VEHICLE_NODE = "2001:db8:c::2", "2001:db8:f00::2"
NODES = ("lfn", "mr", "core", "ha", "cn")
# each end: node, interface, address
LINKS = (
    (("lfn", "mr", VEHICLE_NODE), ("mr", "lfn", HOME_ADDRESS)),
    (("mr", "core", CARE_OF), ("core", "mr", "2001:db8:a::2")),
    (("mr", "coreb", CARE_OF_B), ("core", "mrb", "2001:db8:b::2")),
    (("core", "ha", "2001:db8:2::2"), ("ha", "core", HOME_AGENT)),
    (("ha", "cn", "2001:db8:c::1"), ("cn", "ha", CORRESPONDENT)),
)
ROUTES = (
    ("lfn", f"default via {HOME_ADDRESS}"),
    ("cn", "default via 2001:db8:c::1"),
    ("mr", "default via 2001:db8:a::2"),
    ("ha", "default via 2001:db8:2::2"),
    ("core", f"{MOBILE_NETWORK} via {CARE_OF}"),
    ("core", f"2001:db8:c::/64 via {HOME_AGENT}"),
)
# path `a` in IPv4: node, interface, address
ADDRESSES4 = (
    ("mr", "core", CARE_OF4),
    ("core", "mr", "192.0.2.2"),
    ("core", "ha", "192.0.2.66"),
    ("ha", "core", HOME_AGENT4),
)
ROUTES4 = (("mr", "default via 192.0.2.2"), ("ha", "default via 192.0.2.66"))
LOSS_ALLOWED = 0.01
TRIAL = 0.4  # seconds of one rate
STEPS = 6  # of a search: to a sixty-fourth of what arrives
REPEATS, SHORT_REPEATS = 5, 7  # rounds; of measurements that mostly take less than a second
MANY_REPEATS = 15  # rounds of the short ones that scatter most
TCP_SECONDS = 2  # whole ones: iperf3 takes no others
DELAY_SECONDS = 0.5
SETTLE = 0.05  # seconds in which the queues empty themselves


class Network:
    """The namespaces of one way of forwarding; a context manager that takes all of them away again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._prefix = f"dpb{os.getpid()}-{name}"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for node in NODES:
                subprocess.run(["ip", "netns", "add", self.space(node)], check=True)
                stack.callback(subprocess.run, ["ip", "netns", "del", self.space(node)], check=True)
                self.run(node, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1")
                self.run(node, "ip", "link", "set", "lo", "up")
            for one, other in LINKS:
                peer = ("peer", "name", other[1], "netns", self.space(other[0]))
                self.run(one[0], "ip", "link", "add", one[1], "type", "veth", *peer)
                for node, device, address in (one, other):
                    self.run(node, "ip", "address", "add", f"{address}/64", "dev", device, "nodad")
                    self.run(node, "ip", "link", "set", device, "up")
            for node, device, address in ADDRESSES4:
                self.run(node, "ip", "address", "add", f"{address}/26", "dev", device)
            for version, routes in (("-6", ROUTES), ("-4", ROUTES4)):
                for node, route in routes:
                    self.run(node, "ip", version, "route", "add", *route.split())
            for node, address in (("cn", CORRESPONDENT), ("lfn", VEHICLE_NODE)):
                stack.enter_context(self.child(node, "labs.bench_traffic", "sink", address))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def space(self, node: str) -> str:
        return f"{self._prefix}-{node}"

    def command(self, node: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.space(node), *command]

    def run(self, node: str, *command: str) -> str:
        """Standard output; CalledProcessError when it fails."""
        return subprocess.run(self.command(node, *command), check=True, stdout=subprocess.PIPE, text=True).stdout

    def python(self, node: str, module: str, *arguments: str) -> list[str]:
        return self.command(node, sys.executable, "-m", module, *arguments)

    @contextlib.contextmanager
    def child(self, node: str, module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A module of ours that says "ready" and then runs until it is ended here."""
        child = subprocess.Popen(self.python(node, module, *arguments), stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            if child.stdout.readline().strip() != "ready":
                raise RuntimeError(f"{module} {' '.join(arguments)} in {node} did not start")
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=20)

    def start(self, node: str, module: str, *arguments: str) -> None:
        """A `child` that lives as long as the network."""
        self._stack.enter_context(self.child(node, module, *arguments))

    # --- measuring ---------------------------------------------------------------------------------------------------

    def arrived(self, node: str = "lfn") -> int:
        """Packets that came in at an end since it exists."""
        device = {"lfn": "mr", "cn": "ha"}[node]
        found = json.loads(self.run(node, "ip", "-j", "-s", "link", "show", device))
        return int(found[0]["stats64"]["rx"]["packets"])

    def trial(self, size: int, rate: float, copies: int = 1) -> tuple[float, float]:
        """The rate from cn to lfn that was sent, and the share of its `copies` that was lost."""
        before = self.arrived()
        sent, elapsed, _ = self._send(size, rate)
        time.sleep(SETTLE)
        return sent / elapsed, 1 - (self.arrived() - before) / (sent * copies)

    def packets_per_second(self, size: int, copies: int = 1) -> float:
        """The highest rate of packets of `size` octets of which at most one in a hundred is lost, by bisection around
        what arrives when the sender has no limit. A rate is too high only if it loses twice: once may be the machine's
        doing. RuntimeError when every rate loses."""
        flood, lost = self.trial(size, 0, copies)
        if lost <= LOSS_ALLOWED:
            return flood
        arrived = flood * (1 - lost)
        best, low, high = 0.0, 0.4 * arrived, min(flood, 1.4 * arrived)
        for _ in range(STEPS):
            rate = (low + high) / 2
            for _ in range(2):
                reached, lost = self.trial(size, rate, copies)
                if lost <= LOSS_ALLOWED:
                    break
            if lost <= LOSS_ALLOWED:
                best, low = max(best, reached), rate
            else:
                high = rate
        if not best:
            raise RuntimeError(f"{self.name}: even {low:.0f} packets per second lose more than {LOSS_ALLOWED:.0%}")
        return best

    def packet_ns(self, size: int) -> float:
        """Processor time for a packet of `size` octets from cn to lfn, sending included, in nanoseconds; of ways that
        lie within the kernel. It is less at the mercy of what else the machine does than a rate is."""
        sent, _, spent = self._send(size, 0)
        return spent / sent * 1e9

    def _send(self, size: int, rate: float) -> tuple[int, float, float]:
        made = self.python("cn", "labs.bench_traffic", "send", VEHICLE_NODE, str(size), str(rate), str(TRIAL))
        sent, elapsed, spent = json.loads(subprocess.run(made, check=True, stdout=subprocess.PIPE, text=True).stdout)
        return sent, elapsed, spent

    def tcp_gbps(self, *, down: bool) -> float:
        """Throughput of one connection; down is from cn to lfn."""
        server = subprocess.Popen(self.command("cn", "iperf3", "-s", "-1", "--forceflush"), stdout=subprocess.PIPE)
        assert server.stdout is not None
        while b"listening" not in server.stdout.readline():
            if server.poll() is not None:
                raise RuntimeError("iperf3 did not start")
        reverse = ["-R"] if down else []
        client = ["iperf3", "-6", "-J", "-c", CORRESPONDENT, "-t", str(TCP_SECONDS), *reverse]
        result = self.run("lfn", *client)
        server.communicate(timeout=10)
        return float(json.loads(result)["end"]["sum_received"]["bits_per_second"]) / 1e9

    def delay_p99(self) -> float:
        """99th percentile of the one-way delay from cn to lfn, in microseconds."""
        count, seconds = int(DELAY_SECONDS * DELAY_RATE), str(DELAY_SECONDS)
        with self._receiver(count) as receiver:
            self.run("cn", sys.executable, "-m", "labs.bench_traffic", "send-stamped", VEHICLE_NODE, "200", seconds)
            output, _ = receiver.communicate(timeout=20)
        delays = json.loads(output)
        if len(delays) < 0.99 * count:
            raise RuntimeError(f"{self.name}: only {len(delays)} of {count} stamped packets came")
        return float(statistics.quantiles(delays, n=100)[98])

    @contextlib.contextmanager
    def _receiver(self, count: int) -> Iterator[subprocess.Popen[str]]:
        call = self.python("lfn", "labs.bench_traffic", "receive-stamped", VEHICLE_NODE, str(count))
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as receiver:
            try:
                assert receiver.stdout is not None
                if receiver.stdout.readline().strip() != "ready":
                    raise RuntimeError("the receiver of stamped packets did not start")
                yield receiver
            finally:
                receiver.kill()


Rounds = Mapping[str, Sequence[float]]
"""What was measured of each network, by name: one value a round."""


def in_turn(networks: Iterable[Network], measure: Callable[[Network], float], times: int = REPEATS) -> Rounds:
    """Measure every network `times` times, one after the other in each round, every other round backwards."""
    chosen = list(networks)
    found: dict[str, list[float]] = {network.name: [] for network in chosen}
    for number in range(times):
        for network in chosen if number % 2 == 0 else reversed(chosen):
            found[network.name].append(measure(network))
    return found


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of each round: what slows the machine for a while slows both."""
    return statistics.median(one / other for one, other in zip(values, others, strict=True))
