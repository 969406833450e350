"""Lab `returning-home`: a telephone leaves its home link, and comes back.

        cn
         | 2001:db8:c::/64
       core ---- ar1
         |        | WLAN, 2001:db8:a::/64
         ha       |
     home|        |              the home link, 2001:db8:100::/64; the home agent is its router
        lan       |
         +-- mn --+
                                 mobile node: home address 2001:db8:100::5

At home it is a host like any other, away the home agent answers for it there, and the call goes on.
"""

from __future__ import annotations

from labs.actions import Carrier
from labs.flows import Stream
from labs.scenario import Phase, Scenario
from labs.topology import Daemon, Link, Node, Topology, advertise, interface, route
from labs.vehicle import (
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_PREFIX,
    Access,
    access_router,
    core,
    correspondent,
    home_agent_settings,
    mobile_router_settings,
)

HOME, WLAN = "home", "WLAN"

_ACCESS = Access(WLAN, "ar1", "2001:db8:a", "wlan0", bid=1, priority=10, figures={"rate": 20_000_000})
_HOST = {"mobile_router": False, "prefixes": []}
_MOBILE_NODE = mobile_router_settings((_ACCESS,), _HOST)
_MOBILE_NODE["link"].append({"name": "home0", "bid": 2, "priority": 5})

_TOPOLOGY = Topology(
    "returning-home",
    nodes=(
        correspondent(),
        core((_ACCESS,)),
        Node(
            "ha",
            (
                interface("eth0", "fe80::2/64"),
                interface(
                    "home",
                    f"{HOME_AGENT}/64",
                    "fe80::1/64",
                    advertises=advertise(HOME_PREFIX, home_agent=True),
                ),
            ),
            (route("default", "eth0", "fe80::1"),),
            forwarding=True,
            daemons=(Daemon("homeagent", home_agent_settings({"home_link": "home"}, _HOST)),),
        ),
        Node("lan", (interface("ha"), interface("mn")), switch=True),
        access_router(_ACCESS),
        Node(
            "mn",
            (interface("home0", autoconf=True, dad=True), interface("wlan0", autoconf=True, dad=True)),
            daemons=(Daemon("mobilenode", _MOBILE_NODE),),
        ),
    ),
    links=(
        Link("core:cn", "cn:eth0"),
        Link("core:ha", "ha:eth0"),
        Link("core:ar1", "ar1:core"),
        Link("ha:home", "lan:ha"),
        Link("lan:mn", "mn:home0", name=HOME, rate=100_000_000, counted="ha:home"),
        Link("ar1:access", "mn:wlan0", name=WLAN, rate=20_000_000),
    ),
)

RETURNING_HOME = Scenario(
    "returning-home",
    "A host leaves its home link and comes back, in the middle of a call",
    _TOPOLOGY,
    CORRESPONDENT,
    ("mn", HOME_ADDRESS),
    flows=(Stream("call", port=5004, rate=100),),
    phases=(
        Phase(
            "at home",
            "a host of the home link: no tunnel, no binding",
            lasts=2.0,
            registered=frozenset(),
            state="at_home",
            on_link={"call": HOME},
            lossless=("call",),
        ),
        Phase(
            "away",
            "the home link is out of reach; after DAD (a second) the home agent takes what comes there and tunnels it",
            lasts=3.0,
            does=(Carrier(HOME, up=False),),
            registered=frozenset({1}),
            on_link={"call": WLAN},
            gap_limit={"call": 2000.0},
        ),
        Phase(
            "home again",
            "the binding ends, the home agent lets go of the address, and the host has it back",
            lasts=3.0,
            does=(Carrier(HOME, up=True),),
            registered=frozenset(),
            state="at_home",
            on_link={"call": HOME},
            gap_limit={"call": 500.0},
        ),
    ),
    story=__doc__,
)
