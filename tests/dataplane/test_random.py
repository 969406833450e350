"""Random tables and packets: the userspace data plane, on real devices, does what the reference says.

Each packet goes twice, so that both the decision and what is remembered of it are seen; packets of one example share
few addresses and ports, so that flows collide.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip6 import duplicates, memory
from mip6.actions import UdpEndpoint
from mip6.dataplane import inside, outbound
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.errors import ipv4_header
from mip6.forward import Arrival, Delivered, Dropped, Encapsulated, decapsulate, encapsulate
from mip6.forwarding import DropReason, Encapsulation, End, FlowRule, ForwardingTable, IPAddress, Node, Tunnel
from mip6.lookup import Plain
from mip6.memory import Memory
from mip6.numbers import Protocol
from mip6.selectors import IPv4Selector, IPv6Selector
from mip6.system.tun import Tun
from mip6.system.udp import UdpSockets
from tests.dataplane.conformance_outer import NAT, WLAN4
from tests.dataplane.test_conformance import ETH_P_ALL, inject, received
from tests.dataplane.test_outer import carries, comparable, wrap
from tests.dataplane.test_reference import AGENT, AGENT4, CELL, HOME, HOME4, PEER, PEER4, WLAN
from tests.dataplane.test_tunnel import far, ip, until

__all__ = ["far"]
pytestmark = pytest.mark.netns

EXAMPLES = 100
SECOND_HOME, NOBODY = IPv6Address("2001:db8:100::6"), IPv6Address("2001:db8:100::7")
INNER = [HOME, SECOND_HOME, NOBODY, PEER, IPv6Address("2001:db8:f00::1"), IPv6Address("2001:db8:f00:80::1")]
INNER4 = [HOME4, HOME4 + 1, PEER4, IPv4Address("198.51.100.64"), IPv4Address("198.51.100.96")]
NETWORKS = ["2001:db8:f00::/56", "2001:db8:f00:80::/57", "2001:db8:f00::/64"]
NETWORKS4 = [f"{HOME4}/32", "198.51.100.0/24", "198.51.100.64/26", "198.51.100.96/27"]
PREFIXES = st.lists(
    st.sampled_from(NETWORKS + NETWORKS4).map(ip_network),
    max_size=4,
    unique=True,
).map(tuple)
IDENTIFICATION = itertools.count(1)  # of inner fragments: never the same twice


@dataclass(frozen=True)
class Lane:
    """A kind of tunnel: all that arrives by it comes through one socket, so that the order is the same for all."""

    local: IPAddress
    remotes: tuple[IPAddress, ...]  # the last of them is never registered
    ports: tuple[int, ...] = ()  # of the far end, of UDP; the last is never registered

    def tunnels(self) -> list[dict[str, Any]]:
        """What tells apart the tunnels there may be."""
        ends = [{"local": self.local, "remote": remote} for remote in self.remotes[:-1]]
        if not self.ports:
            return ends
        udp = {"encapsulation": Encapsulation.UDP}
        return [one | udp | {"remote_port": port} for one in ends for port in self.ports[:-1]]

    def arrivals(self) -> st.SearchStrategy[dict[str, Any]]:
        """Outer headers, mostly of what is registered."""
        sources = st.sampled_from([*self.remotes[:-1], *self.remotes])
        classes = st.sampled_from([0, 0, 1, 2, 3, 0xB8, 0xBB])
        ports = st.tuples(st.sampled_from([*self.ports[:-1], *self.ports]), st.just(4191)) if self.ports else st.none()
        return st.fixed_dictionaries(
            {"source": sources, "destination": st.just(self.local), "traffic_class": classes, "ports": ports}
        )


LANES = (
    Lane(AGENT, (WLAN, CELL, PEER)),
    Lane(AGENT4, (WLAN4, NAT, AGENT4 + 9)),
    Lane(AGENT4, (NAT, AGENT4 + 9), (40001, 40002, 40009)),
    Lane(AGENT, (WLAN, CELL, PEER), (40001, 40009)),
)
ENDS = [tunnel for lane in LANES for tunnel in lane.tunnels()]


def tunnels(end: End) -> st.SearchStrategy[tuple[Tunnel, ...]]:
    ends = ENDS if end is End.HOME_AGENT else [one for one in ENDS if one["remote"] in (WLAN, NAT)]
    one = st.builds(
        lambda bid, ends, mtu, usable: Tunnel(bid, mtu=mtu, usable=usable, **ends),
        st.integers(1, 3),
        st.sampled_from(ends),
        st.sampled_from([1240, 1280, 1400, 1460]),
        st.sampled_from([True, True, False]),
    )
    return st.lists(one, max_size=3, unique_by=lambda tunnel: tunnel.bid).map(tuple)


def ranges(*values: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.sampled_from(values), st.sampled_from(values)).map(lambda two: (min(two), max(two)))


def address_ranges(*addresses: IPAddress) -> st.SearchStrategy[tuple[IPAddress, IPAddress]]:
    ends = st.sampled_from(addresses)
    return st.tuples(ends, ends).map(lambda two: (min(two, key=int), max(two, key=int)))


Kind = type[IPv4Selector] | type[IPv6Selector]


def selectors(kind: Kind, fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[IPv4Selector | IPv6Selector]:
    """Of one format, with one or two conditions or none."""
    conditions = st.one_of([st.fixed_dictionaries({name: values}) for name, values in fields.items()])
    return st.lists(conditions, max_size=2).map(
        lambda chosen: kind(**{name: value for one in chosen for name, value in one.items()})
    )


ANY = {
    "spi": ranges(1 << 16 | 1, 1 << 16 | 2, 2 << 16 | 1),
    "source_port": ranges(1, 2),
    "destination_port": ranges(1, 2),
}
CODEPOINTS, PROTOCOLS = ranges(0, 0xB8), ranges(Protocol.TCP, Protocol.UDP, Protocol.ESP)
ADDRESSES6, ADDRESSES4 = address_ranges(*INNER), address_ranges(*INNER4)
SELECTORS = st.one_of(
    selectors(
        IPv6Selector,
        ANY
        | {"source": ADDRESSES6, "destination": ADDRESSES6, "flow_label": ranges(0, 5)}
        | {"traffic_class": CODEPOINTS, "next_header": PROTOCOLS},
    ),
    selectors(
        IPv4Selector,
        ANY | {"source": ADDRESSES4, "destination": ADDRESSES4, "ds_field": CODEPOINTS, "protocol": PROTOCOLS},
    ),
)


@st.composite
def rules(draw: st.DrawFn) -> FlowRule:
    bids = draw(st.sampled_from([(1,), (2,), (2, 1), (1, 2, 3)]))
    weights = draw(st.one_of(st.just(()), st.tuples(*[st.integers(0, 2) for _ in bids])))
    return FlowRule(1, 1, draw(SELECTORS), bids, draw(st.sampled_from([False, False, False, True])), weights)


RULES = st.lists(rules(), max_size=4).map(tuple)
COPIED = st.lists(SELECTORS, max_size=2).map(tuple)


@st.composite
def tables(draw: st.DrawFn) -> ForwardingTable:
    end = draw(st.sampled_from(End))
    homes = [HOME] if end is End.MOBILE_NODE else [HOME, SECOND_HOME]
    nodes = {home: Node(home, draw(PREFIXES), draw(tunnels(end)), draw(RULES), draw(COPIED)) for home in homes}
    return ForwardingTable(end, AGENT, nodes, eliminate_duplicates=draw(st.booleans()))


@st.composite
def packets(draw: st.DrawFn, source: IPv6Address, destination: IPv6Address) -> bytes:
    """An inner packet: complete, or with a payload length that is wrong, or a fragment."""
    protocol = draw(
        st.sampled_from([Protocol.UDP, Protocol.UDP, Protocol.TCP, Protocol.ESP, Protocol.ICMPV6, Protocol.MOBILITY])
    )
    ports = draw(st.sampled_from([1, 2])) << 16 | draw(st.sampled_from([1, 2]))
    size = draw(st.sampled_from([0, 3, 4, 24, 24, 24, 1200, 1201, 1240, 1241, 1360, 1361, 1420, 1421]))
    body = (ports.to_bytes(4, "big") + bytes(size))[:size]
    next_header: int = protocol
    if draw(st.integers(0, 3)) == 0:
        field = draw(st.sampled_from([0, 1, 8, 9]))
        body = bytes((protocol, 0)) + field.to_bytes(2, "big") + draw(st.sampled_from([1, 2])).to_bytes(4, "big") + body
        next_header = Protocol.FRAGMENT
    elif draw(st.integers(0, 3)) == 0:
        body = bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) + body  # destination options, all padding
        next_header = Protocol.DESTINATION_OPTIONS
    word = 6 << 28 | draw(st.sampled_from([0, 1, 2, 3, 0xB8, 0xBB])) << 20 | draw(st.sampled_from([0, 5]))
    length = len(body) + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    return (
        word.to_bytes(4, "big")
        + max(length, 0).to_bytes(2, "big")
        + bytes((next_header, draw(st.sampled_from([0, 1, 64, 64]))))
        + source.packed
        + destination.packed
        + body
    )


@st.composite
def packets4(draw: st.DrawFn, source: IPv4Address, destination: IPv4Address) -> bytes:
    """The same in IPv4, some with options."""
    protocol = draw(st.sampled_from([Protocol.UDP, Protocol.UDP, Protocol.TCP, Protocol.ESP, Protocol.ICMP]))
    ports = draw(st.sampled_from([1, 2])) << 16 | draw(st.sampled_from([1, 2]))
    size = draw(st.sampled_from([0, 3, 4, 24, 24, 24, 1220, 1221, 1260, 1261, 1440, 1441]))
    body = (ports.to_bytes(4, "big") + bytes(size))[:size]
    options = draw(st.sampled_from([b"", b"", b"", b"\1\1\1\0"]))
    header = ipv4_header(
        source,
        destination,
        protocol,
        max(0, len(options) + size + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))),
        tos=draw(st.sampled_from([0, 1, 2, 3, 0xB8, 0xBB])),
        identification=draw(st.sampled_from([1, 2])),
        fragment=draw(st.sampled_from([0, 0x4000, 0x4000, 0x2000, 1, 0x2001])),
        ttl=draw(st.sampled_from([0, 1, 64, 64])),
    )
    return bytes((header[0] + len(options) // 4,)) + header[1:] + options + body


# packets that are alike, so that several are of one flow or nearly so
TRAINS = st.one_of(
    st.tuples(st.sampled_from(INNER), st.sampled_from(INNER)).flatmap(
        lambda pair: st.lists(packets(*pair), min_size=1, max_size=20)
    ),
    st.tuples(st.sampled_from(INNER4), st.sampled_from(INNER4)).flatmap(
        lambda pair: st.lists(packets4(*pair), min_size=1, max_size=20)
    ),
)


def fresh(packet: bytes, number: int) -> bytes:
    """The same with an identification of its own, if it is a fragment: one example's fragments are not another's."""
    if packet[0] >> 4 == 4:
        return packet[:4] + (packet[5] + 2 * number).to_bytes(2, "big") + packet[6:]
    if packet[6] != Protocol.FRAGMENT:
        return packet
    own = (packet[47] + 2 * number).to_bytes(4, "big")
    return packet[:44] + own + packet[48:]


class Stage:
    """The data plane between a packet socket at the far end and one on its device."""

    def __init__(self, far: socket.socket) -> None:
        self.far, self.memory = far, Memory()  # the reference remembers what the plane does
        ip("address", "add", f"{AGENT4}/24", "dev", "eth0")
        for address in (WLAN, CELL, WLAN4, NAT):
            ip("neighbour", "replace", str(address), "lladdr", "02:00:00:00:00:02", "dev", "eth0")
        for address in (WLAN, CELL):
            ip("route", "add", f"{address}/128", "dev", "eth0")
        far.bind(("far0", ETH_P_ALL))
        ip("link", "set", "eth0", "mtu", "1600")
        self.runner = asyncio.Runner()
        self.runner.run(self._start())
        self.device = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        self.device.bind(("mip0", ETH_P_ALL))

    async def _start(self) -> None:
        self.sockets = UdpSockets(AGENT, lambda _: None, lambda _: None)
        self.sockets.set_endpoints([UdpEndpoint(AGENT), UdpEndpoint(AGENT4)])
        self.plane = UserspaceDataPlane(Tun("mip0", 1500), lambda _: None)
        self.plane.start()
        self.plane.use_udp(self.sockets)

    def close(self) -> None:
        self.device.close()
        self.runner.run(self._stop())
        self.runner.close()

    async def _stop(self) -> None:
        self.plane.stop(remove=True)
        self.sockets.close()

    async def compare(self, outer: list[bytes], inner: list[bytes], drops: list[DropReason], sent: list[bytes]) -> None:
        """Wait for what the reference says, and say what differs."""
        wanted = [Counter(map(comparable, outer)), Counter(inner), Counter(drops)]
        seen: list[bytes] = []
        delivered: list[bytes] = []

        def complete() -> bool:
            seen.extend(one for one in received(self.far) if carries(one))
            delivered.extend(received(self.device))
            return len(seen) >= len(outer) and len(delivered) >= len(inner) and self.drops() == wanted[2]

        try:
            await until(complete)
        except TimeoutError:
            pytest.fail(f"{[one.hex() for one in sent]}: {len(seen)} outer, {len(delivered)} inner, {self.drops()}")
        assert [Counter(map(comparable, seen)), Counter(delivered), self.drops()] == wanted

    def drops(self) -> Counter[DropReason]:
        return Counter(self.plane.counters().drops) - self.dropped

    def copies(self) -> Counter[tuple[IPv6Address, int, str]]:
        """What came first by which tunnel and what after another, since `begin`."""
        found: Counter[tuple[IPv6Address, int, str]] = Counter()
        for (home, bid), one in self.plane.counters().tunnels.items():
            found[home, bid, "first"] = one.packets_first
            found[home, bid, "duplicate"] = one.packets_duplicate
        return found - self.copied

    def begin(self, table: ForwardingTable) -> None:
        self.plane.set_table(table)
        self.dropped = Counter(self.plane.counters().drops)
        self.copied: Counter[tuple[IPv6Address, int, str]] = Counter()
        self.copied = self.copies()
        received(self.far)
        received(self.device)


@pytest.fixture(autouse=True)
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forgotten because of time, which the reference and the plane see differently."""
    monkeypatch.setattr(inside, "ANSWERS_PER_SECOND", 1_000_000)
    for module, name in ((memory, "FLOW_IDLE"), (outbound, "FLOW_IDLE"), (duplicates, "WINDOW")):
        monkeypatch.setattr(module, name, 1e9)


