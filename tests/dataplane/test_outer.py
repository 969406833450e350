"""Tunnels over IPv4 and inside UDP: the conformance list on reference, index and real devices; fragments; path MTU."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from mip6.actions import UdpEndpoint
from mip6.dataplane.interface import DataPlane
from mip6.events import PathMtuChanged
from mip6.forward import Arrival, Delivered, Dropped, Encapsulated, decapsulate, encapsulate
from mip6.forwarding import DropReason
from mip6.lookup import Lookup, Plain
from mip6.memory import Memory
from mip6.numbers import Protocol
from mip6.outer import outer_packets
from mip6.pathmtu import path_mtu_changed, relayed_too_big, relayed_too_big_in_udp
from mip6.system.udp import UdpSockets
from mip6.udp import UdpEnds
from tests.dataplane.conformance import In, Out
from tests.dataplane.conformance_outer import NAT, OUTER_DECAPSULATE, OUTER_ENCAPSULATE, TUNNELS, WLAN4, outer_table
from tests.dataplane.test_conformance import ETH_P_ALL, ebpf, indexed, inject, received, userspace
from tests.dataplane.test_reference import AGENT, AGENT4, HOME4, PEER, PEER4, WLAN, udp, udp4
from tests.dataplane.test_tunnel import far, ip, until

__all__ = ["far"]


@pytest.mark.parametrize("lookup", [Plain, indexed])
@pytest.mark.parametrize("case", OUTER_ENCAPSULATE, ids=lambda case: case.name)
def test_encapsulate(case: Out, lookup: type[Plain]) -> None:
    held: Lookup = lookup(case.table)
    verdict = encapsulate(held, case.packet, Memory(), 0, 0)
    if isinstance(verdict, Encapsulated):
        assert [(copy.tunnel.bid, packet) for copy in verdict.copies for packet in copy.packets] == list(case.sent)
    else:
        assert verdict.reason == case.drop


@pytest.mark.parametrize("lookup", [Plain, indexed])
@pytest.mark.parametrize("case", OUTER_DECAPSULATE, ids=lambda case: case.name)
def test_decapsulate(case: In, lookup: type[Plain]) -> None:
    held: Lookup = lookup(case.table)
    verdict = decapsulate(held, arrival_of(case), case.packet, Memory(), 0)
    if isinstance(verdict, Delivered):
        assert verdict.packet == case.delivered
    else:
        assert isinstance(verdict, Dropped)
        assert verdict.reason == case.drop


def test_udp_over_ipv6_goes_without_a_checksum_where_the_table_says_so() -> None:
    (packet,) = outer_packets(TUNNELS[3], udp(), 0, 0, zero_checksum=True)
    assert IPv6(packet)[UDP].chksum == 0
    (packet,) = outer_packets(TUNNELS[3], udp(), 0, 0, zero_checksum=False)
    assert IPv6(packet)[UDP].chksum != 0


@pytest.mark.parametrize("bid", [1, 2])
@pytest.mark.parametrize("inner", [udp(1280, port=0), udp4(1400, port=0, flags=0)], ids=["IPv6", "IPv4"])
def test_fragments_over_ipv4(bid: int, inner: bytes) -> None:
    """Of equal identification, none larger than the path, together the payload."""
    path = 1006
    tunnel = TUNNELS[bid - 1]
    held = Plain(outer_table(mtu=path - tunnel.overhead))
    inner = (
        inner[:42] + bid.to_bytes(2, "big") + inner[44:]
        if inner[0] >> 4 == 6
        else inner[:22] + bid.to_bytes(2, "big") + inner[24:]
    )
    verdict = encapsulate(held, inner, Memory(), 0x12345678, 0)
    assert isinstance(verdict, Encapsulated)
    packets = verdict.copies[0].packets
    parts = [IP(one) for one in packets]
    assert len(parts) == 2 and all(len(one) <= path for one in packets) and len(packets[0]) > path - 8
    assert [(part.id, int(part.flags), part.frag * 8) for part in parts] == [
        (0x5678, 1, 0),
        (0x5678, 0, len(packets[0]) - 20),
    ]
    whole = b"".join(one[20:] for one in packets)
    assert whole[8 * (bid == 2) :] == inner
    for part in parts:
        right = part.chksum
        del part.chksum
        assert IP(bytes(part)).chksum == right
    if bid == 2:
        assert (UDP(whole).len, UDP(whole).chksum) == (len(whole), 0)


def test_fragments_of_udp_over_ipv6() -> None:
    held = Plain(outer_table(mtu=1000))
    verdict = encapsulate(held, udp(1280, port=4), Memory(), 7, 0)
    assert isinstance(verdict, Encapsulated)
    packets = verdict.copies[0].packets
    assert all(len(one) <= 1048 for one in packets) and [IPv6(one)[IPv6ExtHdrFragment].nh for one in packets] == [
        17,
        17,
    ]
    payload = b"".join(one[48:] for one in packets)
    whole = IPv6(src=str(AGENT), dst=str(WLAN)) / UDP(sport=4191, dport=40003) / Raw(udp(1280, port=4))
    assert bytes(whole)[40:] == payload


def test_fragmentation_needed_about_a_tunnel_packet_over_ipv4() -> None:
    """It lowers the tunnel's MTU, and the inner sender is told; not when it is about something else."""
    held = Plain(outer_table())

    def message(inner: bytes, mtu: int = 1400, code: int = 4, **fields: object) -> bytes:
        about = IP(**{"src": str(AGENT4), "dst": str(WLAN4), "proto": 41 if inner[0] >> 4 == 6 else 4, **fields})
        return bytes(ICMP(type=3, code=code, nexthopmtu=mtu) / Raw(bytes(about / Raw(inner))))

    assert path_mtu_changed(held, message(udp(1450)), 4) == PathMtuChanged(AGENT4, WLAN4, 1400)
    for inner, told in ((udp(1450), ICMPv6PacketTooBig), (udp4(1450), ICMP)):
        answer = relayed_too_big(held, message(inner), 4)
        assert answer is not None
        parsed = IPv6(answer) if inner[0] >> 4 == 6 else IP(answer)
        assert parsed.dst == str(PEER if inner[0] >> 4 == 6 else PEER4)
        assert (parsed[told].mtu if told is ICMPv6PacketTooBig else parsed[told].nexthopmtu) == 1380
    for wrong in (
        message(udp(1450), mtu=1500),
        message(udp(1450), mtu=575),
        message(udp(1450), code=1),
        message(udp(1450), dst=str(NAT)),
        message(udp(1450), src=str(WLAN4)),
        message(udp(1450), proto=17),
        message(udp(1450))[:27],
        b"",
    ):
        assert path_mtu_changed(held, wrong, 4) is None and relayed_too_big(held, wrong, 4) is None
    assert relayed_too_big(held, message(udp4(1450, flags=0)), 4) is None
    assert relayed_too_big(held, message(udp(1450), frag=3), 4) is None
    assert relayed_too_big(held, message(udp4(1450, dst=str(HOME4 + 1))), 4) is None


