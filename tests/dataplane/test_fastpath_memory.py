"""What the fast path remembers from packet to packet: the tunnels of shared flows, and contents of n-cast packets.

The same stories are told to the programs and to the reference, with the programs' clock in the test's hands.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from mip6.dataplane.maps import FastPathMaps
from mip6.dataplane.sharedmemory import ELIMINATE, SharedMemory
from mip6.duplicates import WINDOW
from mip6.forward import Arrival, Delivered, Encapsulated, decapsulate, encapsulate
from mip6.forwarding import DropReason, End, FlowRule, ForwardingTable, Node, Tunnel
from mip6.lookup import Plain
from mip6.memory import FLOW_IDLE, Memory
from mip6.selectors import IPv4Selector, IPv6Selector
from tests.dataplane.fastpath import OK, REDIRECTED, SHOT, FastPath, Outcome
from tests.dataplane.test_fastpath import SEED, fast
from tests.dataplane.test_reference import AGENT, CELL, HOME, HOME4, PEER, PEER4, WLAN, table, udp, udp4

__all__ = ["fast"]
pytestmark = pytest.mark.netns

STEP = 0.125  # seconds: sums of these have no rounding
PATHS = {1: WLAN, 2: CELL, 3: WLAN + 1}
COPIED = (IPv6Selector(destination_port=(6000, 6000)), IPv4Selector())


@pytest.fixture(autouse=True)
def long_afterwards(fast: FastPath) -> None:
    """Nothing that an earlier test left is young enough to matter."""
    fast.wait(1000)


# --- sharing ----------------------------------------------------------------------------------------------------------


def sharing(random: Random, end: End) -> ForwardingTable:
    """Three tunnels, some usable, and rules that share by some weights."""
    kinds = (IPv6Selector, IPv4Selector)
    tunnels = []
    for bid, care_of in PATHS.items():
        ends = (AGENT, care_of) if end is End.HOME_AGENT else (WLAN, (AGENT, CELL, WLAN + 1)[bid - 1])
        tunnels.append(Tunnel(bid, *ends, usable=random.random() < 0.8))
    random.shuffle(tunnels)
    bids = tuple(random.sample(sorted(PATHS), random.choice([2, 3, 3])))
    weights = tuple(random.choice([0, 1, 2, 0xFFFF]) for _ in bids)
    rules = tuple(FlowRule(n, n, kind(), bids, weights=weights) for n, kind in enumerate(kinds, 1))
    prefixes = table().nodes[HOME].prefixes
    return ForwardingTable(end, AGENT, {HOME: Node(HOME, prefixes, tuple(tunnels), rules)})


@pytest.mark.parametrize("end", list(End))
def test_flows_take_the_tunnels_that_the_reference_gives_them(fast: FastPath, end: End) -> None:
    """While weights change, tunnels come and go, and flows fall silent."""
    random, memory, ways = Random(SEED), Memory(), Counter[bytes]()
    for number in range(60):
        held = sharing(random, end)
        fast.maps.set_table(held)
        for _ in range(20):
            fast.wait(random.choice([0, 0, STEP, FLOW_IDLE / 4, FLOW_IDLE, FLOW_IDLE + STEP]))
            packet = flow_packet(random.randrange(30), end)
            verdict = encapsulate(Plain(held), packet, memory, 0, fast.now)
            got = fast.encapsulate(packet)
            if isinstance(verdict, Encapsulated):
                wanted = Outcome(REDIRECTED, verdict.copies[0].packets[0])
            else:
                wanted = Outcome(SHOT, packet, (verdict.reason,))
            assert got == wanted, f"MIP6_SEED={SEED}, table {number}: {held}\n{packet.hex()}"
            ways[got.packet[8:40]] += got.action == REDIRECTED
    assert len(ways) >= len(PATHS), ways


def flow_packet(number: int, end: End) -> bytes:
    """One of flow `number`, to the mobile node or from it, in IPv6 or IPv4."""
    make, home, peer = (udp, HOME, PEER) if number % 3 else (udp4, HOME4, PEER4)
    if end is End.HOME_AGENT:
        return make(port=9, sport=number, src=str(peer), dst=str(home))
    return make(port=number, sport=9, src=str(home), dst=str(peer))


# --- rules ------------------------------------------------------------------------------------------------------------


def test_who_takes_maps_over_is_not_told_what_other_rules_said(fast: FastPath) -> None:
    """Versions of rules are numbered anew then: the second table's rules have the numbers of the first one's."""
    base, serials = table(), []
    for bid, care_of in ((1, WLAN), (2, CELL)):
        rules = (FlowRule(1, 1, IPv6Selector(), (bid,)),)
        held = replace(base, nodes={HOME: replace(base.nodes[HOME], rules=rules)})
        fast.maps.set_table(replace(base, nodes={}))
        fast.maps._room.reclaim()
        fast.maps = FastPathMaps(fast.loaded.maps)
        fast.maps.set_table(held)
        serials.append(fast.maps._serial)
        for _ in range(2):
            assert fast.encapsulate(udp()).packet[24:40] == care_of.packed
    assert serials[0] == serials[1]


# --- duplicates -------------------------------------------------------------------------------------------------------


def eliminating() -> ForwardingTable:
    base = table()
    tunnels = tuple(Tunnel(bid, AGENT, care_of) for bid, care_of in PATHS.items())
    node = replace(base.nodes[HOME], tunnels=tunnels, copied=COPIED)
    return replace(base, nodes={HOME: node}, eliminate_duplicates=True)


def inner(number: int = 0, port: int = 6000, size: int = 64) -> bytes:
    """From the mobile node, so that a selector's destination port is the packet's source port."""
    return udp(size=size, sport=port, port=number, src=str(HOME), dst=str(PEER))


def arrive(fast: FastPath, packet: bytes, path: int = 1, tc: int = 0) -> DropReason | int:
    """By a path; why it was dropped, or what else became of it."""
    protocol = 4 if packet[0] >> 4 == 4 else 41
    outcome = fast.decapsulate(Arrival(PATHS[path], AGENT, tc, protocol), packet)
    return outcome.counted[0] if outcome.action == SHOT else outcome.action


def test_copies_are_dropped_when_the_reference_drops_them(fast: FastPath) -> None:
    """Few contents over three paths in any order, with pauses on both sides of the window."""
    random, memory, held = Random(SEED), Memory(), eliminating()
    memory.duplicates._born = 1e18  # forgets nothing: that may happen earlier or later
    fast.maps.set_table(held)
    seen = Counter[DropReason | int]()
    for number in range(3000):
        fast.wait(random.choice([0, 0, 0, 0, STEP, STEP, 1.0, WINDOW / 2, WINDOW, WINDOW + STEP, 2 * WINDOW + STEP]))
        packet, path = inner(random.randrange(3)), random.choice([1, 1, 2, 3])
        verdict = decapsulate(Plain(held), Arrival(PATHS[path], AGENT, 0), packet, memory, fast.now)
        wanted = OK if isinstance(verdict, Delivered) else verdict.reason
        got = arrive(fast, packet, path)
        assert got == wanted, f"MIP6_SEED={SEED}, packet {number}"
        seen[got] += 1
    assert min(seen[OK], seen[DropReason.DUPLICATE]) > 100, seen


def test_only_what_may_be_copied_is_looked_at(fast: FastPath) -> None:
    for held, port in ((eliminating(), 6001), (replace(eliminating(), eliminate_duplicates=False), 6000)):
        fast.maps.set_table(held)
        assert [arrive(fast, inner(port=port), path) for path in PATHS] == [OK, OK, OK]
    fast.maps.set_table(eliminating())
    packet = udp4(src=str(HOME4), dst=str(PEER4))
    assert [arrive(fast, packet, path) for path in PATHS] == [OK, DropReason.DUPLICATE, DropReason.DUPLICATE]


def test_ecn_comes_after(fast: FastPath) -> None:
    """The marks of two paths differ; and a copy that cannot carry the mark was not delivered."""
    fast.maps.set_table(eliminating())
    able = inner()[:1] + bytes((inner()[1] | 2 << 4,)) + inner()[2:]
    assert [arrive(fast, able, 1, tc=3), arrive(fast, able, 2, tc=2)] == [OK, DropReason.DUPLICATE]
    assert [arrive(fast, inner(), 1, tc=3), arrive(fast, inner(), 2)] == [DropReason.ECN, OK]


@pytest.mark.parametrize("size", [48, 49, 55, 56, 57, 127, 128, 129, 136, 255, 256, 257, 1000, 1400, 3000])
def test_every_octet_counts(fast: FastPath, size: int) -> None:
    fast.maps.set_table(eliminating())
    packet, random = inner(size=size), Random(SEED)
    changed = {size - 1, *random.sample(range(44, size), 4)}  # behind the ports
    assert arrive(fast, packet) == OK
    for at in changed:
        other = packet[:at] + bytes((packet[at] ^ 1 << random.randrange(8),)) + packet[at + 1 :]
        assert arrive(fast, other, 2) == OK, at
        assert arrive(fast, other, 1) == DropReason.DUPLICATE, at
    assert arrive(fast, packet, 2) == DropReason.DUPLICATE


def test_counters_say_what_came_first_by_which_tunnel(fast: FastPath) -> None:
    fast.maps.set_table(replace(table(), nodes={}))
    fast.maps.set_table(eliminating())
    for number in range(5):
        for path in (1, 2) if number < 3 else (2, 1):
            arrive(fast, inner(number), path)
    arrive(fast, inner(port=6001), 3)
    tunnels = fast.maps.counters().tunnels
    found = {bid: (one.packets_in, one.packets_first, one.packets_duplicate) for (_, bid), one in tunnels.items()}
    assert found == {1: (3, 3, 2), 2: (2, 2, 3), 3: (1, 0, 0)}


def test_userspace_and_the_programs_have_one_memory(fast: FastPath) -> None:
    """Of copies of which some come in outer fragments or in UDP, which userspace receives, one is delivered as well."""
    fast.maps.set_table(eliminating())
    memory = SharedMemory()
    memory.program = fast.loaded.programs[ELIMINATE]
    assert arrive(fast, inner(1), 1) == OK
    assert memory.is_duplicate(inner(1), 2, 0)
    assert not memory.is_duplicate(inner(2), 2, 0)
    assert arrive(fast, inner(2), 1) == DropReason.DUPLICATE
    assert arrive(fast, inner(2), 1) == OK  # a repeat of the path
    assert memory.is_duplicate(inner(2), 2, 0)
    jumbo = inner(3, size=8000)  # more than a test run takes
    assert [memory.is_duplicate(jumbo, path, 0) for path in (1, 2, 2)] == [False, True, False]


def test_of_copies_that_two_processors_have_at_once_one_is_delivered(fast: FastPath) -> None:
    fast.maps.set_table(eliminating())
    program, count = fast.loaded.programs[ELIMINATE], 3000
    frames = [bytes(12) + b"\x88\xb5" + inner(number) for number in range(count)]
    answers: dict[int, list[int]] = {}
    together = threading.Barrier(2)

    def over(path: int) -> None:
        found = []
        for at in range(0, count, 100):
            together.wait()
            found += [program.ask(frame, path) for frame in frames[at : at + 100]]
        answers[path] = found

    threads = [threading.Thread(target=over, args=(path,)) for path in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sorted(both) for both in zip(answers[1], answers[2], strict=True)] == [[0, 1]] * count
    assert all(0 in found for found in answers.values())  # each was first now and then
