"""Load sharing: the choice of a tunnel by weight, and how long a flow keeps it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from mip6 import memory, sharing
from mip6.forward import Encapsulated, encapsulate
from mip6.forwarding import End, FlowRule, ForwardingTable, Node, Tunnel
from mip6.lookup import Plain
from mip6.memory import FLOW_IDLE, Memory
from mip6.packet import Parsed, parse
from mip6.selectors import IPv4Selector, IPv6Selector
from mip6.sharing import choose, flow_hash, flow_of, log2
from tests.dataplane.test_reference import AGENT, CELL, HOME, HOME4, PEER, PEER4, WLAN, table, udp, udp4

FLOWS = st.tuples(*[st.integers(0, (1 << 64) - 1)] * 5)
WEIGHTS = st.dictionaries(st.integers(1, 0xFFFF), st.integers(0, 255), min_size=1, max_size=8).filter(
    lambda weights: any(weights.values())
)


def shared(*weights: int, wlan: bool = True, cell: bool = True) -> ForwardingTable:
    base = table(wlan=wlan, cell=cell)
    rules = tuple(FlowRule(n, n, kind(), (1, 2), weights=weights) for n, kind in ((1, IPv6Selector), (2, IPv4Selector)))
    return replace(base, nodes={HOME: replace(base.nodes[HOME], rules=rules)})


def bid(held: ForwardingTable, packet: bytes, remembered: Memory, now: float = 0) -> int:
    verdict = encapsulate(Plain(held), packet, remembered, 0, now)
    assert isinstance(verdict, Encapsulated)
    (copy,) = verdict.copies
    return copy.tunnel.bid


def known(packet: bytes) -> Parsed:
    parsed = parse(packet)
    assert parsed is not None
    return parsed


def test_mix_is_the_finalizer_of_splitmix64() -> None:
    assert sharing._mix(1234567 + 0x9E3779B97F4A7C15) == 6457827717110365317  # its first output for seed 1234567


@given(st.integers(1, (1 << 32) - 1))
def test_log2(number: int) -> None:
    assert log2(number) == pytest.approx(math.log2(number) * 65536, abs=2)
    assert log2(number) < 32 << 16


@given(FLOWS, WEIGHTS)
def test_the_choice_has_weight_and_does_not_depend_on_the_order(flow: sharing.Flow, weights: dict[int, int]) -> None:
    best = choose(flow, weights.items())
    assert weights[best]
    assert choose(flow, reversed(list(weights.items()))) == best


@given(FLOWS, WEIGHTS, st.integers(1, 255))
def test_no_flow_moves_that_need_not(flow: sharing.Flow, weights: dict[int, int], more: int) -> None:
    best = choose(flow, weights.items())
    for changed in weights:
        after = choose(flow, (weights | {changed: weights[changed] + more}).items())
        assert after in (best, changed)  # more weight only draws flows
        left = {one: weight for one, weight in weights.items() if one != changed}
        if changed != best and any(left.values()):
            assert choose(flow, left.items()) == best  # what goes takes its own flows only


@pytest.mark.parametrize("weights", [{1: 1, 2: 1}, {1: 1, 2: 3, 7: 6}, {1: 200, 2: 50}])
def test_new_flows_spread_as_the_weights_say(weights: dict[int, int]) -> None:
    count, found, packet = 5_000, Counter[int](), known(udp())
    for port in range(count):
        found[choose(flow_of(replace(packet, ports=(port, 9))), weights.items())] += 1
    for one, weight in weights.items():
        share = weight / sum(weights.values())
        assert found[one] / count == pytest.approx(share, abs=5 * math.sqrt(share / count))


def test_what_a_flow_is() -> None:
    """Addresses, protocol, ports or SPI, from the correspondent's side in both directions."""
    down, up = known(udp(port=9, sport=1000)), known(udp(port=1000, sport=9, src=str(HOME), dst=str(PEER)))
    home, peer = int(HOME), int(PEER)
    low = (1 << 64) - 1
    assert flow_of(down) == (peer >> 64, peer & low, home >> 64, home & low, 17 << 32 | 1000 << 16 | 9)
    assert flow_of(up, reverse=True) == flow_of(down)
    assert flow_of(known(udp(tc=3, fl=7, hlim=2))) == flow_of(down)
    assert flow_of(known(udp4())) == (
        0,
        0xFFFF << 32 | int(PEER4),
        0,
        0xFFFF << 32 | int(HOME4),
        17 << 32 | 1000 << 16 | 9,
    )
    header = IPv6(src=str(PEER), dst=str(HOME))
    assert flow_of(known(bytes(header / TCP(sport=1000, dport=9))))[4] == 6 << 32 | 1000 << 16 | 9
    assert flow_of(known(bytes(header / ICMPv6EchoRequest(id=5))))[4] == 58 << 32
    assert (
        flow_of(known(bytes(IPv6(src=str(PEER), dst=str(HOME), nh=50) / Raw(b"\1\2\3\4more"))))[4]
        == 50 << 32 | 0x1020304
    )
    first = bytes(header / IPv6ExtHdrFragment(m=1, id=5) / UDP(sport=1000, dport=9) / Raw(b"x" * 8))
    later = bytes(header / IPv6ExtHdrFragment(offset=2, id=5, nh=17) / Raw(b"x" * 8))
    assert flow_of(known(first)) == flow_of(known(later)) and flow_of(known(later))[4] == 17 << 32
    assert flow_of(known(udp4(flags="MF"))) == flow_of(known(udp4(flags=0, frag=3)))
    assert flow_hash(flow_of(down)) != flow_hash(flow_of(known(udp(port=10))))