@pytest.mark.parametrize(("bid", "path", "told"), [(2, 1400, 1372), (3, 1400, 1372), (4, 1400, 1352), (4, 1300, 1280)])
def test_a_path_that_carries_less_inside_udp_is_told_to_the_inner_sender(bid: int, path: int, told: int) -> None:
    """As far as the kernel quotes the packet; not when it is about something else."""
    held, tunnel = Plain(outer_table()), TUNNELS[bid - 1]
    ends = UdpEnds(tunnel.local, tunnel.remote, tunnel.local_port, tunnel.remote_port)
    for quoted in (1450, 48, 40):
        answer = relayed_too_big_in_udp(held, ends, path, udp(1450)[:quoted])
        assert answer is not None
        assert (IPv6(answer).dst, IPv6(answer)[ICMPv6PacketTooBig].mtu) == (str(PEER), told)
    four = relayed_too_big_in_udp(held, ends, path, udp4(1450)[:28])
    assert four is not None and IP(four)[ICMP].nexthopmtu == path - tunnel.overhead
    for other, mtu, inner in (
        (replace(ends, remote_port=4191), path, udp(1450)),
        (ends, 1500, udp(1450)),
        (ends, path, udp(told)),
        (ends, path, udp(1450)[:39]),
        (ends, path, b""),
    ):
        assert relayed_too_big_in_udp(held, other, mtu, inner) is None


def wrap(outer: Arrival, inner: bytes) -> bytes:
    """The whole outer packet."""
    upper = Raw(inner)
    if outer.ports is not None:
        upper = UDP(sport=outer.ports[0], dport=outer.ports[1]) / upper
    ends = {"src": str(outer.source), "dst": str(outer.destination)}
    if isinstance(outer.source, IPv6Address):
        return bytes(IPv6(**ends, tc=outer.traffic_class, nh=outer.protocol) / upper)
    return bytes(IP(**ends, proto=outer.protocol, tos=outer.traffic_class) / upper)


