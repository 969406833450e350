"""The userspace data plane on a real TUN and real sockets: what arrives, and what the counters say.

here: home agent, mip0 --- eth0 ======== far0 --- there: care-of address, played by scapy's packets
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address

import pytest
from pyroute2 import netns as namespaces

from labs.patience import FACTOR
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.events import PathMtuChanged
from mip6.forward import encapsulate
from mip6.forwarding import DropReason
from mip6.lookup import Plain
from mip6.memory import Memory
from mip6.system.tun import Tun, TunError
from tests.dataplane.test_reference import AGENT, HOME, PEER, WLAN, table, udp

pytestmark = pytest.mark.netns


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


@pytest.fixture
def far() -> Iterator[socket.socket]:
    """A packet socket at the care-of address's end; the test itself is inside the home agent's namespace."""
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    if not shutil.which("ip"):
        pytest.skip("needs the command ip (Debian package iproute2)")
    unique = uuid.uuid4().hex[:8]
    here, there = f"dp{unique}h", f"dp{unique}t"
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        for name in (here, there):
            ip("netns", "add", name)
        ip(
            "-n",
            here,
            "link",
            "add",
            "eth0",
            "address",
            "02:00:00:00:00:01",
            "type",
            "veth",
            "peer",
            "far0",
            "netns",
            there,
        )
        namespaces.setns(there)
        ip("link", "set", "far0", "mtu", "1600", "up")  # a veth drops what its peer's MTU does not allow
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(0x86DD))
        sock.bind(("far0", 0x86DD))
        namespaces.setns(here)
        for device in ("lo", "eth0"):
            ip("link", "set", device, "up")
        for address in (AGENT, "2001:db8:a::1"):
            ip("address", "add", f"{address}/64", "dev", "eth0", "nodad")
        ip("neighbour", "add", str(WLAN), "lladdr", "02:00:00:00:00:02", "dev", "eth0")
        with sock:
            yield sock
    finally:
        namespaces.setns(home)
        os.close(home)
        for name in (here, there):
            ip("netns", "del", name)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5 * FACTOR):
        while not condition():
            await asyncio.sleep(0.005)


def test_bytes_and_counters_of_both_directions(far: socket.socket) -> None:
    async def story() -> None:
        changes: list[PathMtuChanged] = []
        plane = UserspaceDataPlane(Tun("mip0", 1460), changes.append)
        plane.start()
        plane.set_table(table())
        ip("route", "add", f"{HOME}/128", "dev", "mip0")
        seen: list[bytes] = []

        def outer() -> bool:
            while True:
                try:
                    packet = far.recv(2048)
                except BlockingIOError:
                    return len(seen) == 3
                if packet[6] == 41:
                    seen.append(packet)

        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for size in (64, 65, 1280):
                raw.sendto(udp(size, src=str(AGENT)), (str(HOME), 0))
        await until(outer)
        expected = [encapsulate(Plain(table()), udp(n, src=str(AGENT)), Memory(), 0, 0) for n in (64, 65, 1280)]
        assert seen == [verdict.copies[0].packets[0] for verdict in expected]  # type: ignore[union-attr]
        assert plane.counters().tunnel(HOME, 1) == {
            "packets_out": 3,
            "bytes_out": 64 + 65 + 1280,
            "packets_in": 0,
            "bytes_in": 0,
            "packets_first": 0,
            "packets_duplicate": 0,
        }

        def arrive(inner: bytes, source: IPv6Address = WLAN) -> None:
            (before, behind) = b"\x60\0\0\0", b"\x29\x40" + source.packed + AGENT.packed
            packet = before + len(inner).to_bytes(2, "big") + behind + inner
            far.sendto(packet, ("far0", 0x86DD, 0, 0, b"\x02\0\0\0\0\x01"))

        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as application:
            application.bind((str(AGENT), 9))
            arrive(udp(100, src=str(HOME), dst=str(AGENT)))
            arrive(udp(101, src=str(HOME), dst=str(AGENT)))
            arrive(udp(102, src=str(PEER), dst=str(AGENT)))  # not its address
            arrive(udp(103, src=str(HOME), dst=str(AGENT)), PEER)  # nobody's care-of address
            await until(lambda: plane.counters().drops.get(DropReason.UNKNOWN_OUTER_SOURCE) == 1)
            assert [len(application.recv(2048)) for _ in range(2)] == [100 - 48, 101 - 48]
            with pytest.raises(BlockingIOError):
                application.recv(2048)
        counted = plane.counters().tunnel(HOME, 1)
        assert (counted["packets_in"], counted["bytes_in"]) == (2, 201)
        assert plane.counters().drops[DropReason.SOURCE_NOT_OWNED] == 1
        assert changes == []
        plane.stop(remove=True)
        with pytest.raises(OSError):
            socket.if_nametoindex("mip0")

    asyncio.run(story())


@pytest.mark.usefixtures("far")
def test_device_is_kept_and_adopted_and_belongs_to_one() -> None:
    first = Tun("mip0", 1460)
    index = socket.if_nametoindex("mip0")
    with pytest.raises(TunError, match="in use"):
        Tun("mip0", 1460)
    first.close()
    second = Tun("mip0", 1400)
    assert socket.if_nametoindex("mip0") == index
    second.remove()
    with pytest.raises(TunError, match="15"):
        Tun("a-name-of-16-oct", 1460)
