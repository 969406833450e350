"""Versions of a forwarding table's nodes: each reads as the dictionary it stands for, and says what differs."""

from __future__ import annotations

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from mip6.forwarding import Node
from mip6.nodes import Nodes

HOMES = [IPv6Address(number) for number in range(1, 6)]
CHANGES = st.lists(
    st.tuples(st.integers(0, 9), st.dictionaries(st.sampled_from(HOMES), st.booleans(), max_size=3)), max_size=12
)


@given(st.sets(st.sampled_from(HOMES)), CHANGES)
def test_any_versions_are_dictionaries_and_know_their_differences(
    first: set[IPv6Address], story: list[tuple[int, dict[IPv6Address, bool]]]
) -> None:
    start = {home: Node(home) for home in first}
    versions = [(Nodes(start), start)]
    for number, changes in story:  # of any version, so that some branch off an old one
        old, plain = versions[number % len(versions)]
        nodes = {home: Node(home) if there else None for home, there in changes.items()}
        after = {home: node for home, node in {**plain, **nodes}.items() if node is not None}
        versions.append((old.changed(nodes), after))
    for one, plain in versions:
        assert dict(one) == plain and len(one) == len(plain) and one == plain
        assert all(one.get(home) is plain.get(home) for home in HOMES)
        for other, before in versions:
            wanted = {home for home in HOMES if before.get(home) is not plain.get(home)}
            assert {home for home, _, _ in one.since(other)} == wanted
            assert all(was is before.get(home) and now is plain.get(home) for home, was, now in one.since(other))


def test_a_change_is_not_looked_for_among_all_nodes() -> None:
    class Counting(IPv6Address):
        hashed = 0

        def __hash__(self) -> int:
            Counting.hashed += 1
            return super().__hash__()

    many: dict[IPv6Address, Node] = {home: Node(home) for home in map(Counting, range(1000))}
    old = Nodes(many)
    home = Counting(7)
    Counting.hashed = 0
    new = old.changed({home: Node(home)})
    assert [one for one, _, _ in new.since(old)] == [home] and Counting.hashed < 10


def test_what_is_no_version_is_copied() -> None:
    plain = {HOMES[0]: Node(HOMES[0])}
    nodes = Nodes.of(plain)
    plain.clear()
    assert list(nodes) == [HOMES[0]] and Nodes.of(nodes) is nodes
