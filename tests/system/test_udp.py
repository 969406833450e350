"""UdpSockets on the loopback and between namespaces: signalling and data told apart, classes kept, errors heard."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv6Address, ip_address

import asyncio_dgram
import pytest

from mip6.actions import UdpEndpoint
from mip6.events import PacketReceived, PathMtuChanged
from mip6.headers import ipv6_header
from mip6.system.udp import UdpSockets
from mip6.system.udpsignalling import SignallingSocket
from mip6.udp import UdpEnds
from tests.system.conftest import Pair

OWN, HOME = IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:100::5")
SIGNALLING = ipv6_header(HOME, OWN, 135, 8) + bytes((59, 0, 5, 0, 0, 0, 0, 0))
LOOPBACKS = ["127.0.0.1", "::1"]


class Ears:
    """What the sockets handed over."""

    def __init__(self) -> None:
        self.signalling: list[PacketReceived] = []
        self.data: list[tuple[UdpEnds, int, bytes]] = []
        self.mtus: list[PathMtuChanged] = []

    def sockets(self, **how: bool) -> UdpSockets:
        sockets = UdpSockets(OWN, self.signalling.append, self.mtus.append, **how)
        sockets.on_data = lambda *one: self.data.append(one)
        return sockets


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


@pytest.mark.parametrize("host", LOOPBACKS)
def test_signalling_goes_to_the_engine_with_its_ends_and_all_else_to_the_data_plane(host: str) -> None:
    ears, port = Ears(), free_port(host)

    async def story() -> None:
        sockets = ears.sockets()
        sockets.set_endpoints([UdpEndpoint(ip_address(host), port)])
        stranger = await asyncio_dgram.connect((host, port))
        data = [
            b"\0",
            b"\0\0\0\0keepalive",
            SIGNALLING[:39],  # cut
            b"\x45" + SIGNALLING[1:],  # another version
            SIGNALLING[:24] + HOME.packed + SIGNALLING[40:],  # to somebody else
            SIGNALLING[:6] + b"\x3c" + SIGNALLING[7:],  # destination options first: a mobile node inside the tunnel
        ]
        for packet in [SIGNALLING, *data]:
            await stranger.send(packet)
        await until(lambda: len(ears.signalling) + len(ears.data) == 7)
        source = stranger.sockname[1]
        ends = UdpEnds(ip_address(host), ip_address(host), port, source)
        assert ears.signalling == [PacketReceived(SIGNALLING, "", outer=ends)]
        assert ears.data == [(ends, 0, packet) for packet in data]
        sockets.send(ends, b"answer")  # to where it came from
        assert (await stranger.recv())[0] == b"answer"
        stranger.close()
        sockets.close()

    run(story)


@pytest.mark.parametrize("host", LOOPBACKS)
@pytest.mark.parametrize("zero_checksum", [False, True])
def test_the_traffic_class_travels_in_the_outer_header(host: str, zero_checksum: bool) -> None:
    ears, port, other = Ears(), free_port(host), free_port(host)

    async def story() -> None:
        sockets = ears.sockets(zero_checksum=zero_checksum)
        address = ip_address(host)
        sockets.set_endpoints([UdpEndpoint(address, port), UdpEndpoint(address, other)])
        for traffic_class in (0, 0xBB, 1):
            sockets.send(UdpEnds(address, address, port, other), b"\x60", traffic_class)
        await until(lambda: len(ears.data) == 3)
        assert [one[1] for one in ears.data] == [0, 0xBB, 1]
        assert {one[0].remote_port for one in ears.data} == {port}
        sockets.close()

    run(story)


def test_sockets_come_and_go_as_told() -> None:
    ears = Ears()

    async def story() -> None:
        sockets, address = ears.sockets(), ip_address("127.0.0.1")
        one, two = (UdpEndpoint(address, free_port("127.0.0.1")) for _ in range(2))
        ends = UdpEnds(address, address, one.port, two.port)
        with pytest.raises(OSError, match="no UDP socket"):
            sockets.send(ends, b"")
        sockets.set_endpoints([one, two])
        sockets.set_endpoints([two])
        sockets.send_signalling(ends, SIGNALLING)
        assert sockets.counts == {"send_enotconn": 1}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", one.port))  # it is free again
            sockets.set_endpoints([one, two])  # and now it is not: no fault, the next call tries again
        sockets.set_endpoints([one, two])
        sockets.send(ends, b"\x60")
        await until(lambda: len(ears.data) == 1)
        sockets.close()

    run(story)


def test_nobody_at_the_other_end_is_no_fault() -> None:
    ears, port, nobody = Ears(), free_port("127.0.0.1"), free_port("127.0.0.1")

    async def story() -> None:
        sockets, address = ears.sockets(), ip_address("127.0.0.1")
        sockets.set_endpoints([UdpEndpoint(address, port)])
        for _ in range(3):
            sockets.send(UdpEnds(address, address, port, nobody), b"\x60")
        await until(lambda: sockets.counts["udp_econnrefused"] == 3)
        sockets.send(UdpEnds(address, address, port, port), b"\x60")
        await until(lambda: len(ears.data) == 1)
        sockets.close()

    run(story)


def test_nobody_at_the_other_end_of_signalling_is_no_fault() -> None:
    ears, port, nobody = Ears(), free_port("127.0.0.1"), free_port("127.0.0.1")

    async def story() -> None:
        sockets, address = ears.sockets(), ip_address("127.0.0.1")
        sockets.set_endpoints([UdpEndpoint(address, port)])

        def counted(refused: int) -> bool:
            return sockets.counts["udp_econnrefused"] == refused

        for count in range(3):
            sockets.send_signalling(UdpEnds(address, address, port, nobody), SIGNALLING)
            await until(partial(counted, count + 1))
        sockets.send_signalling(UdpEnds(address, address, port, port), SIGNALLING)
        await until(lambda: len(ears.signalling) == 1)
        sockets.close()

    run(story)


@pytest.mark.parametrize("host", LOOPBACKS)
def test_data_that_nobody_takes_pushes_no_signalling_out(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mip6.system.udp.BUFFER", 1 << 16)
    ears, port, flood = Ears(), free_port(host), 500

    async def story() -> None:
        sockets = ears.sockets()
        sockets.set_endpoints([UdpEndpoint(ip_address(host), port)])
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect((host, port))
            for _ in range(flood):  # within one turn of the loop: nothing is read meanwhile
                stranger.send(b"\x60" + bytes(999))
            for _ in range(10):
                stranger.send(SIGNALLING)
        await until(lambda: len(ears.signalling) == 10)
        assert len(ears.data) < flood
        sockets.close()

    run(story)


def test_what_is_wrong_with_a_message_is_told_to_the_loop() -> None:
    told: list[object] = []

    def wrong(_: PacketReceived) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        address, port = ip_address("127.0.0.1"), free_port("127.0.0.1")
        sockets = UdpSockets(OWN, wrong, lambda _: None)
        sockets.set_endpoints([UdpEndpoint(address, port)])
        sockets.send_signalling(UdpEnds(address, address, port, port), SIGNALLING)
        await until(lambda: bool(told))
        assert isinstance(told[0], ZeroDivisionError)
        sockets.close()

    run(story)


@pytest.mark.parametrize("turns", range(5))
def test_a_port_is_free_and_can_be_had_again_at_once(turns: int) -> None:
    """However far asyncio had come with the sockets before."""
    ears = Ears()

    async def story() -> None:
        address, port = ip_address("127.0.0.1"), free_port("127.0.0.1")
        sockets, ends = ears.sockets(), UdpEnds(address, address, port, port)
        sockets.set_endpoints([UdpEndpoint(address, port)])
        for _ in range(turns):
            await asyncio.sleep(0)
        sockets.set_endpoints([])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", port))
        sockets.set_endpoints([UdpEndpoint(address, port)])
        for number in range(3):
            sockets.send(ends, b"\x60", number + 1)  # a traffic class shows that it came by the socket for data
            sockets.send_signalling(ends, SIGNALLING)
        await until(lambda: len(ears.data) == len(ears.signalling) == 3)
        assert [one[1] for one in ears.data] == [1, 2, 3]
        sockets.close()

    run(story)


def test_what_waits_is_sent_before_the_end() -> None:
    async def story() -> None:
        address, port = ip_address("127.0.0.1"), free_port("127.0.0.1")
        far = await asyncio_dgram.bind(("127.0.0.1", 0))
        sockets = Ears().sockets()
        sockets.set_endpoints([UdpEndpoint(address, port)])
        ends = UdpEnds(address, address, port, far.sockname[1])
        for number in range(3):
            sockets.send_signalling(ends, SIGNALLING + bytes((number,)))
        sockets.close()
        assert [(await far.recv())[0][-1] for _ in range(3)] == [0, 1, 2]
        far.close()

    run(story)


@pytest.mark.netns
@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("signalling", [False, True])
def test_fragmentation_needed_on_the_way_is_told(pair: Pair, signalling: bool, ipv6: bool) -> None:
    """here --- eth0 (1500) ======== far0 --- there --- narrow (1400): the far end is behind it."""
    ears = Ears()
    version, here, router, beyond = (
        ("-6", "2001:db8:a::1/64", "2001:db8:a::2", "2001:db8:b::1")
        if ipv6
        else ("-4", "198.51.100.1/24", "198.51.100.2", "203.0.113.1")
    )
    nodad = " nodad" if ipv6 else ""
    pair.run(f"ip {version} addr add {here} dev eth0{nodad}")
    pair.far(f"ip {version} addr add {router}/{here.split('/')[1]} dev far0{nodad}")
    pair.far("ip link add narrow mtu 1400 type veth peer name other")
    pair.far("ip link set narrow up")
    pair.far("ip link set other up")
    pair.far(f"sysctl -qw {'net.ipv6.conf.all.forwarding' if ipv6 else 'net.ipv4.ip_forward'}=1")
    pair.far(f"ip {version} route add {beyond} dev narrow")
    pair.far(f"ip {version} neigh add {beyond} dev narrow lladdr 02:00:00:00:00:01")
    pair.run(f"ip {version} route add {beyond} via {router}")
    local, remote = ip_address(here.split("/")[0]), ip_address(beyond)

    async def story() -> None:
        sockets = ears.sockets()
        sockets.set_endpoints([UdpEndpoint(local, 4191, "eth0")])
        overhead = 48 if ipv6 else 28
        send = sockets.send_signalling if signalling else sockets.send
        told: list[tuple[UdpEnds, int, bytes]] = []
        sockets.on_too_big = lambda *too_big: told.append(too_big)
        inner = random.Random(1).randbytes(1450 - overhead)
        async with asyncio.timeout(10):
            while not ears.mtus:
                send(UdpEnds(local, remote), inner)
                await asyncio.sleep(0.05)
        assert ears.mtus[0] == PathMtuChanged(local, remote, 1400)
        ends, mtu, quoted = told[0]
        assert (ends, mtu) == (UdpEnds(local, remote), 1400)
        assert len(quoted) >= 500 and inner.startswith(quoted)  # so that the inner sender can be told
        sockets.close()

    run(story)


class Quoting:
    """A socket with these ICMP errors in its queue, as the kernel hands them on: address of the far end, path MTU."""

    def __init__(self, level: int, kind: int, *errors: tuple[str, int]) -> None:
        self.errors, self.level, self.kind = list(errors), level, kind

    def recvmsg(self, *_: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        if not self.errors:
            raise BlockingIOError
        remote, mtu = self.errors.pop(0)
        data = struct.pack("=IBBBxII", errno.EMSGSIZE, 2, 3, 4, mtu, 0)
        return b"", [(self.level, self.kind, data)], 0, (remote, 4191)


def test_a_path_mtu_that_no_path_has_is_not_believed() -> None:
    """Who spoofs an ICMP error must not bring an agent to fragments of no octets."""
    ears = Ears()
    sockets = ears.sockets()
    ipv4 = Quoting(socket.IPPROTO_IP, 11, ("192.0.2.9", 28), ("192.0.2.9", 0), ("192.0.2.9", 576))
    assert sockets.read_errors(ipv4, ip_address("198.51.100.1"))  # type: ignore[arg-type]
    ipv6 = Quoting(socket.IPPROTO_IPV6, 25, ("2001:db8:a::7", 68), ("2001:db8:a::7", 1280))
    assert sockets.read_errors(ipv6, OWN)  # type: ignore[arg-type]
    assert [(str(one.remote), one.mtu) for one in ears.mtus] == [("192.0.2.9", 576), ("2001:db8:a::7", 1280)]
    assert sockets.counts["udp_emsgsize"] == 3


def test_an_error_that_the_queue_had_no_room_for_is_counted() -> None:
    ears = Ears()
    sockets = ears.sockets()

    class Refused(Quoting):
        said = False

        def recvmsg(self, *arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
            if len(arguments) == 2 and not self.said:
                self.said = True
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            raise BlockingIOError

    sockets._readable(Refused(0, 0), UdpEndpoint(OWN), {})  # type: ignore[arg-type]
    assert sockets.counts == {"udp_econnrefused": 1}


def test_an_error_without_an_entry_in_the_queue_ends_no_signalling() -> None:
    with SignallingSocket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.errors = lambda: False
        sock.connect(("127.0.0.1", free_port("127.0.0.1")))
        sock.send(b"to nobody")
        with pytest.raises(BlockingIOError) as told:
            sock.recvfrom()
        assert isinstance(told.value.__cause__, ConnectionRefusedError)
