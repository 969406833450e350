"""What a home agent may be told anew while it runs, and what that does to bindings that are there. Pure.

Everything of a node may change, and what is looked up at each Binding Update. What sockets, devices, routes of the home
prefixes and the far ends of the tunnels hang on needs a restart.
"""

from __future__ import annotations

from dataclasses import fields, replace

from homeagent.bindingcache import BindingCacheEntry
from homeagent.settings import HomeAgentSettings, NodeSettings

RELOADED = frozenset(
    (
        "nodes", "max_lifetime", "refresh_advice", "insecure", "multiple_bindings", "bulk_registration",
        "flow_bindings", "eliminate_duplicates", "udp_encapsulation", "nat_refresh", "preference", "other_home_agents",
    )
)  # fmt: skip


def needs_restart(old: HomeAgentSettings, new: HomeAgentSettings) -> list[str]:
    """The settings that differ and cannot be changed at run time."""
    return [
        one.name
        for one in fields(HomeAgentSettings)
        if one.name not in RELOADED and getattr(old, one.name) != getattr(new, one.name)
    ]


def fitted(entry: BindingCacheEntry, node: NodeSettings, reserved: frozenset[object]) -> BindingCacheEntry:
    """The entry less the prefixes and the IPv4 home address that are no longer this node's; `reserved` are the IPv4
    home addresses of nodes that have one of their own. What is new the node gets at its next Binding Update."""
    prefixes = tuple(one for one in entry.prefixes if any(one.subnet_of(own) for own in node.prefixes))
    ipv4_prefixes = tuple(one for one in entry.ipv4_prefixes if any(one.subnet_of(own) for own in node.ipv4_prefixes))
    own, address = node.ipv4_home_address, entry.ipv4_home_address
    left = address if address == own or (own is None and address not in reserved) else None
    return replace(entry, prefixes=prefixes, ipv4_prefixes=ipv4_prefixes, ipv4_home_address=left)
