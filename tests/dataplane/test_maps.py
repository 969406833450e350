"""The fast path's maps: what they hold after any history is what the last table needs, whoever filled them before."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv6Address
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mip6.dataplane.interface import TunnelCounters
from mip6.dataplane.layout import COUNT, NUMBER, OWNER
from mip6.dataplane.libbpf import LibbpfError, Object, Program
from mip6.dataplane.maps import FastPathMaps, load
from mip6.dataplane.ranges import Full, Ranges
from mip6.forwarding import End, ForwardingTable, Node, Tunnel
from mip6.nodes import Nodes
from tests.dataplane import random_packets
from tests.dataplane.test_reference import AGENT, CELL, HOME, table


@given(st.lists(st.one_of(st.integers(1, 16), st.none()), max_size=200), st.randoms(use_true_random=False))
def test_ranges_never_overlap_and_nothing_is_lost(wishes: list[int | None], random: Random) -> None:
    ranges = Ranges(64)
    held: list[tuple[int, int]] = []
    for wish in wishes:
        if wish is None:
            if held:
                ranges.give(*held.pop(random.randrange(len(held))))
            continue
        taken = {number for start, count in held for number in range(start, start + count)}
        try:
            start = ranges.take(wish)
        except Full:
            free = "".join("x" if number in taken else "." for number in range(64))
            assert "." * wish not in free
        else:
            assert not taken.intersection(range(start, start + wish)) and start + wish <= 64
            held.append((start, wish))


@pytest.fixture
def loaded() -> Iterator[Object]:
    if os.geteuid():
        pytest.skip("needs root: BPF")
    found = load(nodes=100)
    yield found
    found.close()


def contents(maps: FastPathMaps) -> Mapping[str, Any]:
    """What stands in the maps, without the places where it happens to stand."""
    owners: dict[bytes, Any] = {}
    for key, value in maps.maps["owners"].items():
        home, _, _, *rest = OWNER.unpack(value)
        owners[key] = (home, rest)
    maps._room.reclaim()
    rules = sorted(value for _, value in maps.maps["rules"].items())
    return {"owners": owners, "rules": rules} | {
        name: {key for key, _ in maps.maps[name].items()} for name in ("pairs", "locals")
    }


def fresh(held: ForwardingTable) -> Mapping[str, Any]:
    other = load(nodes=100)
    maps = FastPathMaps(other.maps)
    maps.set_table(held)
    found = contents(maps)
    other.close()
    return found


@pytest.mark.netns
def test_any_history_of_tables_ends_as_the_last_one_alone(loaded: Object) -> None:
    random, maps = Random(7), FastPathMaps(loaded.maps)
    held = random_packets.table(random)
    for _ in range(3):
        for _ in range(20):
            held = random_packets.table(random, held)
            maps.set_table(held)
        assert contents(maps) == fresh(held)
    maps.set_table(replace(held, nodes={}))
    empty = contents(maps)
    assert not empty["owners"] and not empty["rules"] and not empty["pairs"]


@pytest.mark.netns
def test_a_later_version_of_nodes_is_the_same_as_a_table_with_them(loaded: Object) -> None:
    maps, held, nodes = FastPathMaps(loaded.maps), table(), Nodes()
    maps.set_table(replace(held, nodes=nodes))
    nodes = nodes.changed(held.nodes)
    maps.set_table(replace(held, nodes=nodes))
    assert contents(maps) == fresh(held)
    maps.set_table(replace(held, nodes=nodes.changed({HOME: None})))
    assert not contents(maps)["owners"]


@pytest.mark.netns
def test_who_adopts_the_maps_goes_on_with_the_counters(loaded: Object) -> None:
    """From the id of one program alone, as after a kill -9."""
    FastPathMaps(loaded.maps).set_table(table())
    program = loaded.programs["encap_ingress"]
    counts = loaded.maps["counts"]
    counts.update(NUMBER.pack(0), COUNT.pack(5, 500, 6, 600, 4, 3) + bytes(counts.value_size - COUNT.size))
    again = Program.by_id(program.id)
    maps = FastPathMaps(again.maps())
    assert maps.counters().tunnels == {(HOME, 1): TunnelCounters(5, 500, 6, 600, 4, 3)}
    held = table(mtu=1400)
    other = Node(HOME + 1, (), (Tunnel(9, AGENT, CELL),))
    held = replace(held, nodes={**held.nodes, HOME + 1: other})
    maps.set_table(held)
    assert contents(maps) == fresh(held)
    assert maps.counters().tunnels == {(HOME, 1): TunnelCounters(5, 500, 6, 600, 4, 3)}
    maps.set_table(replace(held, nodes={HOME + 1: other}))
    assert maps.counters().tunnels == {}
    maps.close()
    again.close()


@pytest.mark.netns
def test_a_table_without_room_is_refused_and_says_so() -> None:
    if os.geteuid():
        pytest.skip("needs root: BPF")
    small = load(nodes=1)
    nodes = {
        HOME + n: Node(HOME + n, (), tuple(Tunnel(bid, AGENT, IPv6Address(n * 99 + bid + 1)) for bid in range(16)))
        for n in range(100)
    }
    with pytest.raises(LibbpfError, match="no room") as caught:
        FastPathMaps(small.maps).set_table(ForwardingTable(End.HOME_AGENT, AGENT, nodes))
    assert caught.value.errno == errno.E2BIG
    small.close()
