"""Two joined network namespaces of a benchmark, and the processor time of a process in one of them.

    nodes ---- ha

In ha runs what is measured, in nodes one process that plays all mobile nodes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DEVICE = "veth0"
HOME_AGENT, NEIGHBOUR = "2001:db8:2::1", "2001:db8:2::2"
READY_LIMIT = 10.0  # seconds until both ends of the link may be used
HOME_AGENT4, NEIGHBOUR4 = "203.0.113.1", "203.0.113.2"


class Pair:
    """Both namespaces; `started` processes end with them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._prefix = f"pair{os.getpid()}"
        for space in ("ha", "nodes"):
            subprocess.run(["ip", "netns", "add", self.space(space)], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", self.space(space)], check=True)
            self.ip(space, "link set lo up")
        self.ip("ha", f"link add {DEVICE} type veth peer {DEVICE} netns {self.space('nodes')}")
        for space, addresses in (("ha", (HOME_AGENT, HOME_AGENT4)), ("nodes", (NEIGHBOUR, NEIGHBOUR4))):
            self.ip(space, f"address add {addresses[0]}/64 dev {DEVICE} nodad")
            self.ip(space, f"address add {addresses[1]}/24 dev {DEVICE}")
            self.ip(space, f"link set {DEVICE} up")
        self._await_link_local()

    def _await_link_local(self) -> None:
        """Where packets have another source than the device's addresses the kernel asks for the neighbour from its
        link-local address: not before that has passed duplicate address detection, and then again after a second."""
        deadline = time.monotonic() + READY_LIMIT
        for space in ("ha", "nodes"):
            show = ["ip", "-n", self.space(space), "-6", "address", "show", DEVICE, "scope", "link", "-tentative"]
            while not subprocess.run(show, check=True, capture_output=True).stdout:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{DEVICE} in {space} has no link-local address after {READY_LIMIT} s")
                time.sleep(0.02)

    def space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def ip(self, space: str, command: str) -> None:
        subprocess.run(["ip", "-n", self.space(space), *command.split()], check=True)

    def start(self, space: str, *command: str) -> subprocess.Popen[str]:
        """A Python module with its arguments, that says "ready" when it is; RuntimeError when it ends instead."""
        words = ["ip", "netns", "exec", self.space(space), sys.executable, "-m", *command]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self._stack.callback(process.communicate)
        self._stack.callback(process.terminate)
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{' '.join(command)} did not start")
        return process


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    """The namespaces, removed again whatever happens."""
    with contextlib.ExitStack() as stack:
        yield Pair(stack)


def shares(process: subprocess.Popen[str], windows: int, seconds: float) -> list[float]:
    """The share of one processor that the process takes, in so many windows one after the other."""
    found = []
    before, began = _processor_time(process.pid), time.monotonic()
    for _ in range(windows):
        time.sleep(seconds)
        after, ended = _processor_time(process.pid), time.monotonic()
        found.append((after - before) / (ended - began))
        before, began = after, ended
    return found


def _processor_time(pid: int) -> float:
    """Seconds that all its threads have run."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in threads) / 1e9
