"""The Prober's sockets: many mobile nodes at once, all of them inside one namespace."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from ipaddress import IPv6Address, IPv6Network

import pytest

from mip6.dataplane.interface import Counters
from mip6.forwarding import End, ForwardingTable, Node, Tunnel
from mip6.path import PathSettings
from mip6.probeflows import probe_port, probe_rules
from mip6.stamp import REFLECTOR_PORT, derive_key, read_reply, write_probe
from mip6.system.probes import PEERS_PER_TURN, Measured, Prober
from mip6.system.probesockets import BATCH
from tests.system.conftest import Pair

OWN, HOMES = IPv6Address("2001:db8:1::1"), IPv6Network("2001:db8:f00::/64")
COUNT = 2 * BATCH + 1
HOME = [HOMES[number + 1] for number in range(COUNT)]
KEYS = {home: (derive_key(bytes(20), home),) for home in HOME}


def far_sockets(stack: ExitStack, port: int) -> list[socket.socket]:
    """Of each mobile node."""
    made = []
    for home in HOME:
        sock = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        sock.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: local by a route, not as an address of its own
        sock.bind((str(home), port))
        made.append(sock)
    return made


def received(sockets: list[socket.socket]) -> list[bytes | None]:
    """What waits for each of them."""
    found: list[bytes | None] = []
    for sock in sockets:
        try:
            found.append(sock.recv(2048))
        except BlockingIOError:
            found.append(None)
    return found


@pytest.mark.netns
def test_every_probe_that_waits_is_answered_before_more_is_sent(pair: Pair) -> None:
    """A home agent that is late answers first: else it would take nodes for silent, send more itself, and be later."""
    pair.run(f"ip addr add {OWN}/128 dev lo")
    pair.run(f"ip route add local {HOMES} dev lo")

    async def story() -> None:
        measured = Measured(OWN, End.HOME_AGENT, "lo", KEYS.__getitem__, lambda _: PathSettings())
        prober = Prober(measured)
        prober.start(lambda _: None, lambda: Counters({}))
        nodes = {
            home: Node(home, (), (Tunnel(1, OWN, IPv6Address("2001:db8:a::1")),), probe_rules(home, OWN, (1,)))
            for home in HOME
        }
        prober.set_table(ForwardingTable(End.HOME_AGENT, OWN, nodes))
        with ExitStack() as stack:
            senders, reflectors = far_sockets(stack, probe_port(1)), far_sockets(stack, REFLECTOR_PORT)
            for sequence in (0, 1):  # each time all of them wait
                for home, sender in zip(HOME, senders, strict=True):
                    sender.sendto(write_probe(sequence, 1 << 32, 1, KEYS[home][0]), (str(OWN), REFLECTOR_PORT))
                prober._wake()
                for home, answer in zip(HOME, received(senders), strict=True):
                    assert answer is not None
                    assert read_reply(answer, KEYS[home][0]).sender_sequence == sequence
                probed = [bool(one) for one in received(reflectors)]
                assert sum(probed) == (PEERS_PER_TURN if sequence else 0)  # it measures paths that carry traffic
                for peer in prober._peers.values():
                    peer.paths.paths[1].busy = True
                    prober._ring(peer)
            async with asyncio.timeout(10):
                while not all(probed):  # the others have their turn at once
                    await asyncio.sleep(0)
                    probed = [was or bool(one) for was, one in zip(probed, received(reflectors), strict=True)]
        prober.close()

    asyncio.run(story())