def test_out(far: socket.socket) -> None:
    stage = Stage(far)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(tables(), TRAINS)
    def agrees(table: ForwardingTable, drawn: list[bytes]) -> None:
        number = next(IDENTIFICATION)
        stage.runner.run(story(table, [fresh(one, number) for one in drawn for _ in range(2)]))

    async def story(table: ForwardingTable, sent: list[bytes]) -> None:
        stage.begin(table)
        now, outer, errors, drops = asyncio.get_running_loop().time(), [], [], []
        for packet in sent:
            verdict = encapsulate(Plain(table), packet, stage.memory, 0, now)
            if isinstance(verdict, Encapsulated):
                outer += [one for copy in verdict.copies for one in copy.packets]
            else:
                drops.append(verdict.reason)
                errors += [verdict.error] if verdict.error is not None else []
            inject(stage.device, packet)
        await stage.compare(outer, errors, drops, sent)

    try:
        agrees()
    finally:
        stage.close()


def test_in(far: socket.socket) -> None:
    stage = Stage(far)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(
        tables(),
        TRAINS,
        st.sampled_from(LANES).flatmap(lambda lane: st.lists(lane.arrivals(), min_size=40, max_size=40)),
    )
    def agrees(table: ForwardingTable, drawn: list[bytes], outer: list[dict[str, Any]]) -> None:
        inner = [one for one in drawn if len(one) <= 1452 for _ in range(2)]  # 1500 on the way
        stage.runner.run(story(table, [(header(fields, one), one) for fields, one in zip(outer, inner, strict=False)]))

    def header(fields: dict[str, Any], inner: bytes) -> Arrival:
        native = Protocol.IPV4 if inner[0] >> 4 == 4 else Protocol.IPV6
        return Arrival(**fields, protocol=native if fields["ports"] is None else Protocol.UDP)

    async def story(table: ForwardingTable, arriving: list[tuple[Arrival, bytes]]) -> None:
        stage.begin(table)
        copies: Counter[tuple[IPv6Address, int, str]] = Counter()
        now, delivered, drops = asyncio.get_running_loop().time(), [], []
        for outer, packet in arriving:
            verdict = decapsulate(Plain(table), outer, packet, stage.memory, now)
            if isinstance(verdict, Delivered):
                delivered.append(verdict.packet)
                copies[verdict.node.home_address, verdict.tunnel.bid, "first"] += verdict.first
            else:
                assert isinstance(verdict, Dropped)
                drops.append(verdict.reason)
                if verdict.duplicate is not None:
                    copies[verdict.duplicate.node.home_address, verdict.duplicate.tunnel.bid, "duplicate"] += 1
            kind = 0x86DD if isinstance(outer.source, IPv6Address) else 0x0800
            stage.far.sendto(wrap(outer, packet), ("far0", kind, 0, 0, b"\x02\0\0\0\0\x01"))
        await stage.compare([], delivered, drops, [packet for _, packet in arriving])
        assert stage.copies() == +copies

    try:
        agrees()
    finally:
        stage.close()
