"""Lab `car`: a mobile router in a vehicle, WLAN and cellular, a correspondent, a home agent on a VPS.

        cn               ha   home agent: 2001:db8:100::1, and the home prefix 2001:db8:100::/64
         |               |    and the mobile network prefix 2001:db8:f00::/56 are routed to it
         | 2001:db8:c::/64
         |               |
         +---- core -----+
              /    \\
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

from labs.actions import Carrier
from labs.checks import shared
from labs.flows import Download, Stream
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

WLAN, CELLULAR = "WLAN", "cellular"
VOICE_PORT = 5004
ACCESSES = (
    Access(WLAN, "ar1", "2001:db8:a", "wlan0", 1, 10, {"rate": 20_000_000}),
    Access(CELLULAR, "ar2", "2001:db8:b", "wwan0", 2, 20, {"rate": 5_000_000}),
)
_VOICE_RULE = {
    "fid": 10,
    "name": "voice",
    "via": ["wwan0", "wlan0"],
    "protocol": "udp",
    "source_port": VOICE_PORT,
    "destination_port": VOICE_PORT,
}
CAR = vehicle("car", ACCESSES, flow=[_VOICE_RULE])

_VOICE, _PROBE = Stream("voice", VOICE_PORT, rate=50), Stream("probe", port=6000, rate=250, size=100)
_DOWNLOAD = Download("download", port=8080)
_WEB = Download("web", port=8081, window=8 * 1024, connections=6)
_SHARES = {"wlan0": 4, "wwan0": 1}
_EACH_ON_ITS_LINK = {"voice": CELLULAR, "probe": WLAN, "download": WLAN}
_ALL_ON_CELLULAR = {"voice": CELLULAR, "probe": CELLULAR, "download": CELLULAR, "web": CELLULAR}
_GAP_LIMIT = 200.0  # milliseconds
_PATHS = {"hold": 0.3, "longest_hold": 0.3}  # the story is short
_WEB_RULE = {"fid": 20, "name": "web", "protocol": "tcp", "source_port": _WEB.port, "share": _SHARES}

CAR_SCENARIO = Scenario(
    "car",
    "A vehicle with WLAN and cellular: several care-of addresses, one tunnel per flow, a handoff under live traffic",
    vehicle("car", ACCESSES, agent_tables={"paths": _PATHS}, paths=_PATHS, flow=[_VOICE_RULE, _WEB_RULE]),
    CORRESPONDENT,
    MOBILE,
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
