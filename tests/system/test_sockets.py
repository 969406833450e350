"""Tap, guard and sender on real packets: a Binding Update crosses a veth, is seen, and draws no ICMPv6 error."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address

import pytest
from pyroute2 import netns as namespaces
from scapy.layers.inet6 import (
    HAO,
    MIP6MH_BU,
    UDP,
    ICMPv6HAADRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    PadN,
)

from mip6.actions import SendPacket
from mip6.events import PacketReceived
from mip6.system.sockets import Guard, PacketSender, SignallingTap, is_signalling
from tests.system.conftest import Pair

HERE, THERE, HOME = "2001:db8:a::1", "2001:db8:a::2", "2001:db8:100::5"

BU = MIP6MH_BU(seq=100, flags="AH", mhtime=75)
HOME_ADDRESS = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0"), HAO(hoa=HOME)])
TYPE_2 = bytes((135, 2, 2, 1, 0, 0, 0, 0)) + IPv6Address(HOME).packed


def ipv6(body: bytes, next_header: int) -> bytes:
    return bytes(IPv6(src=THERE, dst=HERE, nh=next_header, plen=len(body), hlim=64) / body)


BINDING_UPDATE = bytes(IPv6(src=THERE, dst=HERE) / HOME_ADDRESS / BU)
SIGNALLING = {
    "Binding Update with Home Address option": BINDING_UPDATE,
    "Mobility Header alone": bytes(IPv6(src=THERE, dst=HERE) / BU),
    "Mobility Header behind a type 2 routing header": ipv6(TYPE_2 + bytes(BU), 43),
    "Mobility Header behind hop-by-hop and destination options": bytes(
        IPv6(src=THERE, dst=HERE) / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0\0")]) / HOME_ADDRESS / BU
    ),
    "data with Home Address option": bytes(IPv6(src=THERE, dst=HERE) / HOME_ADDRESS / UDP(sport=5, dport=5)),
    "home agent address discovery": bytes(IPv6(src=THERE, dst=HERE) / ICMPv6HAADRequest(id=7)),
}
OTHER = {
    "UDP": bytes(IPv6(src=THERE, dst=HERE) / UDP(sport=5, dport=5)),
    "UDP behind destination options": bytes(
        IPv6(src=THERE, dst=HERE) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0")]) / UDP(sport=5, dport=5)
    ),
    "echo request": ipv6(b"\x80\0\0\0\0\0\0\0", 58),
}


@pytest.mark.parametrize("name", SIGNALLING)
def test_signalling_is_recognised(name: str) -> None:
    assert is_signalling(SIGNALLING[name])


@pytest.mark.parametrize("name", OTHER)
def test_other_packets_are_not_signalling(name: str) -> None:
    assert not is_signalling(OTHER[name])


def test_no_cut_or_flipped_packet_upsets_the_check() -> None:
    for packet in (*SIGNALLING.values(), *OTHER.values()):
        for at in range(len(packet)):
            assert is_signalling(packet[:at]) in (True, False)
            assert is_signalling(packet[:at] + bytes((packet[at] ^ 0xFF,)) + packet[at + 1 :]) in (True, False)


# --- on the wire -----------------------------------------------------------------------------------------------------


@pytest.fixture
def wire(pair: Pair) -> Iterator[Pair]:
    pair.run(f"ip addr add {HERE}/64 dev eth0 nodad")
    pair.far(f"ip addr add {THERE}/64 dev far0 nodad")
    pair.far(f"ip -6 neigh add {HERE} lladdr {mac(pair.run, 'eth0')} dev far0")
    pair.run(f"ip -6 neigh add {THERE} lladdr {mac(pair.far, 'far0')} dev eth0")
    yield pair


def mac(run: Callable[[str], str], device: str) -> str:
    return run(f"ip -o link show {device}").split("link/ether ")[1].split()[0]


class Neighbour:
    """A packet socket on the far side: puts packets on the wire and hears what comes back."""

    def __init__(self, pair: Pair) -> None:
        namespaces.setns(pair.there)
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            self._socket.bind(("far0", 0x86DD))
        finally:
            namespaces.setns(pair.here)
        self._here = bytes.fromhex(mac(pair.run, "eth0").replace(":", ""))
        self._socket.settimeout(0.5)

    def close(self) -> None:
        self._socket.close()

    def send(self, packet: bytes) -> None:
        self._socket.sendto(packet, ("far0", 0x86DD, 0, 0, self._here))

    def hear(self, wanted: Callable[[bytes], bool]) -> bytes | None:
        """The first wanted packet that arrives, None when half a second passes without any packet."""
        with contextlib.suppress(TimeoutError):
            while True:
                packet, (_, _, kind, _, _) = self._socket.recvfrom(65536)
                if kind != socket.PACKET_OUTGOING and wanted(packet):
                    return packet
        return None


@pytest.fixture
def neighbour(wire: Pair) -> Iterator[Neighbour]:
    neighbour = Neighbour(wire)
    yield neighbour
    neighbour.close()


def parameter_problem(packet: bytes) -> bool:
    return packet[6] == 58 and packet[40] == 4


def tapped(act: Callable[[], None], count: int) -> list[PacketReceived]:
    """What the tap sees of `act`, once `count` packets have come."""

    async def story() -> list[PacketReceived]:
        seen: list[PacketReceived] = []
        enough = asyncio.Event()

        def received(event: PacketReceived) -> None:
            seen.append(event)
            if len(seen) >= count:
                enough.set()

        tap = SignallingTap(received)
        tap.start()
        try:
            act()
            await asyncio.wait_for(enough.wait(), 5)
        finally:
            tap.close()
        return seen

    return asyncio.run(story())


@pytest.mark.netns
def test_without_the_guard_the_kernel_answers_with_parameter_problem(neighbour: Neighbour) -> None:
    """The reason for the guard; should a kernel not answer any more, the next test would prove nothing."""
    neighbour.send(BINDING_UPDATE)
    assert neighbour.hear(parameter_problem) is not None


@pytest.mark.netns
def test_guarded_signalling_is_seen_whole_and_draws_no_icmp(wire: Pair, neighbour: Neighbour) -> None:
    guard = Guard("mip0")
    guard.install()

    def act() -> None:
        for packet in (*OTHER.values(), *SIGNALLING.values()):
            neighbour.send(packet)

    seen = tapped(act, len(SIGNALLING))
    assert [event.packet for event in seen] == list(SIGNALLING.values())
    assert {event.interface for event in seen} == {"eth0"}
    assert seen[0].link_layer_source.hex(":") == mac(wire.far, "far0")
    assert neighbour.hear(parameter_problem) is None
    neighbour.send(ipv6(b"\0\5\0\5\0\x08\0\0", 200))  # an unknown protocol is none of the guard's business
    assert neighbour.hear(parameter_problem) is not None
    guard.remove()
    assert "mip0" not in wire.run("nft list tables")


@pytest.mark.netns
def test_guard_replaces_the_table_of_a_crash_and_leaves_the_others(wire: Pair) -> None:
    wire.run("nft add table ip6 filter")
    for _ in range(2):
        Guard("mip-0.1").install()
    other = Guard("mip1")
    other.install()
    table = wire.run("nft list table ip6 mip_0_1")
    assert table.count("mobility-header drop") == 1 and table.count("rt type 2 drop") == 1
    Guard("mip-0.1").remove()
    Guard("mip-0.1").remove()
    assert wire.run("nft list tables").split("\n")[:2] == ["table ip6 filter", "table ip6 mip1"]
    other.remove()


@pytest.mark.netns
def test_the_tap_does_not_see_what_this_machine_sends(wire: Pair, neighbour: Neighbour) -> None:
    outgoing = bytes(IPv6(src=HERE, dst=THERE) / BU)
    sender = PacketSender()

    def act() -> None:
        sender.send(SendPacket(outgoing))
        neighbour.send(BINDING_UPDATE)

    assert [event.packet for event in tapped(act, 1)] == [BINDING_UPDATE]
    sender.close()


@pytest.mark.netns
def test_packets_leave_as_they_are_by_the_rule_of_their_source(wire: Pair, neighbour: Neighbour) -> None:
    """Main table: no way there. Only `from` the care-of address leads over eth0."""
    wire.run(f"ip -6 route add default via {THERE} dev eth0 table 1000")
    wire.run("ip -6 rule add from 2001:db8:a::77 lookup 1000")
    wire.run("ip addr add 2001:db8:a::77/128 dev lo nodad")
    sender = PacketSender()
    packet = bytes(IPv6(src="2001:db8:a::77", dst="2001:db8:ffff::1") / HOME_ADDRESS / BU)
    sender.send(SendPacket(packet))
    assert neighbour.hear(lambda heard: heard == packet) is not None
    assert not sender.failures

    unroutable = bytes(IPv6(src="2001:db8:a::78", dst="2001:db8:ffff::1") / BU)
    sender.send(SendPacket(unroutable))
    assert sender.failures == {"ENETUNREACH": 1}
    sender.close()


@pytest.mark.netns
def test_interface_and_neighbour_can_be_pinned(
    wire: Pair, neighbour: Neighbour, capsys: pytest.CaptureFixture[str]
) -> None:
    sender = PacketSender()
    foreign = bytes(IPv6(src="2001:db8:100::1", dst=THERE) / BU)  # a source that is not ours, as a home agent may use
    sender.send(SendPacket(foreign, interface="eth0"))
    assert neighbour.hear(lambda heard: heard == foreign) is not None
    wire.run("ip -6 route flush dev eth0")
    direct = bytes(IPv6(src=HOME, dst="2001:db8:ffff::9") / BU)
    sender.send(SendPacket(direct, "eth0", bytes.fromhex(mac(wire.far, "far0").replace(":", ""))))
    assert neighbour.hear(lambda heard: heard == direct) is not None
    assert not sender.failures

    sender.send(SendPacket(foreign, interface="wlan7"))
    assert sender.failures == {"ENODEV": 1}
    assert "packet_not_sent" in capsys.readouterr().err
    sender.close()


@pytest.mark.netns
def test_an_interface_that_was_replaced_under_its_name_is_used_again(wire: Pair) -> None:
    sender = PacketSender()
    packet = bytes(IPv6(src=HERE, dst="ff02::1") / BU)
    sender.send(SendPacket(packet, "eth0"))
    wire.run("ip link del eth0")
    subprocess.run(f"ip -n {wire.here} link add eth0 type veth peer name far0 netns {wire.there}".split(), check=True)
    wire.run("ip link set eth0 up")
    wire.far("ip link set far0 up")
    wire.run(f"ip addr add {HERE}/64 dev eth0 nodad")
    again = Neighbour(wire)
    sender.send(SendPacket(packet, "eth0"))
    assert again.hear(lambda heard: heard == packet) is not None
    assert not sender.failures
    again.close()
    sender.close()


@pytest.mark.netns
def test_something_that_is_no_ipv6_packet_is_a_bug(pair: Pair) -> None:
    sender = PacketSender()
    with pytest.raises(ValueError, match="not an IPv6 packet"):
        sender.send(SendPacket(struct.pack("!B39x", 0x45)))
    sender.close()
