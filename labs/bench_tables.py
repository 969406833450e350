"""Forwarding tables of the benchmarks: what the agents of `labs.bench_network` would hand over."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

from labs.bench_network import (
    CARE_OF,
    CARE_OF4,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_AGENT4,
    MOBILE_NETWORK,
)
from mip6.forwarding import Encapsulation, End, FlowRule, ForwardingTable, Node, Tunnel, overhead
from mip6.selectors import IPv6Selector


@dataclass(frozen=True, slots=True)
class Way:
    """A way of forwarding with agents' data planes: `share` gives each flow one of both paths, `copies` n-casts
    everything over both, of which `eliminate` delivers one; `nodes` mobile nodes with `rules` flow rules each are in
    the home agent's table, ours among them. `udp` is the IP version that everything goes over inside UDP, by one
    path."""

    dataplane: str
    shortcut: str = "on"
    share: bool = False
    copies: bool = False
    eliminate: bool = False
    nodes: int = 1
    rules: int = 0
    udp: int | None = None


WAYS = {
    "userspace": Way("userspace"),
    "ebpf": Way("ebpf"),
    "ebpf_noshortcut": Way("ebpf", shortcut="off"),
    "ebpf_ncast": Way("ebpf", copies=True),
    "userspace_share": Way("userspace", share=True),
    "userspace_ncast": Way("userspace", copies=True),
    "userspace_dedup": Way("userspace", copies=True, eliminate=True),
    "ebpf_share": Way("ebpf", share=True),
    "ebpf_dedup": Way("ebpf", copies=True, eliminate=True),
    "ebpf_udp4": Way("ebpf", udp=4),
    "ebpf_udp6": Way("ebpf", udp=6),
    "ebpf_100k": Way("ebpf", nodes=100_000, rules=32),
}


def table(node: str, way: Way) -> ForwardingTable:
    """What the agent of `node` would hand over: a mobile router with two bindings, at the home agent beside others."""
    agent, home = IPv6Address(HOME_AGENT), IPv6Address(HOME_ADDRESS)
    care_of = [IPv6Address(CARE_OF), IPv6Address(CARE_OF_B)]
    ends = [(one, agent) if node == "mr" else (agent, one) for one in care_of]
    tunnels = tuple(Tunnel(bid, local, remote) for bid, (local, remote) in enumerate(ends, 1))
    if way.udp is not None:
        tunnels = (_in_udp(node, way.udp),)
    rules = missed_rules(way.rules)
    if way.copies or way.share:
        rules = (FlowRule(1, 1, IPv6Selector(), (1, 2), weights=(1, 1) if way.share else ()),)
    copied = (IPv6Selector(),) if way.copies else ()
    entry = Node(home, (IPv6Network(MOBILE_NETWORK),), tunnels, rules, copied)
    if node == "mr":
        return ForwardingTable(End.MOBILE_NODE, home, {home: entry}, eliminate_duplicates=way.eliminate)
    nodes = {home: entry, **other_nodes(way.nodes - 1, way.rules)}
    return ForwardingTable(End.HOME_AGENT, agent, nodes, eliminate_duplicates=way.eliminate)


def _in_udp(node: str, version: int) -> Tunnel:
    both = (CARE_OF4, HOME_AGENT4) if version == 4 else (CARE_OF, HOME_AGENT)
    local, remote = map(ip_address, both if node == "mr" else both[::-1])
    return Tunnel(1, local, remote, 1500 - overhead(local, Encapsulation.UDP), encapsulation=Encapsulation.UDP)


def missed_rules(count: int) -> tuple[FlowRule, ...]:
    """Rules that the measured packets do not match: each of them is looked at."""
    selectors = (IPv6Selector(next_header=(17, 17), destination_port=(1000 + n, 1000 + n)) for n in range(count))
    return tuple(FlowRule(n, n, selector, (2,)) for n, selector in enumerate(selectors, 1))


def other_nodes(count: int, rules: int) -> dict[IPv6Address, Node]:
    """Mobile routers with three bindings each and `rules` flow rules."""
    agent, home, care_of = IPv6Address(HOME_AGENT), int(IPv6Address("2001:db8:100::")), int(IPv6Address("2001:db8:d::"))
    network = int(IPv6Address("2001:db8:1000::"))
    shared = missed_rules(rules)
    made = {}
    for number in range(1, count + 1):
        tunnels = tuple(Tunnel(bid, agent, IPv6Address(care_of + (bid << 32) + number)) for bid in (1, 2, 3))
        prefix = IPv6Network((network + (number << 64), 64))
        address = IPv6Address(home + number)
        made[address] = Node(address, (prefix,), tunnels, shared)
    return made