def arrival_of(case: In) -> Arrival:
    return Arrival(case.source, case.destination, case.traffic_class, case.protocol, case.ports)


def carries(packet: bytes) -> bool:
    """Whether it may be a tunnel packet or a fragment of one."""
    if packet[0] >> 4 == 4:
        return packet[9] in (Protocol.IPV4, Protocol.IPV6, Protocol.UDP)
    return packet[0] >> 4 == 6 and packet[6] in (Protocol.IPV4, Protocol.IPV6, Protocol.UDP, Protocol.FRAGMENT)


def comparable(packet: bytes) -> bytes:
    """Without what the kernel or the device fills in: identification and header checksum of IPv4, identification of
    outer fragments, and the UDP checksum over IPv6."""
    if packet[0] >> 4 == 4:
        return packet[:4] + packet[6:10] + packet[12:]
    if packet[6] == Protocol.UDP:
        return packet[:46] + packet[48:]
    return packet[:44] + packet[48:] if packet[6] == Protocol.FRAGMENT else packet


def counted(plane: DataPlane) -> dict[DropReason, int]:
    """Drops, but for what a kernel that forwards sends by itself, which is link-local."""
    return {reason: n for reason, n in plane.counters().drops.items() if reason is not DropReason.NOT_FORWARDABLE}


@pytest.mark.netns
@pytest.mark.parametrize("make", [userspace, ebpf])
def test_on_real_devices(far: socket.socket, make: Callable[[], DataPlane]) -> None:
    """Every case twice: the first packet of a flow is classified, the second takes the way that was remembered."""
    ip("address", "add", f"{AGENT4}/24", "dev", "eth0")
    for address in (WLAN, WLAN4, NAT, AGENT4 + 9):
        ip("neighbour", "replace", str(address), "lladdr", "02:00:00:00:00:02", "dev", "eth0")
    ip("route", "add", f"{WLAN}/128", "dev", "eth0")
    far.bind(("far0", ETH_P_ALL))

    async def story() -> None:
        sockets = UdpSockets(AGENT, lambda _: None, lambda _: None)
        sockets.set_endpoints([UdpEndpoint(AGENT), UdpEndpoint(AGENT4)])
        plane = make()
        plane.start()
        plane.use_udp(sockets)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0) as device:
            device.bind(("mip0", ETH_P_ALL))
            for case in (*OUTER_ENCAPSULATE, *FRAGMENTED):
                plane.set_table(case.table)
                for time in ("first", "second"):
                    inject(device, case.packet)
                    wanted = sorted(comparable(packet) for _, packet in case.sent)
                    await seen(plane, far, wanted, case.drop, f"{case.name}, {time} packet")
            received(device)  # the errors of the cases before
            for arrival in OUTER_DECAPSULATE:
                plane.set_table(arrival.table)
                for time in ("first", "second"):
                    kind = 0x86DD if isinstance(arrival.source, IPv6Address) else 0x0800
                    far.sendto(wrap(arrival_of(arrival), arrival.packet), ("far0", kind, 0, 0, b"\x02\0\0\0\0\x01"))
                    inner = [] if arrival.delivered is None else [comparable(arrival.delivered)]
                    await seen(plane, device, inner, arrival.drop, f"{arrival.name}, {time} packet")
        plane.stop(remove=True)
        sockets.close()

    async def seen(
        plane: DataPlane, where: socket.socket, wanted: list[bytes], drop: DropReason | None, what: str
    ) -> None:
        found: list[bytes] = []

        def complete() -> bool:
            found.extend(comparable(one) for one in received(where) if carries(one))
            return len(found) >= len(wanted) and counted(plane) == drops

        drops = counted(plane) if drop is None else dropped | {drop: dropped.get(drop, 0) + 1}
        try:
            await until(complete)
        except TimeoutError:
            pytest.fail(f"{what}: {len(found)} packets, drops {plane.counters().drops}")
        assert sorted(found) == wanted, what
        dropped.clear()
        dropped.update(counted(plane))

    dropped: dict[DropReason, int] = {}
    asyncio.run(story())


def _fragmented(bid: int) -> Out:
    packet, held = udp(1280, port=bid), outer_table(mtu=1000)
    verdict = encapsulate(Plain(held), packet, Memory(), 0, 0)  # whose octets the tests above have looked at
    assert isinstance(verdict, Encapsulated)
    return Out(f"fragments by tunnel {bid}", held, packet, tuple((bid, one) for one in verdict.copies[0].packets))


FRAGMENTED = tuple(_fragmented(bid) for bid in (1, 2))
