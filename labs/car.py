"""Lab `car`: a mobile router in a vehicle, WLAN and cellular, a correspondent, a home agent on a VPS.

        cn               ha   home agent: 2001:db8:100::1, and the home prefix 2001:db8:100::/64
         |               |    and the mobile network prefix 2001:db8:f00::/56 are routed to it
         | 2001:db8:c::/64
         |               |
         +---- core -----+
              /    \
           ar1      ar2       access routers, real router advertisements
            |        |
      WLAN  |        |  cellular
   20 Mbit/s|        |5 Mbit/s
 2001:db8:a::/64     |2001:db8:b::/64
            |        |
       wlan0|        |wwan0
           +----mr----+       mobile router: home address 2001:db8:100::5
                |lan0
                |             2001:db8:f00:1::/64, advertised by the mobile router
               lfn            a node of the vehicle: 2001:db8:f00:1::10

Routers reach each other by link-local addresses; the home agent has one address and what is routed to it, as a VPS has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labs.actions import Carrier
from labs.checks import shared
from labs.flows import Download, Stream
from labs.scenario import Phase, Scenario
from labs.topology import Daemon, Link, Node, Topology, advertise, interface, route

CN, LFN = "2001:db8:c::2", "2001:db8:f00:1::10"
HOME_AGENT, HOME_ADDRESS = "2001:db8:100::1", "2001:db8:100::5"
HOME_PREFIX, MOBILE_NETWORK = "2001:db8:100::/64", "2001:db8:f00::/56"
WLAN, CELLULAR = "WLAN", "cellular"
VOICE_PORT = 5004

_IDENTIFIER = "mr@example.com"
_KEY = {"spi": 4096, "algorithm": "hmac-sha1", "key": "0f0e0d0c0b0a09080706050403020100f1e2d3c4"}

HOME_AGENT_SETTINGS = {
    "homeagent": {"address": HOME_AGENT, "home_prefixes": [HOME_PREFIX]},
    "node": [
        {
            "home_address": HOME_ADDRESS,
            "identifier": _IDENTIFIER,
            "mobile_router": True,
            "prefixes": [MOBILE_NETWORK],
            "key": [_KEY],
        }
    ],
}

MOBILE_ROUTER_SETTINGS: dict[str, Any] = {
    "mobilenode": {
        "home_address": HOME_ADDRESS,
        "home_agent": HOME_AGENT,
        "home_prefix": HOME_PREFIX,
        "identifier": _IDENTIFIER,
        "prefixes": [MOBILE_NETWORK],
        "key": _KEY,
    },
    "link": [
        {"name": "wlan0", "bid": 1, "priority": 10},
        {"name": "wwan0", "bid": 2, "priority": 20},
    ],
    "flow": [
        {
            "fid": 10,
            "name": "voice",
            "via": ["wwan0", "wlan0"],
            "protocol": "udp",
            "source_port": VOICE_PORT,
            "destination_port": VOICE_PORT,
        }
    ],
}


def _access_router(name: str, device: str, prefix: str) -> Node:
    return Node(
        name,
        (
            interface("core", "fe80::2/64"),
            interface(device, f"{prefix}::1/64", "fe80::1/64", advertises=advertise(f"{prefix}::/64")),
        ),
        # Unreachable where the link is down: without it a packet would go back and forth to the core.
        (route("default", "core", "fe80::1"), route(f"{prefix}::/64")),
        forwarding=True,
    )


CAR = Topology(
    "car",
    nodes=(
        Node("cn", (interface("eth0", f"{CN}/64"),), (route("default", "eth0", "2001:db8:c::1"),)),
        Node(
            "core",
            (
                interface("cn", "2001:db8:c::1/64"),
                interface("ha", "fe80::1/64"),
                interface("ar1", "fe80::1/64"),
                interface("ar2", "fe80::1/64"),
            ),
            (
                route(HOME_PREFIX, "ha", "fe80::2"),
                route(MOBILE_NETWORK, "ha", "fe80::2"),
                route("2001:db8:a::/64", "ar1", "fe80::2"),
                route("2001:db8:b::/64", "ar2", "fe80::2"),
            ),
            forwarding=True,
        ),
        Node(
            "ha",
            (interface("eth0", f"{HOME_AGENT}/128", "fe80::2/64"),),
            (route("default", "eth0", "fe80::1"),),
            forwarding=True,
            daemons=(Daemon("homeagent", HOME_AGENT_SETTINGS),),
        ),
        _access_router("ar1", "wlan", "2001:db8:a"),
        _access_router("ar2", "wwan", "2001:db8:b"),
        Node(
            "mr",
            (
                interface("wlan0", autoconf=True, dad=True),
                interface("wwan0", autoconf=True, dad=True),
                interface("lan0", "2001:db8:f00:1::1/64", advertises=advertise("2001:db8:f00:1::/64")),
            ),
            (route(MOBILE_NETWORK),),  # what is not in use in the vehicle ends here
            forwarding=True,
            daemons=(Daemon("mobilenode", MOBILE_ROUTER_SETTINGS),),
        ),
        Node("lfn", (interface("eth0", autoconf=True, token="::10"),)),
    ),
    links=(
        Link("core:cn", "cn:eth0"),
        Link("core:ha", "ha:eth0"),
        Link("core:ar1", "ar1:core"),
        Link("core:ar2", "ar2:core"),
        Link("ar1:wlan", "mr:wlan0", rate=20_000_000, name=WLAN),
        Link("ar2:wwan", "mr:wwan0", rate=5_000_000, name=CELLULAR),
        Link("mr:lan0", "lfn:eth0"),
    ),
)

_VOICE, _PROBE = Stream("voice", VOICE_PORT, rate=50), Stream("probe", port=6000, rate=250, size=100)
_DOWNLOAD = Download("download", port=8080)
_WEB = Download("web", port=8081, window=8 * 1024, connections=6)
_SHARES = {"wlan0": 4, "wwan0": 1}
_EACH_ON_ITS_LINK = {"voice": CELLULAR, "probe": WLAN, "download": WLAN}
_ALL_ON_CELLULAR = {"voice": CELLULAR, "probe": CELLULAR, "download": CELLULAR, "web": CELLULAR}
_GAP_LIMIT = 300.0  # milliseconds, with what waits for the slower link in front
_PATHS = {"hold": 0.3, "longest_hold": 0.3}  # the story is short
_SETTINGS = {
    **MOBILE_ROUTER_SETTINGS,
    "paths": _PATHS,
    "flow": [
        *MOBILE_ROUTER_SETTINGS["flow"],
        {"fid": 20, "name": "web", "protocol": "tcp", "source_port": _WEB.port, "share": _SHARES},
    ],
}
_NODES = {
    "mr": replace(CAR["mr"], daemons=(Daemon("mobilenode", _SETTINGS),)),
    "ha": replace(CAR["ha"], daemons=(Daemon("homeagent", {**HOME_AGENT_SETTINGS, "paths": _PATHS}),)),
}

CAR_SCENARIO = Scenario(
    "car",
    "A vehicle with WLAN and cellular: several care-of addresses, one tunnel per flow, a handoff under live traffic",
    replace(CAR, nodes=tuple(_NODES.get(node.name, node) for node in CAR.nodes)),
    correspondent=("cn", CN),
    mobile=("lfn", LFN),
    flows=(_VOICE, _PROBE, _DOWNLOAD, _WEB),
    phases=(
        Phase(
            "both links",
            "voice over cellular, download and probe over WLAN, and six web connections shared between both, 4 to 1",
            lasts=3.0,
            registered=frozenset({1, 2}),
            on_link=_EACH_ON_ITS_LINK,
            lossless=("voice", "probe"),
            checks=(shared("web", (WLAN, CELLULAR), at_least=10),),
        ),
        Phase(
            "WLAN ends",
            "the vehicle leaves the WLAN's coverage: no carrier; everything moves to cellular",
            lasts=3.0,
            does=(Carrier(WLAN, up=False),),
            registered=frozenset({2}),
            on_link=_ALL_ON_CELLULAR,
            lossless=("voice",),
            gap_limit={"probe": _GAP_LIMIT},
        ),
        Phase(
            "WLAN is back",
            "carrier again: download and probe return to WLAN, voice stays where it belongs",
            lasts=3.0,
            does=(Carrier(WLAN, up=True),),
            registered=frozenset({1, 2}),
            on_link=_EACH_ON_ITS_LINK,
            lossless=("voice", "probe"),
        ),
    ),
    story=__doc__,
)
