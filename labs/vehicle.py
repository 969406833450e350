"""What most stories have in common: a mobile router with several access links, a home agent, a correspondent.

        cn               ha        home agent: 2001:db8:100::1; the home prefix 2001:db8:100::/64 and the
         |               |         mobile network prefix 2001:db8:f00::/56 are routed to it, as a VPS has it
         | 2001:db8:c::/64
         +---- core -----+
              /  |  \
           ar1  ar2  ...           access routers, real router advertisements, a prefix each
            |    |
           [links of the story]    counted here, and emulated where they are more than a cable
            |    |
            +-- mr --+             mobile router: home address 2001:db8:100::5
                 |lan0
                lfn                a node of the vehicle: 2001:db8:f00:1::10

Routers reach each other by link-local addresses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from labs.topology import Daemon, Link, Node, Topology, advertise, interface, route

CN, LFN = "2001:db8:c::2", "2001:db8:f00:1::10"
CORRESPONDENT, MOBILE = ("cn", CN), ("lfn", LFN)
HOME_AGENT, HOME_ADDRESS = "2001:db8:100::1", "2001:db8:100::5"
HOME_PREFIX, MOBILE_NETWORK = "2001:db8:100::/64", "2001:db8:f00::/56"
IDENTIFIER = "mr@example.com"
KEY = {"spi": 4096, "algorithm": "hmac-sha1", "key": "0f0e0d0c0b0a09080706050403020100f1e2d3c4"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Access:
    """One access link: its name in the story, its router and prefix, the mobile router's device and BID.

    `figures` are of `labs.topology.Link`; `settings` more keys of the mobile router's `[[link]]`.
    """

    link: str
    router: str
    prefix: str
    device: str
    bid: int
    priority: int
    figures: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    settings: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


def home_agent_settings(more: Mapping[str, Any] = _NOTHING, node: Mapping[str, Any] = _NOTHING) -> dict[str, Any]:
    """The home agent's file; `more` for its own table, `node` for the mobile router's entry."""
    entry = {
        "home_address": HOME_ADDRESS,
        "identifier": IDENTIFIER,
        "mobile_router": True,
        "prefixes": [MOBILE_NETWORK],
        "key": [KEY],
    }
    return {
        "homeagent": {"address": HOME_AGENT, "home_prefixes": [HOME_PREFIX], **more},
        "node": [{**entry, **node}],
    }


def mobile_router_settings(accesses: Sequence[Access], more: Mapping[str, Any], **tables: Any) -> dict[str, Any]:
    """The mobile router's file; `more` for its own table, `tables` beside it (`flow`, ...)."""
    return {
        "mobilenode": {
            "home_address": HOME_ADDRESS,
            "home_agent": HOME_AGENT,
            "home_prefix": HOME_PREFIX,
            "identifier": IDENTIFIER,
            "prefixes": [MOBILE_NETWORK],
            "key": KEY,
            **more,
        },
        "link": [{"name": a.device, "bid": a.bid, "priority": a.priority, **a.settings} for a in accesses],
        **tables,
    }


def correspondent() -> Node:
    return Node("cn", (interface("eth0", f"{CN}/64"),), (route("default", "eth0", "2001:db8:c::1"),))


def core(accesses: Sequence[Access]) -> Node:
    """Where all roads meet."""
    return Node(
        "core",
        (
            interface("cn", "2001:db8:c::1/64"),
            interface("ha", "fe80::1/64"),
            *(interface(access.router, "fe80::1/64") for access in accesses),
        ),
        (
            route(HOME_PREFIX, "ha", "fe80::2"),
            route(MOBILE_NETWORK, "ha", "fe80::2"),
            *(route(f"{access.prefix}::/64", access.router, "fe80::2") for access in accesses),
        ),
        forwarding=True,
    )


def home_agent(settings: Mapping[str, Any]) -> Node:
    return Node(
        "ha",
        (interface("eth0", f"{HOME_AGENT}/128", "fe80::2/64"),),
        (route("default", "eth0", "fe80::1"),),
        forwarding=True,
        daemons=(Daemon("homeagent", settings),),
    )


def access_router(access: Access, link_local: str = "fe80::1", **advertised: Any) -> Node:
    """Advertises the prefix of its link; where the link is down its packets end here, and not in a loop."""
    prefix = f"{access.prefix}::/64"
    return Node(
        access.router,
        (
            interface("core", "fe80::2/64"),
            interface(
                "access", f"{access.prefix}::1/64", f"{link_local}/64", advertises=advertise(prefix, **advertised)
            ),
        ),
        (route("default", "core", "fe80::1"), route(prefix)),
        forwarding=True,
    )


def vehicle(
    name: str,
    accesses: Sequence[Access],
    *,
    mobile_router: Mapping[str, Any] = _NOTHING,
    agent: Mapping[str, Any] = _NOTHING,
    node: Mapping[str, Any] = _NOTHING,
    agent_tables: Mapping[str, Any] = _NOTHING,
    **tables: Any,
) -> Topology:
    """The whole network. `mobile_router` and `agent` are settings of the daemons' own tables, `node` of the entry of
    the mobile router at the home agent; `tables` (`flow=[...]`) stand in the mobile router's file, `agent_tables` in
    the home agent's."""
    settings = mobile_router_settings(accesses, mobile_router, **tables)
    return Topology(
        name,
        nodes=(
            correspondent(),
            core(accesses),
            home_agent({**home_agent_settings(agent, node), **agent_tables}),
            *(access_router(access) for access in accesses),
            Node(
                "mr",
                (
                    *(interface(access.device, autoconf=True, dad=True) for access in accesses),
                    interface("lan0", "2001:db8:f00:1::1/64", advertises=advertise("2001:db8:f00:1::/64")),
                ),
                (route(MOBILE_NETWORK),),  # what is not in use in the vehicle ends here
                forwarding=True,
                daemons=(Daemon("mobilenode", settings),),
            ),
            Node("lfn", (interface("eth0", autoconf=True, token="::10"),)),
        ),
        links=(
            Link("core:cn", "cn:eth0"),
            Link("core:ha", "ha:eth0"),
            *(Link(f"core:{access.router}", f"{access.router}:core") for access in accesses),
            *(Link(f"{a.router}:access", f"mr:{a.device}", name=a.link, **a.figures) for a in accesses),
            Link("mr:lan0", "lfn:eth0"),
        ),
    )
