"""Lab `station`: a train arrives, and a traveller's call moves from cellular to the station's WLAN, by command.

        cn               ha
         |               |
         +---- core -----+
              /    \\
            ar1    ar2
             |      |
            WLAN   cellular         20 Mbit/s and 5 ms; 5 Mbit/s and 30 ms, with jitter
             |      |
             +- mr -+               the train's router
                 |
                lfn                 the traveller: video and audio of a call, news, a ticket

The call's two flows are moved, one after the other; the others stay where they are, and no packet of any is lost or
comes twice.
"""

from __future__ import annotations

from labs.actions import Operate
from labs.checks import lost, ordered, repeated
from labs.flows import Download, Stream
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

WLAN, CELLULAR = "WLAN", "cellular"

_ACCESSES = (
    Access(WLAN, "ar1", "2001:db8:a", "wlan0", 1, 10, {"rate": 20_000_000, "delay": 0.005}),
    Access(CELLULAR, "ar2", "2001:db8:b", "wwan0", 2, 20, {"rate": 5_000_000, "delay": 0.03, "jitter": 0.003}),
)
_VIDEO, _AUDIO = Stream("video", 5004, rate=100, size=900), Stream("audio", 5006, rate=50)
_TICKET, _NEWS = Stream("ticket", 5008, rate=20, size=400), Download("news", port=8080)
_CALL = ("video", "audio")
_RULES = [
    {"name": flow.name, "protocol": flow.protocol, "source_port": flow.port, "via": via}
    for flow, via in (
        (_VIDEO, ["wwan0", "wlan0"]),
        (_AUDIO, ["wwan0", "wlan0"]),
        (_TICKET, ["wwan0", "wlan0"]),
        (_NEWS, ["wlan0", "wwan0"]),
    )
]

STATION = Scenario(
    "station",
    "A call moves from cellular to WLAN at the user's command, and nothing else moves",
    vehicle("station", _ACCESSES, flow=_RULES),
    CORRESPONDENT,
    MOBILE,
    flows=(_VIDEO, _AUDIO, _TICKET, _NEWS),
    phases=(
        Phase(
            "arriving",
            "the call and the ticket go over cellular, the news over the station's WLAN",
            lasts=3.0,
            registered=frozenset({1, 2}),
            on_link={"video": CELLULAR, "audio": CELLULAR, "ticket": CELLULAR, "news": WLAN},
            lossless=("video", "audio", "ticket"),
        ),
        Phase(
            "moving the call",
            "mip6 flow move, for video and for audio: one Binding Update each, and the call is on the WLAN",
            lasts=4.0,
            does=(Operate("mr", ("flow", "move", "video", "wlan0")), Operate("mr", ("flow", "move", "audio", "wlan0"))),
            registered=frozenset({1, 2}),
            on_link={"video": WLAN, "audio": WLAN, "ticket": CELLULAR, "news": WLAN},
            checks=(*(judge(flow) for flow in (*_CALL, "ticket") for judge in (lost, repeated)), ordered("video", 5.0)),
        ),
    ),
    story=__doc__,
)
