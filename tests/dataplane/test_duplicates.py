"""Duplicate elimination: what the filter promises, under any loss and any order; and which packets go through it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from mip6 import duplicates
from mip6.duplicates import WINDOW, DuplicateFilter
from mip6.forward import Arrival, Delivered, Dropped, decapsulate
from mip6.forwarding import DropReason, ForwardingTable
from mip6.lookup import Plain
from mip6.memory import Memory
from mip6.numbers import Protocol
from mip6.selectors import IPv4Selector, IPv6Selector, TrafficSelector
from tests.dataplane import conformance_node
from tests.dataplane.test_reference import AGENT, CELL, HOME, HOME4, PEER, PEER4, WLAN, table, udp, udp4

PATHS = (1, 2, 3)
LATE = st.integers(0, int(WINDOW * 1000)).map(lambda milliseconds: milliseconds / 1000)
COPIES = st.fixed_dictionaries({path: st.none() | LATE for path in PATHS})  # how late each arrives, None: lost


def sent(gaps: st.SearchStrategy[float], contents: int) -> st.SearchStrategy[list[tuple[float, int, dict[int, float]]]]:
    """Packets as they are sent: when, of what content, and how late the copies are that arrive."""
    one = st.tuples(gaps, st.integers(1, contents), COPIES)

    def in_time(drawn: list[tuple[float, int, dict[int, float | None]]]) -> list[tuple[float, int, dict[int, float]]]:
        now, found = 0.0, []
        for gap, content, copies in drawn:
            now += gap
            found.append((now, content, {path: late for path, late in copies.items() if late is not None}))
        return found

    return st.lists(one, max_size=30).map(in_time)


def arrivals(packets: list[tuple[float, int, dict[int, float]]]) -> list[tuple[float, int, int]]:
    """When what content comes over which path."""
    found = ((when + late, content, path) for when, content, copies in packets for path, late in copies.items())
    return sorted(found, key=lambda one: one[0])


GAPS = st.sampled_from([0.0, 0.0, 0.001, 0.1, 1.0, WINDOW / 2, WINDOW, WINDOW + 0.001, 3 * WINDOW])


@given(sent(GAPS, contents=3))
def test_never_more_often_than_sent_and_at_least_as_often_as_any_path_carried_it(
    packets: list[tuple[float, int, dict[int, float]]],
) -> None:
    held, delivered, carried = DuplicateFilter(), Counter[int](), Counter[tuple[int, int]]()
    for now, content, path in arrivals(packets):
        carried[content, path] += 1
        delivered[content] += not held.is_duplicate(content, path, now)
        assert delivered[content] <= sum(one == content and when <= now for when, one, _ in packets)
        assert delivered[content] >= max(carried[content, one] for one in PATHS)


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(PATHS)), max_size=60))
def test_within_a_window_it_is_the_largest_count_after_each_packet(order: list[tuple[int, int]]) -> None:
    """Any order whatever, also over paths of which one carries all packets twice as often as another."""
    held, delivered, carried = DuplicateFilter(), Counter[int](), Counter[tuple[int, int]]()
    for number, (content, path) in enumerate(order):
        carried[content, path] += 1
        delivered[content] += not held.is_duplicate(content, path, number / 100)
        assert delivered[content] == max(carried[content, one] for one in PATHS)


@given(sent(st.just(2 * WINDOW + 0.001), contents=1))
def test_rare_repeats_are_delivered_whatever_path_lost_which(
    packets: list[tuple[float, int, dict[int, float]]],
) -> None:
    held = DuplicateFilter()
    delivered = sum(not held.is_duplicate(content, path, now) for now, content, path in arrivals(packets))
    assert delivered == sum(bool(copies) for _, _, copies in packets)


def test_steady_repeats_lose_no_more_than_what_a_window_hides() -> None:
    """One of equal packets, every 100 ms over both paths: path 2 loses the first half, then path 1 fails."""
    held, delivered = DuplicateFilter(), 0
    for number in range(100):
        path = 1 if number < 50 else 2
        delivered += not held.is_duplicate(7, path, number / 10)
    assert 100 - delivered <= 2 * WINDOW * 10


@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.sampled_from(PATHS), st.sampled_from([0.0, 0.0, 0.01, 1.0])), max_size=500
    )
)
def test_memory_is_bounded(order: list[tuple[int, int, float]]) -> None:
    now, held = 0.0, DuplicateFilter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "REMEMBERED", 20)
        for content, path, gap in order:
            now += gap
            held.is_duplicate(content, path, now)
            assert len(held) <= 20


def test_what_is_old_is_forgotten() -> None:
    held = DuplicateFilter()
    for content in range(1000):
        held.is_duplicate(content, 1, 0)
    held.is_duplicate(2000, 1, 2 * WINDOW)
    held.is_duplicate(2001, 1, 4 * WINDOW)
    assert len(held) <= 2


# --- which packets ----------------------------------------------------------------------------------------------------

COPIED = (IPv6Selector(destination_port=(6000, 6000)),)  # of the mobile node


def eliminating(base: ForwardingTable, *selectors: TrafficSelector) -> ForwardingTable:
    node = replace(base.nodes[HOME], copied=selectors)
    return replace(base, nodes={HOME: node}, eliminate_duplicates=True)


ELIMINATING = eliminating(table(), *COPIED)


def received(
    packet: bytes, memory: Memory, care_of: IPv6Address = WLAN, held: ForwardingTable = ELIMINATING, tc: int = 0
) -> DropReason | bool:
    """The reason of a drop, or whether it counts as a first copy. For either end."""
    inside = Protocol.IPV4 if packet[0] >> 4 == 4 else Protocol.IPV6
    source, destination = (care_of, AGENT) if held.address == AGENT else (AGENT, care_of)
    verdict = decapsulate(Plain(held), Arrival(source, destination, tc, inside), packet, memory, 0)
    if isinstance(verdict, Dropped):
        assert verdict.duplicate is None or verdict.duplicate.tunnel.bid == {WLAN: 1, CELL: 2}[care_of]
        return verdict.reason
    assert isinstance(verdict, Delivered)
    return verdict.first


def up(port: int = 6000, **fields: object) -> bytes:
    """A selector is written from the correspondent's side: its destination port is the mobile node's."""
    return udp(**{"sport": port, "port": 9} | fields | {"src": str(HOME), "dst": str(PEER)})  # type: ignore[arg-type]


def test_a_copy_by_the_other_tunnel_is_dropped_a_repeat_by_the_same_is_not() -> None:
    memory = Memory()
    assert received(up(), memory) is True
    assert received(up(), memory, CELL) is DropReason.DUPLICATE
    assert received(up(), memory, CELL) is True
    assert received(up(), memory) is DropReason.DUPLICATE
    assert received(up(size=65), memory, CELL) is True


def test_only_what_may_be_copied() -> None:
    for packet in (up(port=9), udp4(src=str(HOME4), dst=str(PEER4), sport=6000)):
        memory = Memory()
        assert received(packet, memory) is False
        assert received(packet, memory, CELL) is False
    for held in (replace(ELIMINATING, eliminate_duplicates=False), eliminating(table())):
        memory = Memory()
        assert received(up(), memory, held=held) is False
        assert received(up(), memory, CELL, held) is False


def test_links_that_are_down_here_and_flow_rules_do_not_matter() -> None:
    memory, held = Memory(), eliminating(table(wlan=False, cell=False), *COPIED)
    assert received(up(), memory, held=held) is True
    assert received(up(), memory, CELL, held) is DropReason.DUPLICATE
    memory, dropped_here = Memory(), udp(sport=6000, port=7, src=str(HOME), dst=str(PEER))
    assert received(dropped_here, memory) is True
    assert received(dropped_here, memory, CELL) is DropReason.DUPLICATE


def test_ipv4() -> None:
    held, memory = eliminating(table(), IPv4Selector(destination=(HOME4, HOME4))), Memory()
    packet = udp4(src=str(HOME4), dst=str(PEER4))
    assert received(packet, memory, held=held) is True
    assert received(packet, memory, CELL, held) is DropReason.DUPLICATE
    assert received(up(), memory, held=held) is False


def test_ecn_marks_of_the_paths_do_not_make_copies_differ() -> None:
    memory = Memory()
    assert received(up(tc=2), memory, tc=3) is True
    assert received(up(tc=2), memory, CELL, tc=2) is DropReason.DUPLICATE
    assert received(up(tc=0), memory, tc=3) is DropReason.ECN  # which is no delivery
    assert received(up(tc=0), memory, CELL, tc=0) is True


def test_later_fragments_go_by_what_can_be_seen() -> None:
    later = bytes(IPv6(src=str(HOME), dst=str(PEER)) / IPv6ExtHdrFragment(offset=2, id=5, nh=17) / Raw(b"x" * 8))
    memory = Memory()
    assert received(later, memory) is True
    assert received(later, memory, CELL) is DropReason.DUPLICATE


def test_the_mobile_node_does_the_same() -> None:
    held, memory = eliminating(conformance_node.table(), IPv6Selector(source_port=(6000, 6000))), Memory()
    down = udp(sport=6000, port=9)
    assert received(down, memory, held=held) is True
    assert received(down, memory, CELL, held) is DropReason.DUPLICATE
    assert received(udp(sport=9, port=6000), memory, held=held) is False
