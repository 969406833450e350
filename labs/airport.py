"""Lab `airport`: a coach waits between two terminals, each with a WLAN; its passengers use both at once.

        cn               ha
         |               |
         +---- core -----+
              /    \\
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
from labs.checks import goodput, shared
from labs.flows import Download, Stream
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

A, B = "A", "B"

_WLAN = {"rate": 20_000_000}
_ACCESSES = (
    Access(A, "ar1", "2001:db8:a", "wlan0", bid=1, priority=10, figures=_WLAN),
    Access(B, "ar2", "2001:db8:b", "wlan1", bid=2, priority=20, figures=_WLAN),
)

_FILMS = Download("films", port=8080, connections=8)
_PROBE = Stream("probe", port=6000, rate=100)
_TOGETHER = goodput(("films",), at_least=1.85, of="one WLAN", what="eight downloads together")

AIRPORT = Scenario(
    "airport",
    "Two WLANs of 20 Mbit/s and eight downloads: the bandwidth of both together",
    vehicle("airport", _ACCESSES, flow=[{"name": "films", "protocol": "tcp", "share": ["wlan0", "wlan1"]}]),
    CORRESPONDENT,
    MOBILE,
    flows=(_FILMS, _PROBE),
    phases=(
        Phase(
            "both WLANs",
            "each new download goes over one of the WLANs, and stays there",
            lasts=5.0,
            registered=frozenset({1, 2}),
            on_link={"probe": A},
            checks=(_TOGETHER, shared("films", (A, B), at_least=40)),
        ),
        Phase(
            "one WLAN",
            "terminal B is out of reach: all of them over A, which is what one link alone is good for",
            lasts=4.0,
            does=(Carrier(B, up=False),),
            registered=frozenset({1}),
            on_link={"films": A, "probe": A},
        ),
    ),
    story=__doc__,
)
