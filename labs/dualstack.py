"""The vehicle's network with IPv4 in it: access links with IPv6, with IPv4 behind a NAT, or with a filter.

        cn               ha        home agent: 2001:db8:100::1 and 203.0.113.1; beside the prefixes of IPv6 the home
         |               |         addresses 203.0.113.64/26 and the vehicle's 203.0.113.128/28 are routed to it
         | 2001:db8:c::/64, 192.0.2.0/24
         +---- core -----+
              /    \\
           ar1      ar2            IPv6: a prefix that is advertised; IPv4: 10.0.N.0/24 behind a masquerade, which
            |        |             takes a port at random for each new mapping
            +-- mr --+             mobile router: home addresses 2001:db8:100::5 and 203.0.113.65
                 |lan0
                lfn                2001:db8:f00:1::10 and 203.0.113.130
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labs.topology import Daemon, Link, Node, Topology, advertise, interface, route
from labs.vehicle import (
    CN,
    HOME_AGENT,
    HOME_PREFIX,
    LFN,
    MOBILE_NETWORK,
    Access,
    access_router,
    home_agent_settings,
    mobile_router_settings,
)

CN4, LFN4 = "192.0.2.2", "203.0.113.130"
HOME_AGENT4, HOME_ADDRESS4 = "203.0.113.1", "203.0.113.65"
HOME_NETWORK4, MOBILE_NETWORK4 = "203.0.113.64/26", "203.0.113.128/28"
CORRESPONDENT, MOBILE = ("cn", CN, CN4), ("lfn", LFN, LFN4)
EVERYTHING4 = "0.0.0.0/0"
MASQUERADE = """
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "core" masquerade random
    }
}
"""
NO_NATIVE_TUNNELS = """
table ip6 firewall {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ip6 nexthdr 41 drop
        exthdr dst exists drop
    }
}
"""


def behind_nat(number: int, router: str) -> Node:
    """An access router with IPv4 only."""
    return Node(
        router,
        (interface("core", f"198.51.100.{4 * number + 2}/30"), interface("access", f"10.0.{number}.1/24")),
        (route(EVERYTHING4, "core", f"198.51.100.{4 * number + 1}"),),
        forwarding=True,
        nftables=MASQUERADE,
    )


def filtered(access: Access) -> Node:
    """An access router whose firewall lets no native tunnel pass, and no signalling with destination options."""
    node = access_router(access)
    return Node(node.name, node.interfaces, node.routes, forwarding=True, nftables=NO_NATIVE_TUNNELS)


def dual_stack(
    name: str,
    accesses: Sequence[Access],
    ipv4_only: Sequence[str] = (),
    blocked: Sequence[str] = (),
    mobile_router: Mapping[str, Any] | None = None,
    **tables: Any,
) -> Topology:
    """The whole network. Of the `accesses`, those whose link is in `ipv4_only` are behind a NAT, those in `blocked`
    behind a filter; `mobile_router` are more settings of its own table, `tables` stand beside it."""
    more = {
        "home_agent_ipv4": HOME_AGENT4,
        "ipv4_home_address": HOME_ADDRESS4,
        "ipv4_prefixes": [MOBILE_NETWORK4],
        **(mobile_router or {}),
    }
    settings = mobile_router_settings(accesses, more, **tables)
    agent = home_agent_settings(
        {"ipv4_address": HOME_AGENT4},
        {"ipv4_home_address": HOME_ADDRESS4, "ipv4_prefixes": [MOBILE_NETWORK4]},
    )
    numbers = {access.link: number for number, access in enumerate(accesses)}
    routers = []
    for access in accesses:
        if access.link in ipv4_only:
            routers.append(behind_nat(numbers[access.link], access.router))
        else:
            routers.append(filtered(access) if access.link in blocked else access_router(access))
    ours = [access for access in accesses if access.link in ipv4_only]
    return Topology(
        name,
        nodes=(
            Node(
                "cn",
                (interface("eth0", f"{CN}/64", f"{CN4}/24"),),
                (route("default", "eth0", "2001:db8:c::1"), route(EVERYTHING4, "eth0", "192.0.2.1")),
            ),
            _core(accesses, numbers, ipv4_only),
            Node(
                "ha",
                (interface("eth0", f"{HOME_AGENT}/128", "fe80::2/64", f"{HOME_AGENT4}/26"),),
                (route("default", "eth0", "fe80::1"), route(EVERYTHING4, "eth0", "203.0.113.62")),
                forwarding=True,
                daemons=(Daemon("homeagent", agent),),
            ),
            *routers,
            Node(
                "mr",
                (
                    *(
                        interface(access.device, f"10.0.{numbers[access.link]}.2/24")
                        if access in ours
                        else interface(access.device, autoconf=True, dad=True)
                        for access in accesses
                    ),
                    interface(
                        "lan0",
                        "2001:db8:f00:1::1/64",
                        "203.0.113.129/28",
                        advertises=advertise("2001:db8:f00:1::/64"),
                    ),
                ),
                (
                    route(MOBILE_NETWORK),
                    *(route(EVERYTHING4, access.device, f"10.0.{numbers[access.link]}.1") for access in ours),
                ),
                forwarding=True,
                daemons=(Daemon("mobilenode", settings),),
            ),
            Node(
                "lfn",
                (interface("eth0", f"{LFN4}/28", autoconf=True, token="::10"),),
                (route(EVERYTHING4, "eth0", "203.0.113.129"),),
            ),
        ),
        links=(
            Link("core:cn", "cn:eth0"),
            Link("core:ha", "ha:eth0"),
            *(Link(f"core:{access.router}", f"{access.router}:core") for access in accesses),
            *(Link(f"{a.router}:access", f"mr:{a.device}", name=a.link, **a.figures) for a in accesses),
            Link("mr:lan0", "lfn:eth0"),
        ),
    )


def _core(accesses: Sequence[Access], numbers: Mapping[str, int], ipv4_only: Sequence[str]) -> Node:
    native = [access for access in accesses if access.link not in ipv4_only]
    return Node(
        "core",
        (
            interface("cn", "2001:db8:c::1/64", "192.0.2.1/24"),
            interface("ha", "fe80::1/64", "203.0.113.62/26"),
            *(
                interface(access.router, f"198.51.100.{4 * numbers[access.link] + 1}/30")
                if access.link in ipv4_only
                else interface(access.router, "fe80::1/64")
                for access in accesses
            ),
        ),
        (
            route(HOME_PREFIX, "ha", "fe80::2"),
            route(MOBILE_NETWORK, "ha", "fe80::2"),
            route(HOME_NETWORK4, "ha", HOME_AGENT4),
            route(MOBILE_NETWORK4, "ha", HOME_AGENT4),
            *(route(f"{access.prefix}::/64", access.router, "fe80::2") for access in native),
        ),
        forwarding=True,
    )
