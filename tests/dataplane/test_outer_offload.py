"""Segments that a device is to cut, in tunnels inside UDP: each outer packet that leaves is right, its checksum too."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv6Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from mip6.actions import UdpEndpoint
from mip6.dataplane.offload import virtio_header
from mip6.forwarding import IPV6_HEADER
from mip6.numbers import Protocol
from mip6.system.udp import UdpSockets
from mip6.wire import internet_checksum, pseudo_header
from tests.dataplane.conformance_outer import NAT, TUNNELS, outer_table
from tests.dataplane.test_conformance import ETH_P_ALL, ebpf, received
from tests.dataplane.test_reference import AGENT, AGENT4, HOME, PEER, WLAN
from tests.dataplane.test_tunnel import far, ip, until

__all__ = ["far"]
pytestmark = pytest.mark.netns
SOL_PACKET, PACKET_VNET_HDR = 263, 15
SEGMENT = 1000
UDP4, UDP6 = TUNNELS[1], TUNNELS[3]


def super_packet(bid: int, size: int) -> bytes:
    """TCP of `size` octets for the tunnel with that BID, its checksum left to the device."""
    payload = bytes(number % 251 for number in range(size))
    whole = bytes(IPv6(src=str(PEER), dst=str(HOME)) / TCP(sport=7, dport=bid, flags="A") / Raw(payload))
    return whole[:56] + pseudo_checksum(whole).to_bytes(2, "big") + whole[58:]


def pseudo_checksum(whole: bytes) -> int:
    ends = IPv6Address(whole[8:24]), IPv6Address(whole[24:40])
    return 0xFFFF ^ internet_checksum(pseudo_header(*ends, len(whole) - IPV6_HEADER, Protocol.TCP))


@pytest.mark.parametrize("bid", [UDP4.bid, UDP6.bid])
@pytest.mark.parametrize("size", [3 * SEGMENT, 2 * SEGMENT + 500], ids=["equal segments", "a shorter last one"])
def test_segments(far: socket.socket, bid: int, size: int) -> None:
    """The device takes no large packets, so that the kernel cuts what the program has sent."""
    ip("address", "add", f"{AGENT4}/24", "dev", "eth0")
    ip("link", "set", "eth0", "gso_max_size", "1500")
    for address in (WLAN, NAT):
        ip("neighbour", "replace", str(address), "lladdr", "02:00:00:00:00:02", "dev", "eth0")
    ip("route", "add", f"{WLAN}/128", "dev", "eth0")
    far.bind(("far0", ETH_P_ALL))
    packet = super_packet(bid, size)
    ends = [(at, min(at + SEGMENT, size)) for at in range(0, size, SEGMENT)]

    async def story() -> None:
        sockets = UdpSockets(AGENT, lambda _: None, lambda _: None)
        sockets.set_endpoints([UdpEndpoint(AGENT), UdpEndpoint(AGENT4)])
        plane = ebpf()
        plane.start()
        plane.use_udp(sockets)
        plane.set_table(outer_table())
        seen: list[bytes] = []

        def complete() -> bool:
            seen.extend(one for one in received(far) if carried(one))
            return len(seen) >= len(ends)

        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as device:
            device.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            device.sendto(virtio_header(packet, 60 + SEGMENT) + packet, ("mip0", 0x86DD))
            await until(complete)
        counted = plane.counters().tunnel(HOME, bid)
        plane.stop(remove=True)
        sockets.close()
        inner = [check(one) for one in seen]
        assert [one[60:] for one in inner] == [packet[60:][start:end] for start, end in ends]
        program = bid == UDP4.bid or size % SEGMENT == 0  # else userspace, which counts segments
        assert counted["bytes_out"] == (len(packet) if program else sum(map(len, inner)))

    asyncio.run(story())


def carried(packet: bytes) -> bool:
    return packet[9 if packet[0] >> 4 == 4 else 6] == Protocol.UDP


def check(packet: bytes) -> bytes:
    """The inner packet of one that is right when its device has finished the inner checksum."""
    outer = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    start = (20 if packet[0] >> 4 == 4 else 40) + 8
    inner = packet[start:]
    assert outer[UDP].len == len(inner) + 8 == len(packet) - start + 8
    if inner[56:58] == pseudo_checksum(inner).to_bytes(2, "big"):
        finished = IPv6(inner)
        del finished[TCP].chksum
        inner = bytes(finished)
    wanted, found = IPv6(inner), IPv6(inner)
    del wanted[TCP].chksum
    assert IPv6(bytes(wanted))[TCP].chksum == found[TCP].chksum
    if packet[0] >> 4 == 4:
        right = IP(packet)
        del right.chksum
        assert outer[UDP].chksum == 0 and IP(bytes(right)).chksum == outer.chksum
    else:
        whole = packet[start - 8 : start] + inner
        ends = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        pseudo = pseudo_header(*ends, len(whole), Protocol.UDP)
        if outer[UDP].chksum != 0xFFFF ^ internet_checksum(pseudo):  # which a socket leaves to the device
            assert internet_checksum(pseudo + whole) == 0
    return inner
