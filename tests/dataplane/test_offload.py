"""Inner packets whose checksum or segments a device left undone (virtual devices, GRO): the kernel finishes them."""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Raw

from mip6.dataplane.offload import NOTHING, VIRTIO_HEADER, virtio_header
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.forwarding import IPV6_HEADER
from mip6.numbers import Protocol
from mip6.system.tun import Tun
from mip6.wire import internet_checksum, pseudo_header
from tests.dataplane.test_reference import AGENT, HOME, WLAN, table
from tests.dataplane.test_tunnel import far, ip, until

__all__ = ["far"]

BEHIND = IPv6Address("2001:db8:e::2")
CHECKSUM_AT = {Protocol.TCP: IPV6_HEADER + 16, Protocol.UDP: IPV6_HEADER + 6}


def packet(protocol: Protocol, size: int, destination: IPv6Address) -> bytes:
    """A packet of `size` octets from the home address, as scapy builds it, checksum included."""
    upper = TCP(sport=7, dport=9, flags="A", seq=1) if protocol is Protocol.TCP else UDP(sport=7, dport=9)
    whole = IPv6(src=str(HOME), dst=str(destination)) / upper
    return bytes(whole / Raw(bytes(n % 251 for n in range(size - len(bytes(whole))))))


def unfinished(whole: bytes) -> bytes:
    """The same packet with the checksum as a kernel leaves it to the device: the pseudo header's sum alone."""
    at = CHECKSUM_AT[Protocol(whole[6])]
    total = 0xFFFF ^ internet_checksum(
        pseudo_header(HOME, IPv6Address(whole[24:40]), len(whole) - IPV6_HEADER, whole[6])
    )
    return whole[:at] + total.to_bytes(2, "big") + whole[at + 2 :]


@given(st.sampled_from([Protocol.TCP, Protocol.UDP]), st.integers(60, 9000))
def test_only_what_is_unfinished_is_marked(protocol: Protocol, size: int) -> None:
    whole = packet(protocol, size, AGENT)
    partial = unfinished(whole)
    at = CHECKSUM_AT[protocol]
    if whole[at : at + 2] != partial[at : at + 2]:
        assert virtio_header(whole, 1460) == NOTHING
    flags, kind, headers, segment, start, offset = struct.unpack("=BBHHHH", virtio_header(partial, 1460))
    assert (flags, start, start + offset) == (1, IPV6_HEADER, at)
    cut = protocol is Protocol.TCP and size > 1460
    assert (kind, headers, segment) == ((4, 60, 1400) if cut else (0, 0, 0))


@given(st.binary(min_size=IPV6_HEADER, max_size=100))
def test_any_packet_has_a_header(data: bytes) -> None:
    assert len(virtio_header(data, 1460)) == VIRTIO_HEADER


def outer(inner: bytes) -> list[bytes]:
    """The tunnel packet from the care-of address, in fragments where it is large."""
    whole = IPv6(src=str(WLAN), dst=str(AGENT), nh=Protocol.IPV6) / Raw(inner)
    if len(inner) <= 1460:
        return [bytes(whole)]
    whole = IPv6(src=str(WLAN), dst=str(AGENT)) / IPv6ExtHdrFragment(id=1, nh=Protocol.IPV6) / Raw(inner)
    return [bytes(one) for one in fragment6(whole, 1280)]


@pytest.mark.netns
def test_the_kernel_finishes_checksums_and_cuts_merged_segments(far: socket.socket) -> None:
    """First and second packet of a flow, so that what is classified and what is remembered have both passed.

    The merged segments leave by lan0, whose MTU is smaller than they are together.
    """
    ip("link", "add", "lan0", "type", "veth", "peer", "lan1")
    for device in ("lan0", "lan1"):
        ip("link", "set", device, "up")
    ip("address", "add", "2001:db8:e::1/64", "dev", "lan0", "nodad")
    ip("neighbour", "add", str(BEHIND), "lladdr", "02:00:00:00:00:09", "dev", "lan0")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

    async def story() -> None:
        plane = UserspaceDataPlane(Tun("mip0", 1460), lambda changed: None)
        plane.start()
        plane.set_table(table())
        with (
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as application,
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(0x86DD)) as lan,
        ):
            application.bind((str(AGENT), 9))
            lan.bind(("lan1", 0x86DD))
            datagram, segments = packet(Protocol.UDP, 300, AGENT), packet(Protocol.TCP, 4000, BEHIND)
            inner = [datagram, datagram, unfinished(datagram), unfinished(datagram)] + 2 * [unfinished(segments)]
            for one in (part for whole in inner for part in outer(whole)):
                far.sendto(one, ("far0", 0x86DD, 0, 0, b"\x02\0\0\0\0\x01"))
            datagrams: list[bytes] = []
            forwarded: list[bytes] = []

            def complete() -> bool:
                datagrams.extend(received(application))
                forwarded.extend(one for one in received(lan) if one[6] == Protocol.TCP)
                return len(datagrams) == 4 and len(forwarded) == 2

            await until(complete)  # what has a wrong checksum does not reach the application
        assert set(datagrams) == {datagram[48:]}
        assert {one[8:56] + one[60:] for one in forwarded} == {segments[8:56] + segments[60:]}
        counted = plane.counters().tunnel(HOME, 1)
        assert (counted["packets_in"], counted["bytes_in"]) == (6, 4 * 300 + 2 * 4000)
        plane.stop(remove=True)

    asyncio.run(story())


def received(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(65536))
        except BlockingIOError:
            return found
