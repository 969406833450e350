"""What the reference does with packets, and that the indexed table answers as the plain one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from mip6.dataplane.index import Index
from mip6.forward import Arrival, Delivered, Dropped, Encapsulated, decapsulate, decapsulated_ecn, encapsulate
from mip6.forwarding import DropReason, Encapsulation, End, FlowRule, ForwardingTable, IPAddress, Node, Tunnel
from mip6.lookup import Plain
from mip6.memory import Memory
from mip6.numbers import Protocol
from mip6.pathmtu import path_mtu_changed, relayed_too_big
from mip6.selectors import IPv4Selector, IPv6Selector

AGENT, HOME, PEER = IPv6Address("2001:db8:100::1"), IPv6Address("2001:db8:100::5"), IPv6Address("2001:db8:c::1")
WLAN, CELL = IPv6Address("2001:db8:a::5"), IPv6Address("2001:db8:b::5")
VOICE = FlowRule(10, 10, IPv6Selector(destination_port=(5004, 5004)), (2,))
COPIES = FlowRule(20, 20, IPv6Selector(destination_port=(6000, 6000)), (2, 1))
HOME4, PEER4, AGENT4 = IPv4Address("198.51.100.5"), IPv4Address("203.0.113.1"), IPv4Address("192.0.2.1")
VOICE4 = FlowRule(11, 11, IPv4Selector(destination_port=(5004, 5004), protocol=(17, 17)), (2,))
DROP = FlowRule(30, 30, IPv6Selector(source_port=(7, 7)), drop=True)


def table(mtu: int = 1460, wlan: bool = True, cell: bool = True) -> ForwardingTable:
    tunnels = (Tunnel(1, AGENT, WLAN, mtu, usable=wlan), Tunnel(2, AGENT, CELL, mtu, usable=cell))
    prefixes = (IPv6Network("2001:db8:f00::/56"), IPv4Network(f"{HOME4}/32"), IPv4Network("198.51.100.64/26"))
    node = Node(HOME, prefixes, tunnels, (VOICE, VOICE4, COPIES, DROP))
    return ForwardingTable(End.HOME_AGENT, AGENT, {HOME: node})


def udp(size: int = 64, port: int = 9, sport: int = 1000, **fields: object) -> bytes:
    header = {"src": str(PEER), "dst": str(HOME), **fields}
    return bytes(IPv6(**header) / UDP(sport=sport, dport=port) / Raw(b"x" * (size - 48)))


def udp4(size: int = 64, port: int = 9, sport: int = 1000, **fields: object) -> bytes:
    header = {"src": str(PEER4), "dst": str(HOME4), "flags": "DF", **fields}
    return bytes(IP(**header) / UDP(sport=sport, dport=port) / Raw(b"x" * (size - 28)))


def sent(packet: bytes, held: ForwardingTable | None = None, memory: Memory | None = None) -> Encapsulated:
    verdict = encapsulate(Plain(held or table()), packet, memory or Memory(), 7, 0)
    assert isinstance(verdict, Encapsulated), verdict
    return verdict


def bids(verdict: Encapsulated) -> list[int]:
    return [copy.tunnel.bid for copy in verdict.copies]


def test_outer_header_carries_dscp_and_ecn_and_leaves_the_inner_packet_alone() -> None:
    packet = udp(tc=0xB9, hlim=3)
    (copy,) = sent(packet).copies
    outer = IPv6(copy.packets[0])
    assert (outer.src, outer.dst, outer.nh, outer.hlim, outer.tc, outer.fl) == (str(AGENT), str(WLAN), 41, 64, 0xB9, 0)
    assert copy.packets[0][40:] == packet and outer.plen == len(packet)


def test_flow_rules_by_priority_copies_and_failure_of_a_link() -> None:
    assert bids(sent(udp())) == [1]
    assert bids(sent(udp(port=5004))) == [2]
    assert sorted(bids(sent(udp(port=6000)))) == [1, 2]
    assert bids(sent(udp(port=5004), table(cell=False))) == [1]
    assert bids(sent(udp(port=6000), table(cell=False))) == [1]
    assert bids(sent(udp(dst="2001:db8:f00:1::7"))) == [1]


@pytest.mark.parametrize(
    ("packet", "held", "reason"),
    [
        (udp(sport=7), table(), DropReason.RULE),
        (udp(), table(wlan=False, cell=False), DropReason.NO_TUNNEL),
        (udp(dst="2001:db8:dead::1"), table(), DropReason.NO_NODE),
        (udp(dst="ff02::1"), table(), DropReason.NOT_FORWARDABLE),
        (udp(src="fe80::1"), table(), DropReason.NOT_FORWARDABLE),
        (udp(hlim=0), table(), DropReason.HOP_LIMIT),
        (udp(1461), table(), DropReason.TOO_BIG),
        (b"\x45" + udp()[1:], table(), DropReason.MALFORMED),
    ],
)
def test_drops(packet: bytes, held: ForwardingTable, reason: DropReason) -> None:
    verdict = encapsulate(Plain(held), packet, Memory(), 7, 0)
    assert isinstance(verdict, Dropped) and verdict.reason is reason


@pytest.mark.parametrize(("mtu", "size", "told"), [(1460, 1461, 1460), (1240, 1281, 1280), (1280, 1281, 1280)])
def test_too_big_names_the_tunnel_mtu_but_never_less_than_1280(mtu: int, size: int, told: int) -> None:
    verdict = encapsulate(Plain(table(mtu)), udp(size), Memory(), 7, 0)
    assert isinstance(verdict, Dropped) and verdict.error is not None
    answer = IPv6(verdict.error)
    assert (answer.src, answer.dst, answer[ICMPv6PacketTooBig].mtu) == (str(AGENT), str(PEER), told)
    right = answer[ICMPv6PacketTooBig].cksum
    del answer[ICMPv6PacketTooBig].cksum
    assert IPv6(bytes(answer))[ICMPv6PacketTooBig].cksum == right and len(verdict.error) <= 1280


@pytest.mark.parametrize("size", [1240, 1241, 1280])
def test_small_packets_go_over_small_paths_in_fragments_that_fit(size: int) -> None:
    packet = udp(size)
    (copy,) = sent(packet, table(1240)).copies
    assert all(len(one) <= 1280 for one in copy.packets)
    assert (len(copy.packets) > 1) == (size > 1240)
    if size > 1240:
        parts = [IPv6(one)[IPv6ExtHdrFragment] for one in copy.packets]
        assert [part.m for part in parts] == [1, 0] and {part.id for part in parts} == {7}
        whole = bytearray(size)
        for part, one in zip(parts, copy.packets, strict=True):
            whole[part.offset * 8 : part.offset * 8 + len(one) - 48] = one[48:]
        assert whole == packet


def test_later_fragments_follow_the_first() -> None:
    memory, header = Memory(), {"src": str(PEER), "dst": str(HOME)}
    first = bytes(IPv6(**header) / IPv6ExtHdrFragment(m=1, id=5, nh=17) / UDP(sport=1, dport=5004) / Raw(b"x" * 8))
    later = bytes(IPv6(**header) / IPv6ExtHdrFragment(offset=2, id=5, nh=17) / Raw(b"x" * 8))
    assert bids(sent(later)) == [1]
    assert bids(sent(first, memory=memory)) == [2]
    assert bids(sent(later, memory=memory)) == [2]


def test_ipv4_inside() -> None:
    """Next header 4; DSCP and ECN copied; flow rules of IPv4 selectors; later fragments follow the first."""
    packet = udp4(tos=0xB9, ttl=3)
    (copy,) = sent(packet).copies
    outer = IPv6(copy.packets[0])
    assert (outer.nh, outer.hlim, outer.tc, outer.plen) == (4, 64, 0xB9, len(packet)) and copy.packets[0][40:] == packet
    assert bids(sent(udp4(port=5004))) == [2]
    assert bids(sent(udp4(dst="198.51.100.65", port=5004))) == [2]
    memory = Memory()
    first, later = udp4(port=5004, flags="MF", id=9), udp4(flags=0, frag=8, id=9)
    assert bids(sent(later, memory=memory)) == [1]
    assert bids(sent(first, memory=memory)) == [2]
    assert bids(sent(later, memory=memory)) == [2]
    assert bids(sent(udp4(flags=0, frag=8, id=9, proto=6), memory=memory)) == [1]


def test_ipv4_that_must_not_be_fragmented_is_answered_and_other_is_carried_in_outer_fragments() -> None:
    for held, source in ((table(1240), "192.0.0.8"), (replace(table(1240), ipv4_address=AGENT4), str(AGENT4))):
        verdict = encapsulate(Plain(held), udp4(1241), Memory(), 7, 0)
        assert isinstance(verdict, Dropped) and verdict.reason is DropReason.TOO_BIG and verdict.error is not None
        answer = IP(verdict.error)
        assert (answer.src, answer.dst, answer.len) == (source, str(PEER4), len(verdict.error)) and answer.len <= 576
        assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1240)
        assert verdict.error[28:] == udp4(1241)[: 576 - 28]
        right = answer.chksum, answer[ICMP].chksum
        del answer.chksum, answer[ICMP].chksum
        answer = IP(bytes(answer))
        assert (answer.chksum, answer[ICMP].chksum) == right
    packet = udp4(1500, flags=0)
    (copy,) = sent(packet, table(1240)).copies
    parts = [IPv6(one)[IPv6ExtHdrFragment] for one in copy.packets]
    assert [(part.nh, part.m, part.id) for part in parts] == [(4, 1, 7), (4, 0, 7)]
    assert b"".join(one[48:] for one in copy.packets) == packet and all(len(one) <= 1280 for one in copy.packets)


@pytest.mark.parametrize(
    ("packet", "reason", "answered"),
    [
        (udp4(ttl=0), DropReason.HOP_LIMIT, True),
        (udp4(ttl=0, flags=0, frag=1), DropReason.HOP_LIMIT, False),
        (udp4(dst="198.51.100.6"), DropReason.NO_NODE, True),
        (bytes(IP(src=str(PEER4), dst="198.51.100.6") / ICMP(type=3) / Raw(b"x" * 28)), DropReason.NO_NODE, False),
        (bytes(IP(src=str(PEER4), dst="198.51.100.6") / ICMP(type=8)), DropReason.NO_NODE, True),
        (udp4(dst="224.0.0.1"), DropReason.NOT_FORWARDABLE, False),
        (udp4(dst="255.255.255.255"), DropReason.NOT_FORWARDABLE, False),
        (udp4(src="169.254.0.1"), DropReason.NOT_FORWARDABLE, False),
        (udp4(src="127.0.0.1"), DropReason.NOT_FORWARDABLE, False),
        (udp4(src="0.0.0.0"), DropReason.NOT_FORWARDABLE, False),
        (udp4(ihl=4), DropReason.MALFORMED, False),
        (udp4(len=65), DropReason.MALFORMED, False),
        (udp4(len=19), DropReason.MALFORMED, False),
        (udp4()[:19], DropReason.MALFORMED, False),
    ],
)
def test_drops_of_ipv4(packet: bytes, reason: DropReason, answered: bool) -> None:
    verdict = encapsulate(Plain(table()), packet, Memory(), 7, 0)
    assert isinstance(verdict, Dropped) and verdict.reason is reason
    assert (verdict.error is not None) == answered


def up(
    inner: bytes,
    source: IPv6Address = WLAN,
    local: IPv6Address = AGENT,
    tc: int = 0,
    protocol: Protocol = Protocol.IPV6,
) -> Delivered | Dropped:
    return decapsulate(Plain(table()), Arrival(source, local, tc, protocol), inner, Memory(), 0)


def test_source_checks_of_the_home_agent() -> None:
    mine = udp(src=str(HOME), dst=str(PEER))
    good = up(mine)
    assert isinstance(good, Delivered) and good.packet == mine and good.tunnel.bid == 1
    reasons = [
        up(mine, source=PEER),
        up(mine, local=PEER),
        up(udp(src="2001:db8:100::6", dst=str(PEER))),
        up(udp(src="fe80::1", dst=str(PEER))),
        up(b"\x45" + mine[1:]),
        up(mine[:-1]),
    ]
    assert [one.reason for one in reasons if isinstance(one, Dropped)] == [
        DropReason.UNKNOWN_OUTER_SOURCE,
        DropReason.UNKNOWN_OUTER_DESTINATION,
        DropReason.SOURCE_NOT_OWNED,
        DropReason.NOT_FORWARDABLE,
        DropReason.INNER_PROTOCOL,
        DropReason.MALFORMED,
    ]


def test_ecn_table_of_rfc_6040() -> None:
    figure_4 = {0: (0, 0, 0, None), 2: (2, 1, 2, 3), 1: (1, 1, 1, 3), 3: (3, 3, 3, 3)}  # by outer 00, 01, 10, 11
    for inner, results in figure_4.items():
        for outer, result in enumerate(results):
            assert decapsulated_ecn(inner, outer) == result
            verdict = up(udp(src=str(HOME), dst=str(PEER), tc=0xB8 | inner), tc=outer)
            if result is None:
                assert isinstance(verdict, Dropped) and verdict.reason is DropReason.ECN
            else:
                assert isinstance(verdict, Delivered) and IPv6(verdict.packet).tc == 0xB8 | result


def test_ecn_of_ipv4_and_the_header_checksum_that_follows() -> None:
    for inner, marks in {0: (0, 0, 0, None), 2: (2, 1, 2, 3), 1: (1, 1, 1, 3), 3: (3, 3, 3, 3)}.items():
        for outer, result in enumerate(marks):
            for identification in range(1, 60000, 4999):
                fields: dict[str, Any] = {"src": str(HOME4), "dst": str(PEER4), "id": identification}
                verdict = up(udp4(tos=0xB8 | inner, **fields), tc=outer, protocol=Protocol.IPV4)
                if result is None:
                    assert isinstance(verdict, Dropped) and verdict.reason is DropReason.ECN
                else:
                    assert isinstance(verdict, Delivered) and verdict.packet == udp4(tos=0xB8 | result, **fields)


def test_every_cut_of_a_packet_has_a_verdict() -> None:
    for packet, protocol in (
        (udp(src=str(HOME), dst=str(PEER)), Protocol.IPV6),
        (udp4(src=str(HOME4), dst=str(PEER4)), Protocol.IPV4),
    ):
        for length in range(len(packet)):
            verdict = up(packet[:length], protocol=protocol)
            assert isinstance(verdict, Dropped) and verdict.reason is DropReason.MALFORMED
            verdict_out = encapsulate(Plain(table()), packet[:length], Memory(), 1, 0)
            assert isinstance(verdict_out, Dropped) and verdict_out.reason is DropReason.MALFORMED


def test_path_mtu_only_for_own_tunnels_and_only_downwards() -> None:
    quoted = sent(udp()).copies[0].packets[0]

    def message(mtu: int, about: bytes = quoted) -> bytes:
        return b"\x02\0\0\0" + mtu.to_bytes(4, "big") + about

    changed = path_mtu_changed(Plain(table()), message(1400))
    assert changed is not None and (changed.local, changed.remote, changed.mtu) == (AGENT, WLAN, 1400)
    for bad in (message(1500), message(1279), message(1400, udp()), message(1400, quoted[:39]), b""):
        assert path_mtu_changed(Plain(table()), bad) is None


def test_too_big_about_an_outer_packet_is_relayed_to_the_inner_sender() -> None:
    """When it was larger than 1280, quoted as far as its source, and may have gone through that tunnel."""

    def relayed(inner: bytes, mtu: int = 1400, quoted: int = 1232) -> bytes | None:
        about = b"\x60\0\0\0" + len(inner).to_bytes(2, "big") + b"\x29\x40" + AGENT.packed + WLAN.packed + inner
        return relayed_too_big(Plain(table()), b"\x02\0\0\0" + mtu.to_bytes(4, "big") + about[:quoted])

    for quoted in (80, 1232):
        answer = relayed(udp(1400), quoted=quoted)
        assert answer is not None and len(answer) <= 1280
        assert (IPv6(answer).src, IPv6(answer).dst) == (str(AGENT), str(PEER))
        assert IPv6(answer)[ICMPv6PacketTooBig].mtu == 1360 and answer[48:] == udp(1400)[: quoted - 40]
    small = relayed(udp(1300), mtu=1300)
    assert small is not None and IPv6(small)[ICMPv6PacketTooBig].mtu == 1280
    error = bytes(IPv6(src=str(PEER), dst=str(HOME)) / ICMPv6PacketTooBig() / Raw(b"x" * 1300))
    for silent in (
        relayed(udp(1280)),
        relayed(udp(1400), quoted=79),
        relayed(udp(1400), mtu=1500),
        relayed(udp(1400, dst="2001:db8:dead::1")),
        relayed(udp(1400, src="ff02::1")),
        relayed(error),
    ):
        assert silent is None


def test_too_big_about_an_outer_packet_with_ipv4_inside_is_relayed() -> None:
    """As fragmentation needed, when the inner packet must not be fragmented."""

    def relayed(inner: bytes, quoted: int = 1232) -> bytes | None:
        about = b"\x60\0\0\0" + len(inner).to_bytes(2, "big") + b"\x04\x40" + AGENT.packed + WLAN.packed + inner
        return relayed_too_big(Plain(table()), b"\x02\0\0\0" + (1300).to_bytes(4, "big") + about[:quoted])

    for quoted in (60, 68, 1232):
        answer = relayed(udp4(1261), quoted)
        assert answer is not None
        assert (IP(answer).dst, IP(answer)[ICMP].nexthopmtu, answer[28:48]) == (str(PEER4), 1260, udp4(1261)[:20])
    for silent in (udp4(1260), udp4(1261, flags=0), udp4(1261, dst="198.51.100.6"), b"", b"\x45"):
        assert relayed(silent) is None


def test_a_packet_to_nobody_is_answered_by_the_home_agent() -> None:
    verdict = encapsulate(Plain(table()), udp(dst="2001:db8:dead::1"), Memory(), 7, 0)
    assert isinstance(verdict, Dropped) and verdict.error is not None
    answer = IPv6(verdict.error)
    assert (answer.src, answer.dst, answer[ICMPv6DestUnreach].code) == (str(AGENT), str(PEER), 3)
    echo_error = bytes(IPv6(src=str(PEER), dst="2001:db8:dead::1") / ICMPv6DestUnreach() / Raw(b"x" * 48))
    about_error = encapsulate(Plain(table()), echo_error, Memory(), 7, 0)
    assert isinstance(about_error, Dropped) and about_error.error is None


@pytest.mark.parametrize(("packet", "answered"), [(udp(), (1, 0)), (udp4(), (3, 0))])
def test_a_last_resort_may_tell_the_sender_that_there_is_no_route(packet: bytes, answered: tuple[int, int]) -> None:
    for unreachable in (True, False):
        rules = tuple(
            FlowRule(1, 1, selector, drop=True, unreachable=unreachable)
            for selector in (IPv6Selector(), IPv4Selector())
        )
        held = table()
        node = replace(held.nodes[HOME], rules=rules)
        verdict = encapsulate(Plain(replace(held, nodes={HOME: node})), packet, Memory(), 7, 0)
        assert isinstance(verdict, Dropped) and verdict.reason is DropReason.RULE
        assert (verdict.error is not None) is unreachable
        if verdict.error is not None:
            start = 40 if packet[0] >> 4 == 6 else 20
            assert tuple(verdict.error[start : start + 2]) == answered
    with pytest.raises(ValueError, match="unreachable without drop"):
        FlowRule(1, 1, IPv6Selector(), unreachable=True)


ADDRESSES = st.integers(0, 15).map(lambda n: IPv6Address(f"2001:db8:{n >> 2:x}::{n & 3:x}"))
IPV4_ADDRESSES = st.integers(0, 15).map(lambda n: IPv4Address(f"198.51.{n >> 2}.{n & 3}"))
PREFIXES = st.one_of(
    st.tuples(ADDRESSES, st.sampled_from([32, 46, 47, 48, 64, 127, 128])).map(
        lambda pair: IPv6Network((pair[0], pair[1]), strict=False)
    ),
    st.tuples(IPV4_ADDRESSES, st.sampled_from([0, 16, 23, 24, 31, 32])).map(
        lambda pair: IPv4Network((pair[0], pair[1]), strict=False)
    ),
)
TUNNELS = st.builds(
    Tunnel,
    bid=st.integers(1, 3),
    local=ADDRESSES,
    remote=ADDRESSES,
    usable=st.booleans(),
    encapsulation=st.sampled_from(Encapsulation),
    remote_port=st.integers(1, 2),
)
NODES = st.builds(Node, ADDRESSES, st.lists(PREFIXES, max_size=3).map(tuple), st.lists(TUNNELS, max_size=3).map(tuple))
TABLES = st.builds(
    lambda end, nodes: ForwardingTable(end, AGENT, {node.home_address: node for node in nodes}),
    st.sampled_from(End),
    st.lists(NODES, max_size=5),
)


@given(
    st.lists(TABLES, min_size=1, max_size=3),
    st.lists(st.tuples(ADDRESSES | IPV4_ADDRESSES, ADDRESSES | IPV4_ADDRESSES), max_size=10),
)
def test_index_answers_as_the_plain_table_after_every_change(
    tables: list[ForwardingTable], pairs: list[tuple[IPAddress, IPAddress]]
) -> None:
    index = Index(End.HOME_AGENT, AGENT)
    for held in tables:
        index.set_table(held)
        plain = Plain(held)
        for one, other in pairs:
            assert index.owner(one) is plain.owner(one)
            assert index.is_local(one) == plain.is_local(one)
            for ports in (None, (4191, 1), (4191, 2)):
                found = {id(tunnel) for _, tunnel in index.between(one, other, ports)}
                assert found == {id(tunnel) for _, tunnel in plain.between(one, other, ports)}
