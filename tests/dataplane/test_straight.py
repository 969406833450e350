"""The short cut out of tunnels: what the stack would only forward goes straight to the neighbour that the routes lead
to; all else the stack gets as it came out of its tunnel."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from scapy.layers.inet6 import UDP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop

from mip6.dataplane.interface import TunnelCounters
from mip6.dataplane.maps import Devices
from mip6.forward import Arrival
from tests.dataplane.fastpath import OK, REDIRECTED, FastPath, Outcome, one_hop_less, outer_packet
from tests.dataplane.test_fastpath import LAN, NEIGHBOUR, fast
from tests.dataplane.test_reference import AGENT, HOME, HOME4, PEER, PEER4, WLAN, table, udp, udp4
from tests.dataplane.test_tunnel import ip

pytestmark = pytest.mark.netns

__all__ = ["fast"]

HERE = "2001:db8:100::101"  # an address of eth0
STRAIGHT = {
    "IPv6": udp(src=str(HOME), dst=str(PEER)),
    "IPv4": udp4(src=str(HOME4), dst=str(PEER4)),
    "an IPv4 fragment": udp4(src=str(HOME4), dst=str(PEER4), flags=0, frag=5),
    "options for the destination": bytes(IPv6(src=str(HOME), dst=str(PEER)) / IPv6ExtHdrDestOpt() / UDP()),
    "the last hop but one": udp(src=str(HOME), dst=str(PEER), hlim=2),
    "the largest that the route takes": udp(1300, src=str(HOME), dst=str(PEER)),
}
LEFT = {
    "hop limit used up": udp(src=str(HOME), dst=str(PEER), hlim=1),
    "TTL used up": udp4(src=str(HOME4), dst=str(PEER4), ttl=1),
    "options for each hop": bytes(IPv6(src=str(HOME), dst=str(PEER)) / IPv6ExtHdrHopByHop() / UDP()),
    "too big": udp(1301, src=str(HOME), dst=str(PEER)),
    "to be fragmented": udp4(1301, src=str(HOME4), dst=str(PEER4), flags=0),
    "for this machine": udp(src=str(HOME), dst=HERE),
    "to a neighbour who is not known": udp(src=str(HOME), dst="2001:db8:7::99"),
    "a wrong checksum": udp4(src=str(HOME4), dst=str(PEER4), chksum=1),
}


@pytest.fixture(autouse=True)
def short(fast: FastPath) -> Iterator[None]:
    """On one processor: each remembers its own look-ups."""
    fast.maps.set_table(table())
    fast.maps.set_devices(Devices(tunnel=0, forward=True))
    fast.wait(1)
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    yield
    os.sched_setaffinity(0, processors)
    fast.maps.set_devices(Devices(tunnel=0))


def arrive(fast: FastPath, inner: bytes, **context: int) -> Outcome:
    return fast.decapsulate(Arrival(WLAN, AGENT, 0, 4 if inner[0] >> 4 == 4 else 41), inner, **context)


@pytest.mark.parametrize("inner", STRAIGHT.values(), ids=STRAIGHT)
def test_what_is_only_forwarded(fast: FastPath, inner: bytes) -> None:
    for _ in range(2):  # by the kernel's output path, and by what that look-up found
        assert arrive(fast, inner) == Outcome(REDIRECTED, one_hop_less(inner))


@pytest.mark.parametrize("inner", LEFT.values(), ids=LEFT)
def test_what_the_stack_has_to_look_at(fast: FastPath, inner: bytes) -> None:
    assert arrive(fast, inner) == Outcome(OK, inner)


def test_frames_are_addressed_to_the_neighbour(fast: FastPath) -> None:
    frame = bytes.fromhex("020000000001 020000000009 86dd") + outer_packet(
        Arrival(WLAN, AGENT, 0, 41), STRAIGHT["IPv6"]
    )
    for _ in range(2):
        run = fast.loaded.programs["decap_ingress"].run(frame, ifindex=fast.device)
        assert run.packet[:14] == bytes.fromhex((NEIGHBOUR + LAN).replace(":", "") + "86dd")


def test_a_packet_is_counted_as_ever(fast: FastPath) -> None:
    before = fast.maps.counters().tunnels[HOME, 1]
    arrive(fast, STRAIGHT["IPv6"])
    after = fast.maps.counters().tunnels[HOME, 1]
    assert after == TunnelCounters(before.packets_out, before.bytes_out, before.packets_in + 1, before.bytes_in + 64)


def test_marks_and_what_goes_into_a_tunnel_again_are_left_to_the_stack(fast: FastPath) -> None:
    inner = STRAIGHT["IPv6"]
    assert arrive(fast, inner, mark=1) == Outcome(OK, inner)
    fast.maps.set_devices(Devices(tunnel=socket.if_nametoindex("lan0"), forward=True))
    assert arrive(fast, inner) == Outcome(OK, inner)


def test_routes_are_asked_anew_in_each_lap(fast: FastPath) -> None:
    inner = STRAIGHT["IPv6"]
    assert arrive(fast, inner).action == REDIRECTED
    ip("route", "add", "blackhole", f"{PEER}/128")
    try:
        assert arrive(fast, inner).action == REDIRECTED
        fast.wait(0.004)
        assert arrive(fast, inner) == Outcome(OK, inner)
    finally:
        ip("route", "del", "blackhole", f"{PEER}/128")


def test_a_machine_that_does_not_forward(fast: FastPath) -> None:
    inner, forwarding = STRAIGHT["IPv6"], Path("/proc/sys/net/ipv6/conf/eth0/forwarding")
    forwarding.write_text("0")
    try:
        assert arrive(fast, inner) == Outcome(OK, inner)
    finally:
        forwarding.write_text("1")


def test_copies_that_come_by_two_devices_are_each_looked_up_once(fast: FastPath) -> None:
    """What was found for one does not take the place of what was found for the other."""
    source = IPv6Address("2001:db8:f00:1::7")
    outer = outer_packet(Arrival(WLAN, AGENT, 0, 41), udp(src=str(source), dst=str(PEER)))
    ip("link", "set", "far0", "address", "02:00:00:00:00:04")
    devices = {fast.device: "020000000001", socket.if_nametoindex("far0"): "020000000004"}
    for index, address in devices.items():
        frame = bytes.fromhex(f"{address} 020000000009 86dd") + outer
        assert fast.loaded.programs["decap_ingress"].run(frame, ifindex=index).result == REDIRECTED
    held = b"".join(value for _, value in fast.loaded.maps["ways"].items())
    for index in devices:
        assert source.packed + PEER.packed + index.to_bytes(4, sys.byteorder) in held
