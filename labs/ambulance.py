"""Lab `ambulance`: on the road, records come down a satellite while everything else stays on cellular.

        cn               ha
         |               |
         +---- core -----+
              /    \\
            ar1    ar2
             |      |
        cellular   satellite        5 Mbit/s and 30 ms; 10 Mbit/s down and 1 up, and 250 ms each way
             |      |
             +- mr -+               the ambulance
                 |
                lfn                 a video call with the hospital, and the patient's records

The records' download moves in one direction alone: its data come down the satellite, its acknowledgements go up by
cellular, where the call now has the room that it needs.
"""

from __future__ import annotations

from labs.actions import Operate
from labs.checks import goodput, lost, repeated
from labs.emulation import Quality
from labs.flows import DOWN, UP, Download, Stream
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

CELLULAR, SATELLITE = "cellular", "satellite"

_ACCESSES = (
    Access(CELLULAR, "ar1", "2001:db8:a", "wwan0", 1, 10, {"rate": 5_000_000, "delay": 0.03}),
    Access(
        SATELLITE,
        "ar2",
        "2001:db8:b",
        "sat0",
        2,
        20,
        {"rate": 10_000_000, "delay": 0.25, "up": Quality(1_000_000, 0.25), "queue": 1024 * 1024},
    ),
)
_CALL = Stream("call", 5004, rate=100, size=900)
_RECORDS = Download("records", port=8080, window=128 * 1024)

AMBULANCE = Scenario(
    "ambulance",
    "A download's downstream moves to a satellite while its upstream and a video call stay on cellular",
    vehicle(
        "ambulance",
        _ACCESSES,
        flow=[
            {"name": "call", "protocol": "udp", "source_port": _CALL.port, "via": ["wwan0", "sat0"]},
            {"name": "records", "protocol": "tcp", "source_port": _RECORDS.port, "via": ["wwan0", "sat0"]},
        ],
    ),
    CORRESPONDENT,
    MOBILE,
    flows=(_CALL, _RECORDS),
    phases=(
        Phase(
            "cellular alone",
            "call and records share the cellular link",
            lasts=3.0,
            registered=frozenset({1, 2}),
            on_link={"call": CELLULAR, "records": CELLULAR},
            lossless=("call",),
        ),
        Phase(
            "records by satellite",
            "mip6 flow move records --up wwan0 --down sat0: only what comes down moves",
            lasts=5.0,
            does=(Operate("mr", ("flow", "move", "records", "--up", "wwan0", "--down", "sat0")),),
            registered=frozenset({1, 2}),
            on_link={"call": CELLULAR, "records": {DOWN: SATELLITE, UP: CELLULAR}},
            checks=(lost("call"), repeated("call"), goodput(("records",), 0.2, "cellular alone", "records' rate")),
        ),
    ),
    story=__doc__,
)
