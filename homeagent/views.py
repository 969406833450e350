"""What follows from the binding cache: forwarding, kernel state and status. Pure functions of the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Any

from homeagent.bindingcache import Binding, BindingCacheEntry
from homeagent.registration import Accepted
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.actions import KernelState, ProxyNeighbour, Report, Route, UdpEndpoint
from mip6.explain import Background
from mip6.forwarding import Encapsulation, FlowRule, IPAddress, IPNetwork, Node, Tunnel, overhead
from mip6.path import PathState
from mip6.paths import best
from mip6.probeflows import probe_rules
from mip6.selectors import describe


def on_home_link(settings: HomeAgentSettings, home: IPv6Address) -> bool:
    """Whether this home address is on a link where the home agent must defend it (RFC 6275 §10.4.1)."""
    return settings.home_link is not None and any(home in prefix for prefix in settings.home_prefixes)


def forwarding_node(
    settings: HomeAgentSettings,
    node: NodeSettings,
    entry: BindingCacheEntry,
    mtus: Mapping[IPAddress, int],
    states: Mapping[int, PathState] = MappingProxyType({}),
) -> Node:
    """One node's part of the forwarding table: tunnels by BID-PRI, local drop rules in front of its flow bindings.

    `states` are those of its paths by this end's own probes. A path that is held back comes last and is in no flow, but
    stays usable, for its probes.
    """
    bindings, bids = entry.bindings, {one.bid for one in entry.bindings}
    held_back = bids - best(bids, states) if states else frozenset[int]()
    if held_back:
        bindings = tuple(sorted(bindings, key=lambda one: one.bid in held_back))
    probes = probe_rules(entry.home_address, settings.address, sorted(bids)) if settings.paths.probe else ()
    drops = tuple(FlowRule(0, 0, selector, drop=True) for selector in node.drops)
    return Node(
        entry.home_address,
        (*entry.prefixes, *_ipv4_networks(entry)),
        tuple([_tunnel(settings, one, mtus) for one in bindings]),
        probes + drops + tuple(_without(flow.rule(bids - held_back), held_back) for flow in entry.flows),
        tuple(flow.selector for flow in entry.flows if flow.may_repeat),
    )


def _without(rule: FlowRule, bids: Set[int]) -> FlowRule:
    """A rule less some of its BIDs, with the weights of the others."""
    if bids.isdisjoint(rule.bids):
        return rule
    kept = [number for number, bid in enumerate(rule.bids) if bid not in bids]
    weights = tuple(rule.weights[number] for number in kept) if rule.weights else ()
    return replace(rule, bids=tuple(rule.bids[number] for number in kept), weights=weights)


def background(entry: BindingCacheEntry, states: Mapping[int, PathState]) -> Background:
    """What `mip6 explain` says beside the forwarding table."""
    bound = {one.bid for one in entry.bindings}
    named = {bid for flow in entry.flows for bid in flow.bids}
    unused = dict.fromkeys(sorted(named - bound), "the mobile node has not registered it")
    return Background(unused=unused | {bid: f"its path is {states[bid]}" for bid in bound - best(bound, states)})


def _tunnel(settings: HomeAgentSettings, one: Binding, mtus: Mapping[IPAddress, int]) -> Tunnel:
    local = settings.local(one.care_of_address)
    path = min(settings.mtu, mtus.get(one.care_of_address, settings.mtu)) if mtus else settings.mtu
    return Tunnel(
        one.bid,
        local,
        one.care_of_address,
        path - overhead(local, one.encapsulation),
        encapsulation=one.encapsulation,
        remote_port=one.port,
        expires=one.expires,
    )


def served(entry: BindingCacheEntry) -> tuple[IPNetwork, ...]:
    """The inner networks that this entry's bindings are for; none when it has no binding."""
    return (IPv6Network(entry.home_address), *entry.prefixes, *_ipv4_networks(entry)) if entry.bindings else ()


def registered(before: BindingCacheEntry | None, entry: BindingCacheEntry, accepted: Accepted) -> Report:
    """The line of the log for a Binding Update that made `entry` of the one `before`."""
    fields: dict[str, object] = {
        "home_address": entry.home_address,
        "bindings": {one.bid: where(one) for one in entry.bindings},
        "flows": [flow.fid for flow in entry.flows],
        "lifetime": accepted.lifetime,
        "sequence": entry.sequence,
        "status": accepted.status.name,
    }
    refresh = before is not None and places(before) == places(entry)
    name = "binding registered" if accepted.lifetime else "binding deregistered"
    return Report(name, "debug" if refresh else "info", fields)


