"""Lab `one-interface`: one WLAN, two routers on it, a prefix of each: two ways to the home agent by one interface.

        cn               ha
         |               |
         +---- core -----+
              /    \\
            ar1    ar2              2001:db8:a::/64, and 2001:db8:b::/64 with router preference high
             |R1    |R2
             +-lan--+               one link
                |
                mr                  a care-of address and a BID, 1 and 101, of each prefix
                |
               lfn

Router 2 withdraws, by a router advertisement, and comes back; then it dies without a word.
"""

from __future__ import annotations

from labs.actions import Advertise, Kill, cut
from labs.checks import gap
from labs.flows import Stream
from labs.scenario import Phase, Scenario
from labs.topology import Daemon, Link, Node, Topology, advertise, interface
from labs.vehicle import (
    CORRESPONDENT,
    MOBILE,
    Access,
    access_router,
    core,
    correspondent,
    home_agent,
    home_agent_settings,
    mobile_router_settings,
)

R1, R2 = "R1", "R2"

_FIRST = Access(R1, "ar1", "2001:db8:a", "wlan0", 1, 10)
_SECOND = Access(R2, "ar2", "2001:db8:b", "wlan0", 1, 10)
_PATHS = {"hold": 0.3, "longest_hold": 0.3}  # the story is short
_TOPOLOGY = Topology(
    "one-interface",
    nodes=(
        correspondent(),
        core((_FIRST, _SECOND)),
        home_agent({**home_agent_settings(), "paths": _PATHS}),
        access_router(_FIRST),
        access_router(_SECOND, preference="high"),
        Node("lan", (interface("ar1"), interface("ar2"), interface("mr")), switch=True),
        Node(
            "mr",
            (
                interface("wlan0", autoconf=True, dad=True),
                interface("lan0", "2001:db8:f00:1::1/64", advertises=advertise("2001:db8:f00:1::/64")),
            ),
            forwarding=True,
            daemons=(Daemon("mobilenode", mobile_router_settings((_FIRST,), {}, paths=_PATHS)),),
        ),
        Node("lfn", (interface("eth0", autoconf=True, token="::10"),)),
    ),
    links=(
        Link("core:cn", "cn:eth0"),
        Link("core:ha", "ha:eth0"),
        Link("core:ar1", "ar1:core"),
        Link("core:ar2", "ar2:core"),
        Link("ar1:access", "lan:ar1", name=R1, rate=20_000_000, emulated=True),
        Link("ar2:access", "lan:ar2", name=R2, rate=20_000_000, emulated=True),
        Link("lan:mr", "mr:wlan0"),
        Link("mr:lan0", "lfn:eth0"),
    ),
)
_BOTH, _FIRST_ONLY = frozenset({1, 101}), frozenset({1})
_GONE = {"router_lifetime": 0, "preferred_lifetime": 0}
_THERE = {"router_lifetime": 1800, "preferred_lifetime": 1800}

ONE_INTERFACE = Scenario(
    "one-interface",
    "Two prefixes of two routers on one link: a care-of address and a tunnel for each",
    _TOPOLOGY,
    CORRESPONDENT,
    MOBILE,
    flows=(Stream("call", 5004, rate=200),),
    phases=(
        Phase(
            "two routers",
            "both prefixes are registered; the call goes by the router of higher preference",
            lasts=2.0,
            registered=_BOTH,
            on_link={"call": R2},
            lossless=("call",),
        ),
        Phase(
            "one withdraws",
            "router 2 says that it is no default router any more, and its prefix no longer preferred",
            lasts=2.0,
            does=(Advertise("ar2", "access", "R2 withdraws", _GONE),),
            registered=_FIRST_ONLY,
            on_link={"call": R1},
            lossless=("call",),
            gap_limit={"call": 500.0},
        ),
        Phase(
            "it is back",
            "and so is the call",
            lasts=2.0,
            does=(Advertise("ar2", "access", "R2 is back", _THERE),),
            registered=_BOTH,
            on_link={"call": R2},
            gap_limit={"call": 500.0},
        ),
        Phase(
            "it dies",
            "router 2 dies without a word, and nothing that it had passes any more: the probes go unanswered",
            lasts=1.5,
            does=(Kill("ar2", "radvd"), cut(R2)),
            on_link={"call": R1},
            checks=(gap("call", 700.0),),
        ),
    ),
    story=__doc__,
)
