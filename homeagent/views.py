"""What follows from the binding cache: forwarding, kernel state and status. Pure functions of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from homeagent.bindingcache import Binding, BindingCacheEntry
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.actions import KernelState, ProxyNeighbour, Route
from mip6.forwarding import IPV6_HEADER, FlowRule, IPAddress, Node, Tunnel
from mip6.selectors import describe


def on_home_link(settings: HomeAgentSettings, home: IPv6Address) -> bool:
    """Whether this home address is on a link where the home agent must defend it (RFC 6275 §10.4.1)."""
    return settings.home_link is not None and any(home in prefix for prefix in settings.home_prefixes)


def forwarding_node(
    settings: HomeAgentSettings, node: NodeSettings, entry: BindingCacheEntry, mtus: Mapping[IPAddress, int]
) -> Node:
    """One node's part of the forwarding table: tunnels by BID-PRI, local drop rules in front of its flow bindings."""
    drops = tuple(FlowRule(0, 0, selector, drop=True) for selector in node.drops)
    return Node(
        entry.home_address,
        entry.prefixes,
        tuple(
            Tunnel(
                one.bid,
                settings.address,
                one.care_of_address,
                min(settings.mtu, mtus.get(one.care_of_address, settings.mtu)) - IPV6_HEADER,
                expires=one.expires,
            )
            for one in sorted(entry.bindings, key=Binding.rank)
        ),
        drops + tuple(flow.rule() for flow in entry.flows),
    )


def kernel_state(settings: HomeAgentSettings, cache: Mapping[IPv6Address, BindingCacheEntry]) -> KernelState:
    """Routes to the tunnel device, and the proxied addresses of a home link."""
    served: list[IPv6Network] = []
    proxies: list[ProxyNeighbour] = []
    if settings.home_link is None:  # all is routed to this machine: bound or not, it goes to the data plane
        served += settings.home_prefixes
        for node in settings.nodes:
            served += [one for one in node.prefixes if not any(one.subnet_of(home) for home in settings.home_prefixes)]
    else:
        for home, entry in cache.items():
            if entry.bindings:
                served += [IPv6Network(home), *entry.prefixes]
                if on_home_link(settings, home):
                    proxies.append(ProxyNeighbour(home, settings.home_link, entry.mobile_router))
    return KernelState(
        routes=tuple(Route(prefix, settings.device) for prefix in dict.fromkeys(served)), proxies=tuple(proxies)
    )


def node_status(entry: BindingCacheEntry, node: NodeSettings | None, now: float, revoking: set[int]) -> dict[str, Any]:
    """One node as `mip6 status` shows it; the data plane's counters are added by the daemon."""
    bound = {one.bid for one in entry.bindings}
    return {
        "home_address": str(entry.home_address),
        "identifier": node.identifier if node else None,
        "mobile_router": entry.mobile_router,
        "prefixes": [str(prefix) for prefix in entry.prefixes],
        "bindings": [
            {
                "bid": one.bid,
                "care_of_address": str(one.care_of_address),
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
                "active": bool(bound.intersection(flow.bids)),
            }
            for flow in entry.flows
        ],
    }
