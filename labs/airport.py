"""Lab `airport`: a coach waits between two terminals, each with a WLAN; its passengers use both at once.

        cn               ha
         |               |
         +---- core -----+
              /    \
            ar1    ar2
             |      |
    terminal A      terminal B      two WLANs of 20 Mbit/s
             |      |
             +- mr -+               the coach
                 |
                lfn                 eight downloads

Each download alone would be as fast as one WLAN; together they are to have nearly twice that.
"""

from __future__ import annotations

from labs.actions import Carrier
from labs.checks import goodput
from labs.flows import Download
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

A, B = "A", "B"

_WLAN = {"rate": 20_000_000}
_ACCESSES = (
    Access(A, "ar1", "2001:db8:a", "wlan0", bid=1, priority=10, figures=_WLAN),
    Access(B, "ar2", "2001:db8:b", "wlan1", bid=2, priority=20, figures=_WLAN),
)

_NEWS, _FILMS = Download("news", port=8080, connections=4), Download("films", port=8081, connections=4)

AIRPORT = Scenario(
    "airport",
    "Two WLANs of 20 Mbit/s and eight downloads: the bandwidth of both together",
    vehicle(
        "airport",
        _ACCESSES,
        flow=[
            {"name": flow.name, "protocol": "tcp", "source_port": flow.port, "via": via}
            for flow, via in ((_NEWS, ["wlan0", "wlan1"]), (_FILMS, ["wlan1", "wlan0"]))
        ],
    ),
    CORRESPONDENT,
    MOBILE,
    flows=(_NEWS, _FILMS),
    phases=(
        Phase(
            "both WLANs",
            "four downloads over each WLAN",
            lasts=5.0,
            registered=frozenset({1, 2}),
            on_link={"news": A, "films": B},
            checks=(goodput(("news", "films"), at_least=1.85, of="one WLAN", what="eight downloads together"),),
        ),
        Phase(
            "one WLAN",
            "terminal B is out of reach: all of them over A, which is what one link alone is good for",
            lasts=4.0,
            does=(Carrier(B, up=False),),
            registered=frozenset({1}),
            on_link={"news": A, "films": A},
        ),
    ),
    story=__doc__,
)