def places(entry: BindingCacheEntry) -> tuple[object, ...]:
    """Where an entry's packets go; a registration that leaves it as it was is a mere refresh."""
    ends = tuple((one.bid, one.care_of_address, one.encapsulation, one.port) for one in entry.bindings)
    return ends, entry.flows, entry.prefixes, entry.ipv4_home_address, entry.ipv4_prefixes


def where(one: Binding) -> IPAddress | str:
    """A binding's far end for people: its text is made only when somebody reads it."""
    udp = one.encapsulation is Encapsulation.UDP
    return f"{one.care_of_address} port {one.port}" if udp else one.care_of_address


def _ipv4_networks(entry: BindingCacheEntry) -> tuple[IPv4Network, ...]:
    own = () if entry.ipv4_home_address is None else (IPv4Network(entry.ipv4_home_address),)
    return (*own, *entry.ipv4_prefixes)


def kernel_state(settings: HomeAgentSettings, cache: Mapping[IPv6Address, BindingCacheEntry]) -> KernelState:
    """Routes to the tunnel device, the proxied addresses of a home link, the sockets of UDP encapsulation."""
    routed: list[IPNetwork] = []
    proxies: list[ProxyNeighbour] = []
    if settings.home_link is None:  # all is routed to this machine: bound or not, it goes to the data plane
        routed += settings.home_prefixes
        routed += [] if settings.ipv4_home_pool is None else [settings.ipv4_home_pool]
        for node in settings.nodes:
            own: list[IPNetwork] = [*node.prefixes, *node.ipv4_prefixes]
            own += [] if node.ipv4_home_address is None else [IPv4Network(node.ipv4_home_address)]
            routed += [one for one in own if not _within(one, routed)]
    else:
        for home, entry in cache.items():
            routed += served(entry)
            if entry.bindings and on_home_link(settings, home):
                proxies.append(ProxyNeighbour(home, settings.home_link, entry.mobile_router))
                if entry.ipv4_home_address is not None:  # proxy ARP (RFC 5555 §4.5)
                    proxies.append(ProxyNeighbour(entry.ipv4_home_address, settings.home_link))
    addresses = [one for one in (settings.address, settings.ipv4_address) if one is not None]
    return KernelState(
        routes=tuple(Route(prefix, settings.device) for prefix in dict.fromkeys(routed)),
        proxies=tuple(proxies),
        sockets=tuple(UdpEndpoint(one) for one in addresses),
    )


def _within(prefix: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    """Whether one of the others contains it."""
    number, length = int(prefix.network_address), prefix.max_prefixlen
    return any(
        one.max_prefixlen == length
        and one.prefixlen <= prefix.prefixlen
        and (number ^ int(one.network_address)) >> (length - one.prefixlen) == 0
        for one in others
    )


def node_status(entry: BindingCacheEntry, node: NodeSettings | None, now: float, revoking: set[int]) -> dict[str, Any]:
    """One node as `mip6 status` shows it; the data plane's counters are added by the daemon."""
    bound = {one.bid for one in entry.bindings}
    return {
        "home_address": str(entry.home_address),
        "identifier": node.identifier if node else None,
        "mobile_router": entry.mobile_router,
        "prefixes": [str(prefix) for prefix in (*entry.prefixes, *entry.ipv4_prefixes)],
        "ipv4_home_address": None if entry.ipv4_home_address is None else str(entry.ipv4_home_address),
        "bindings": [
            {
                "bid": one.bid,
                "care_of_address": str(one.care_of_address),
                "encapsulation": str(one.encapsulation),
                "port": one.port if one.encapsulation is Encapsulation.UDP else None,
                "inside": None if one.inside is None else str(one.inside),
                "priority": one.priority,
                "lifetime": one.lifetime,
                "lifetime_left": round(max(0.0, one.expires - now), 1),
                "state": "revoking" if one.bid in revoking else "active",
            }
            for one in entry.bindings
        ],
        "flows": [
            {
                "fid": flow.fid,
                "priority": flow.priority,
                "selector": describe(flow.selector),
                "bids": list(flow.bids),
                "weights": list(flow.weights),
                "active": bool(bound.intersection(flow.bids)),
            }
            for flow in entry.flows
        ],
    }
