"""The conformance list against the reference, the indexed table and both data planes on real devices."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from mip6.dataplane.ebpf import EbpfDataPlane
from mip6.dataplane.index import Index
from mip6.dataplane.interface import DataPlane
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.forward import Arrival, Delivered, Dropped, Encapsulated, decapsulate, encapsulate
from mip6.forwarding import DropReason, ForwardingTable
from mip6.lookup import Lookup, Plain
from mip6.memory import Memory
from mip6.system.tun import Tun
from tests.dataplane.conformance import DECAPSULATE, ENCAPSULATE, In, Out
from tests.dataplane.conformance_node import NODE_DECAPSULATE, NODE_ENCAPSULATE
from tests.dataplane.test_reference import AGENT, CELL, WLAN
from tests.dataplane.test_tunnel import far, ip, until

__all__ = ["far"]
ETH_P_ALL = 3


def indexed(table: ForwardingTable) -> Index:
    index = Index(table.end, table.address)
    index.set_table(table)
    return index


@pytest.mark.parametrize("lookup", [Plain, indexed])
@pytest.mark.parametrize("case", [*ENCAPSULATE, *NODE_ENCAPSULATE], ids=lambda case: case.name)
def test_encapsulate(case: Out, lookup: type[Plain]) -> None:
    held: Lookup = lookup(case.table)
    verdict = encapsulate(held, case.packet, Memory(), 0, 0)
    if isinstance(verdict, Encapsulated):
        assert [(copy.tunnel.bid, packet) for copy in verdict.copies for packet in copy.packets] == list(case.sent)
    else:
        assert verdict.reason == case.drop


@pytest.mark.parametrize("lookup", [Plain, indexed])
@pytest.mark.parametrize("case", [*DECAPSULATE, *NODE_DECAPSULATE], ids=lambda case: case.name)
def test_decapsulate(case: In, lookup: type[Plain]) -> None:
    held: Lookup = lookup(case.table)
    outer = Arrival(case.source, case.destination, case.traffic_class, case.protocol)
    verdict = decapsulate(held, outer, case.packet, Memory(), 0)
    if isinstance(verdict, Delivered):
        assert verdict.packet == case.delivered
    else:
        assert isinstance(verdict, Dropped)
        assert verdict.reason == case.drop


def userspace() -> DataPlane:
    return UserspaceDataPlane(Tun("mip0", 1500), lambda _: None)


def ebpf() -> DataPlane:
    """Without the short cut, so that what is delivered is seen at the tunnel device."""
    for version in ("ipv4", "ipv6"):  # as on every home agent: programs ask the routes
        Path(f"/proc/sys/net/{version}/conf/all/forwarding").write_text("1")
    return EbpfDataPlane(UserspaceDataPlane(Tun("mip0", 1500), lambda _: None), "mip0", None, "off")


@pytest.mark.netns
@pytest.mark.parametrize("plane", [userspace, ebpf])
def test_the_data_planes_of_a_home_agent(far: socket.socket, plane: Callable[[], DataPlane]) -> None:
    """Every case twice: the first packet of a flow is classified, the second takes the way that was remembered."""
    neighbour(CELL)
    every_case(far, plane, ENCAPSULATE, DECAPSULATE)


@pytest.mark.netns
@pytest.mark.parametrize("plane", [userspace, ebpf])
def test_the_data_planes_of_a_mobile_node(far: socket.socket, plane: Callable[[], DataPlane]) -> None:
    """The same with the roles exchanged: care-of addresses here, the home agent at the far end."""
    ip("address", "flush", "dev", "eth0", "scope", "global")
    ip("neighbour", "flush", "dev", "eth0", "nud", "permanent")
    for care_of in (WLAN, CELL):
        ip("address", "add", f"{care_of}/64", "dev", "eth0", "nodad")
    neighbour(AGENT)
    every_case(far, plane, NODE_ENCAPSULATE, NODE_DECAPSULATE)


def neighbour(address: IPv6Address) -> None:
    ip("neighbour", "replace", str(address), "lladdr", "02:00:00:00:00:02", "dev", "eth0")
    ip("route", "add", f"{address}/128", "dev", "eth0")


def every_case(
    far: socket.socket, make: Callable[[], DataPlane], outgoing: Sequence[Out], incoming: Sequence[In]
) -> None:
    async def story() -> None:
        plane = make()
        plane.start()
        ip("link", "set", "eth0", "mtu", "1600")
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0) as device:
            device.bind(("mip0", ETH_P_ALL))
            for case in outgoing:
                plane.set_table(case.table)
                for time in ("first", "second"):
                    await _out(plane, device, far, case, time)
            received(device)  # the ICMPv6 errors of the cases before
            for arrival in incoming:
                plane.set_table(arrival.table)
                for time in ("first", "second"):
                    await _in(plane, far, device, arrival, time)
        plane.stop(remove=True)

    asyncio.run(story())


def inject(device: socket.socket, packet: bytes) -> None:
    """Give a packet to mip0, as a route to it would."""
    try:
        device.sendto(packet, ("mip0", 0x0800 if packet[0] >> 4 == 4 else 0x86DD))
    except OSError as error:
        if error.errno != errno.ENOBUFS:  # a program has dropped it
            raise


def received(sock: socket.socket) -> list[bytes]:
    """What has come in so far (a packet socket sees what goes out as well)."""
    found: list[bytes] = []
    while True:
        try:
            packet, address = sock.recvfrom(4096)
        except BlockingIOError:
            return found
        if address[2] != socket.PACKET_OUTGOING:
            found.append(packet)


def _drops(plane: DataPlane, reason: DropReason | None) -> int:
    return plane.counters().drops.get(reason, 0) if reason is not None else 0


async def _out(plane: DataPlane, device: socket.socket, far: socket.socket, case: Out, time: str) -> None:
    before = _drops(plane, case.drop)
    seen: list[bytes] = []
    inject(device, case.packet)

    def complete() -> bool:
        seen.extend(one for one in received(far) if one[6] in (41, 4, 44))
        return len(seen) == len(case.sent) and _drops(plane, case.drop) == before + (case.drop is not None)

    try:
        await until(complete)
    except TimeoutError:
        pytest.fail(f"{case.name}, {time} packet: {len(seen)} outer packets, drops {plane.counters().drops}")
    assert sorted(seen) == sorted(packet for _, packet in case.sent), f"{case.name}, {time} packet"


async def _in(plane: DataPlane, far: socket.socket, device: socket.socket, case: In, time: str) -> None:
    before = _drops(plane, case.drop)
    header = (6 << 28 | case.traffic_class << 20).to_bytes(4, "big") + len(case.packet).to_bytes(2, "big")
    header += bytes((case.protocol, 64))
    outer = header + case.source.packed + case.destination.packed + case.packet
    seen: list[bytes] = []
    far.sendto(outer, ("far0", 0x86DD, 0, 0, b"\x02\0\0\0\0\x01"))

    def complete() -> bool:
        seen.extend(received(device))
        wanted = case.delivered is not None
        return len(seen) == wanted and _drops(plane, case.drop) == before + (case.drop is not None)

    try:
        await until(complete)
    except TimeoutError:
        pytest.fail(f"{case.name}, {time} packet: {len(seen)} delivered, drops {plane.counters().drops}")
    assert seen == ([case.delivered] if case.delivered is not None else []), f"{case.name}, {time} packet"
