"""Network namespaces for these tests: the test itself runs inside the first one, a neighbour stands beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from pyroute2 import netns as namespaces

LIMIT = 10.0  # seconds


class Pair:
    """Two namespaces joined by a veth: `eth0` here, `far0` in the neighbour's.

    here --- eth0 ======== far0 --- there
    """

    def __init__(self) -> None:
        unique = uuid.uuid4().hex[:8]
        self.here, self.there = f"sy{unique}h", f"sy{unique}t"
        self._children: list[subprocess.Popen[bytes]] = []

    def make(self) -> None:
        for name in (self.here, self.there):
            subprocess.run(["ip", "netns", "add", name], check=True)
            self._in(name, "ip link set lo up")
        self._in(self.here, f"ip link add eth0 type veth peer name far0 netns {self.there}")
        self.run("ip link set eth0 up")
        self.far("ip link set far0 up")

    def remove(self) -> None:
        for child in self._children:
            child.send_signal(signal.SIGTERM)
            child.wait(10)
        for name in (self.here, self.there):
            subprocess.run(["ip", "netns", "del", name], check=True)

    def run(self, command: str) -> str:
        return self._in(self.here, command)

    def far(self, command: str) -> str:
        return self._in(self.there, command)

    def give_far(self, address: IPv6Address) -> None:
        """The neighbour has it, and hears what is asked about it: the kernel joins the address's group a moment later,
        much later on a busy machine."""
        self.far(f"ip addr add {address}/64 dev far0 nodad")
        group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)
        until(lambda: group.packed.hex() in self.far("cat /proc/net/igmp6"))

    def far_daemon(self, *command: str) -> None:
        self._children.append(subprocess.Popen(["ip", "netns", "exec", self.there, *command]))

    def _in(self, name: str, command: str) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", name, *command.split()], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


def until(condition: Callable[[], object]) -> None:
    """Wait for the kernel to have done what it was told."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The two namespaces; the test's own process is inside `here`."""
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    if not shutil.which("ip"):
        pytest.skip("needs the command ip (Debian package iproute2)")
    pair = Pair()
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        pair.make()
        namespaces.setns(pair.here)
        yield pair
    finally:
        namespaces.setns(home)
        os.close(home)
        pair.remove()


def sysctl(path: str) -> Path:
    return Path("/proc/sys/net/ipv6", path)