@pytest.mark.parametrize("packet", [udp, udp4])
def test_running_flows_stay_when_weights_change_and_new_ones_follow_them(packet: object) -> None:
    make, remembered = (udp if packet is udp else udp4), Memory()
    ports = range(500)
    before = [bid(shared(1, 1), make(sport=port), remembered) for port in ports]
    assert 180 < before.count(1) < 320
    assert [bid(shared(0, 7), make(sport=port), remembered, 1) for port in ports] == before
    assert {bid(shared(0, 7), make(sport=port), remembered, 1) for port in range(500, 600)} == {2}


def test_a_flow_whose_tunnel_fails_moves_and_does_not_come_back() -> None:
    remembered = Memory()
    ports = [port for port in range(100) if bid(shared(1, 1), udp(sport=port), remembered) == 1]
    others = [port for port in range(100) if port not in ports]
    for now, held in ((1, shared(1, 1, wlan=False)), (2, shared(1, 1)), (3, shared(9, 1))):
        assert {bid(held, udp(sport=port), remembered, now) for port in ports} == {2}
        assert {bid(held, udp(sport=port), remembered, now) for port in others} == {2}
    assert 1 in {bid(shared(1, 1), udp(sport=port), remembered, 4) for port in range(100, 130)}


def test_an_idle_flow_is_a_new_one() -> None:
    remembered = Memory()
    port = next(port for port in range(100) if bid(shared(1, 1), udp(sport=port), remembered) == 1)
    assert bid(shared(0, 1), udp(sport=port), remembered, FLOW_IDLE) == 1
    assert bid(shared(0, 1), udp(sport=port), remembered, 2 * FLOW_IDLE) == 1
    assert bid(shared(0, 1), udp(sport=port), remembered, 3 * FLOW_IDLE + 0.1) == 2


def test_without_any_weight_all_usable_tunnels_share_evenly() -> None:
    found = Counter(bid(shared(0, 0), udp(sport=port), Memory()) for port in range(500))
    assert 180 < found[1] < 320
    assert {bid(shared(0, 1, cell=False), udp(sport=port), Memory()) for port in range(100)} == {1}


def test_both_ends_choose_the_same_tunnel() -> None:
    tunnels = (Tunnel(1, WLAN, AGENT), Tunnel(2, CELL, AGENT))
    rule = FlowRule(1, 1, IPv6Selector(), (1, 2), weights=(2, 1))
    node = ForwardingTable(End.MOBILE_NODE, HOME, {HOME: Node(HOME, (), tunnels, (rule,))})
    for port in range(200):
        back = udp(sport=9, port=port, src=str(HOME), dst=str(PEER))
        assert bid(shared(2, 1), udp(sport=port, port=9), Memory()) == bid(node, back, Memory())


def test_the_memory_is_bounded_and_forgets_what_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FLOWS_REMEMBERED", 50)
    remembered = Memory()
    used = [port for port in range(100) if bid(shared(1, 1), udp(sport=port), Memory()) == 1][:10]
    for port in used:
        bid(shared(1, 1), udp(sport=port), remembered)
    for now, port in enumerate(range(1000, 1150), start=1):
        bid(shared(0, 1), udp(sport=port), remembered, now / 100)
        assert len(remembered.flows._flows) <= 50
        assert {bid(shared(0, 1), udp(sport=one), remembered, now / 100) for one in used} == {1}


def test_a_rule_with_too_few_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="flow 3: 1 weights for 2 BIDs"):
        FlowRule(3, 3, IPv6Selector(), (1, 2), weights=(1,))
