"""The fast path's programs do what the reference says: the conformance list, packets cut at every length, and random
tables and packets by the ten thousand, one after the other over the same maps."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from random import Random

import pytest
from pyroute2 import netns as namespaces

from mip6.dataplane.interface import TunnelCounters
from mip6.dataplane.maps import Devices
from mip6.forward import Arrival
from mip6.forwarding import DropReason, End, FlowRule, ForwardingTable, IPAddress, Tunnel
from mip6.memory import Memory
from mip6.packet import parse
from mip6.selectors import IPv6Selector
from tests.dataplane import random_packets
from tests.dataplane.conformance import DECAPSULATE, ENCAPSULATE, In, Out
from tests.dataplane.conformance_node import NODE_DECAPSULATE, NODE_ENCAPSULATE
from tests.dataplane.conformance_outer import NAT, OUTER_DECAPSULATE, OUTER_ENCAPSULATE, WLAN4
from tests.dataplane.fastpath import (
    ANSWERED,
    OK,
    PASSED,
    REDIRECTED,
    SHOT,
    FastPath,
    Outcome,
    compile_object,
    forwarded,
    is_unfinished,
    wanted_in,
    wanted_out,
    wanted_shortcut,
)
from tests.dataplane.test_outer import arrival_of
from tests.dataplane.test_reference import AGENT, AGENT4, CELL, HOME, HOME4, PEER4, WLAN, table, udp, udp4
from tests.dataplane.test_tunnel import ip

pytestmark = pytest.mark.netns

TABLES, PACKETS = 500, 20  # packets of each table, three ways each
LAN, NEIGHBOUR = "02:00:00:00:00:03", "02:00:00:00:00:04"
NEIGHBOURS = {WLAN, CELL, AGENT, WLAN + 1, AGENT4, WLAN4, NAT}  # on eth0
ON_LINK = [ip_network(f"{one}/64", strict=False) for one in (WLAN, CELL, AGENT)] + [ip_network(f"{AGENT4}/24", False)]
GATEWAYS = ("2001:db8:7::2", "203.0.113.130")
SEED = int(os.environ.get("MIP6_SEED", "0")) or int.from_bytes(os.urandom(4), "big")


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastPath]:
    """Between packets of both ends: the device has all the addresses and knows all the neighbours. All else is routed
    to a neighbour on lan0."""
    if os.geteuid():
        pytest.skip("needs root: network namespaces, BPF")
    name, home = f"fp{uuid.uuid4().hex[:8]}", os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        ip("netns", "add", name)
        namespaces.setns(name)
        ip("link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "far0")
        ip("link", "add", "lan0", "address", LAN, "mtu", "1300", "type", "veth", "peer", "vehicle0")
        for device in ("lo", "eth0", "far0", "lan0", "vehicle0"):
            ip("link", "set", device, "up")
        for address in (WLAN, CELL, AGENT):
            ip("address", "add", f"{address + 0x100}/64", "dev", "eth0", "nodad")
        ip("address", "add", f"{AGENT4 + 0x40}/24", "dev", "eth0")
        for other in NEIGHBOURS:
            ip("neighbour", "replace", str(other), "lladdr", "02:00:00:00:00:02", "dev", "eth0")
        ip("address", "add", "2001:db8:7::1/64", "dev", "lan0", "nodad")
        ip("address", "add", "203.0.113.129/30", "dev", "lan0")
        for gateway in GATEWAYS:
            ip("neighbour", "replace", gateway, "lladdr", NEIGHBOUR, "dev", "lan0")
            ip("route", "add", "default", "via", gateway)
        for version in ("ipv4", "ipv6"):
            Path(f"/proc/sys/net/{version}/conf/all/forwarding").write_text("1")
        path = FastPath(compile_object(tmp_path_factory.mktemp("bpf")), socket.if_nametoindex("eth0"))
        yield path
        path.close()
    finally:
        namespaces.setns(home)
        os.close(home)
        ip("netns", "del", name)


def test_the_conformance_list(fast: FastPath) -> None:
    for case in (*ENCAPSULATE, *NODE_ENCAPSULATE, *OUTER_ENCAPSULATE):
        fast.maps.set_table(case.table)
        _out(case, fast.encapsulate(case.packet))
    for arriving in (*DECAPSULATE, *NODE_DECAPSULATE, *OUTER_DECAPSULATE):
        fast.maps.set_table(arriving.table)
        outer = arrival_of(arriving)
        _in(arriving, fast.decapsulate(outer, arriving.packet), outer)


def _out(case: Out, outcome: Outcome) -> None:
    if "fragment" in case.name:
        assert outcome == Outcome.passed(case.packet), case.name  # one that flow rules could be about
    elif case.sent:
        assert outcome.action == REDIRECTED and outcome.packet == case.sent[-1][1], case.name
        copies = len(case.sent) - 1
        assert outcome.counted == (DropReason.SEND_FAILED,) * copies, case.name  # there is no device for them
    elif case.drop in ANSWERED or case.answered:
        assert outcome == Outcome.passed(case.packet), case.name
    else:
        assert case.drop is not None
        assert outcome == Outcome(SHOT, case.packet, (case.drop,)), case.name


def _in(case: In, outcome: Outcome, outer: Arrival) -> None:
    if case.delivered is not None:
        assert (outcome.action, outcome.packet, outcome.counted) == (OK, case.delivered, ()), case.name
    elif (
        case.drop is DropReason.UNKNOWN_OUTER_SOURCE
        and wanted_in(case.table, outer, case.packet, Memory()).action == PASSED
    ):
        assert (outcome.action, outcome.counted) == (PASSED, ()), case.name  # the stack counts it, or signalling it is
    else:
        assert (outcome.action, outcome.counted) == (SHOT, (case.drop,)), case.name


def test_random_tables_and_packets(fast: FastPath) -> None:
    try:
        compare_random(fast, Random(SEED))
    except BaseException as error:  # whatever it is: it can be had again
        error.add_note(f"again: MIP6_SEED={SEED}")
        raise


def compare_random(fast: FastPath, random: Random) -> None:
    held, memory = None, Memory()
    seen, forwards = dict.fromkeys((OK, PASSED, REDIRECTED, SHOT), 0), 0
    for number in range(TABLES):
        held = random_packets.table(random, held)
        fast.maps.set_table(held)
        forward = random.random() < 0.75
        fast.maps.set_devices(Devices(tunnel=0, forward=forward))
        for _ in range(PACKETS):
            where = f"table {number}"  # which is long: told only where something is wrong
            packet = random_packets.packet(random)
            if is_unfinished(packet):
                continue
            for got, wanted in (
                (fast.encapsulate(packet), wanted_out(held, packet, memory)),
                (fast.shortcut(packet), wanted_shortcut(held, packet, memory)),
            ):
                if got.counted != (DropReason.LOOP,) or wanted.action != PASSED:  # userspace would say the same
                    assert got == wanted, f"{where}: {held}\n{packet.hex()}"
                seen[got.action] += 1
            outer = arrival(random, held, packet)
            got, wanted = fast.decapsulate(outer, packet), wanted_in(held, outer, packet, memory)
            if forward and wanted.action == OK:
                wanted = forwarded(wanted, route_mtu(wanted.packet))
                forwards += wanted.action == REDIRECTED
            assert got == wanted, f"{where}: {held}\n{outer} {packet.hex()}"
            seen[got.action] += 1
    assert min(seen.values()) > TABLES // 4, seen  # each happens often
    assert forwards > TABLES // 50


def route_mtu(packet: bytes) -> int:
    """Of the route that it would take out of its tunnel; 0: to nobody who is known."""
    parsed = parse(packet)
    assert parsed is not None
    if parsed.destination in NEIGHBOURS:
        return 1500
    return 0 if any(parsed.destination in network for network in ON_LINK) else 1300


def arrival(random: Random, held: ForwardingTable, packet: bytes) -> Arrival:
    """The outer header of `packet`, mostly one that a tunnel of the table may have."""
    agent = random.choice(random_packets.AGENTS)
    ends: tuple[IPAddress, IPAddress] = (random.choice([*random_packets.CARE_OF[agent], agent + 9]), agent)
    protocol, ports = 4 if packet[0] >> 4 == 4 else 41, None
    if random.random() < 0.5:
        protocol, ports = 17, (random.choice([*random_packets.PORTS * 4, 40002]), 4191)
    elif random.random() < 0.03:
        protocol = 45 - protocol
    if held.end is End.MOBILE_NODE:
        ends, ports = ends[::-1], ports and ports[::-1]
    return Arrival(*ends, random.choice([0, 1, 2, 3, 0xB8, 0xBB]), protocol, ports)


@pytest.mark.parametrize("packet", [udp(port=5004), udp4(port=5004)], ids=["IPv6", "IPv4"])
def test_packets_cut_at_every_length(fast: FastPath, packet: bytes) -> None:
    held = table()
    fast.maps.set_table(held)
    for length in range(1, len(packet)):
        part = packet[:length]
        assert fast.encapsulate(part) == Outcome(SHOT, part, (DropReason.MALFORMED,)), length
        assert fast.shortcut(part) == Outcome.passed(part), length


@pytest.mark.parametrize(
    ("inner", "protocol"),
    [(udp(src=str(HOME), dst=str(AGENT)), 41), (udp4(src=str(HOME4), dst=str(PEER4)), 4)],
    ids=["IPv6", "IPv4"],
)
def test_outer_packets_cut_at_every_length(fast: FastPath, inner: bytes, protocol: int) -> None:
    """Whether the outer header still speaks of the whole packet, or of what there is of it."""
    held, outer = table(), Arrival(WLAN, AGENT, 0, protocol)
    fast.maps.set_table(held)
    for length in range(len(inner)):
        assert fast.decapsulate(outer, inner[:length]) == wanted_in(held, outer, inner[:length], Memory()), length
    whole = (6 << 28).to_bytes(4, "big") + len(inner).to_bytes(2, "big") + bytes((protocol, 64))
    whole += WLAN.packed + AGENT.packed + inner
    for length in range(1, len(whole)):
        assert fast.run("decap_ingress", whole[:length]) == Outcome.passed(whole[:length]), length


def test_a_tunnel_whose_lifetime_is_over_takes_nothing_more(fast: FastPath) -> None:
    """While no daemon runs; one that does takes it out of the table."""
    held, inner = table(), udp(src=str(HOME), dst=str(AGENT))
    node = held.nodes[HOME]
    for expires, over in ((1.0, True), (1e9, False)):
        ended = replace(node, tunnels=(replace(node.tunnels[0], expires=expires), node.tunnels[1]))
        fast.maps.set_table(replace(held, nodes={HOME: ended}))
        assert (fast.encapsulate(udp()).action == PASSED) is over
        assert fast.encapsulate(udp(port=5004)).action == REDIRECTED
        assert (fast.decapsulate(Arrival(WLAN, AGENT, 0), inner).action == PASSED) is over
        copies = fast.encapsulate(udp(port=6000))
        assert copies.counted == (() if over else (DropReason.SEND_FAILED,))


def test_counters_of_tunnels(fast: FastPath) -> None:
    fast.maps.set_table(replace(table(), nodes={}))
    fast.maps.set_table(table())
    for size in (64, 65, 1280):
        fast.encapsulate(udp(size))
    fast.encapsulate(udp(100, port=5004))
    fast.decapsulate(Arrival(WLAN, AGENT, 0), udp(200, src=str(HOME), dst=str(AGENT)))
    counters = fast.maps.counters()
    assert counters.tunnels == {(HOME, 1): TunnelCounters(3, 1409, 1, 200), (HOME, 2): TunnelCounters(1, 100, 0, 0)}
    fast.maps.set_table(table(mtu=1400))  # other tunnels, the same BIDs
    assert fast.maps.counters() == counters


def test_what_is_for_others_is_left_alone(fast: FastPath) -> None:
    """Not addressed to this machine, on a VLAN, no tunnel packet, another's tunnel, in fragments, a jumbogram."""
    fast.maps.set_table(table())
    inner = udp(src=str(HOME), dst=str(AGENT))
    outer = (6 << 28).to_bytes(4, "big") + len(inner).to_bytes(2, "big") + b"\x29\x40" + WLAN.packed + AGENT.packed
    changed = {
        "UDP to nobody's port": outer[:6] + b"\x11" + outer[7:],
        "a fragment": outer[:6] + b"\x2c" + outer[7:],
        "destination options": outer[:6] + b"\x3c" + outer[7:],
        "another's": outer[:24] + PEER4.packed * 4,
        "a jumbogram": outer[:4] + b"\0\0" + outer[6:],
    }
    for what, header in changed.items():
        assert fast.run("decap_ingress", header + inner) == Outcome.passed(header + inner), what
    frame = bytes.fromhex("02000000aaaa 020000000009 86dd")  # not this machine's address
    for program, packet in (("decap_ingress", outer + inner), ("encap_ingress", udp())):
        assert fast.loaded.programs[program].run(frame + packet, ifindex=fast.device).result == PASSED


def test_a_packet_sees_the_old_rules_or_the_new_ones(fast: FastPath) -> None:
    """Forty rules that lead one way and forty that lead the other, exchanged while packets pass: never a third way."""
    base, sides = table().nodes[HOME], []
    others = tuple(FlowRule(n, n, IPv6Selector(source_port=(n, n)), (1,)) for n in range(2000, 2040))
    for bid in (1, 2):
        last = FlowRule(99, 99, IPv6Selector(destination_port=(9, 9)), (bid,))
        default = Tunnel(3, AGENT, WLAN + 1)  # for what no rule matches
        sides.append(replace(base, tunnels=(default, *base.tunnels), rules=(*others, last)))
    held = [replace(table(), nodes={HOME: side}) for side in sides]
    fast.maps.set_table(held[0])
    done, exchanged = threading.Event(), 0

    def exchange() -> None:
        nonlocal exchanged
        while not done.is_set():
            exchanged += 1
            fast.maps.set_table(held[exchanged % 2])

    writer = threading.Thread(target=exchange)
    writer.start()
    try:
        ways = {fast.encapsulate(udp()).packet[24:40] for _ in range(1000)}
    finally:
        done.set()
        writer.join()
    assert ways == {WLAN.packed, CELL.packed}
    assert exchanged > 10
