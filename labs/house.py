"""Lab `house`: a home with ADSL, a neighbour's WLAN and a satellite dish that only receives.

        cn                ha
         |                |
         +----- core -----+
            /     |     \\
          ar1    ar2    ar3
           |      |      |
         ADSL   WLAN  satellite     8 Mbit/s down and 1 up; 20 Mbit/s; 20 Mbit/s down, 250 ms, and nothing up
           |      |      |
           +---- mr -----+
                  |
                 lfn                a telephone, a television set, a video conference, a photographer's archive

Requests for television go up the ADSL line and the programme comes down the satellite. The archive is published over
ADSL by day and over the WLAN by night. The telephone stays on ADSL whatever happens, and the conference goes over the
WLAN as long as that is any good.
"""

from __future__ import annotations

from labs.actions import Change, SetClock
from labs.emulation import Quality
from labs.flows import DOWN, UP, Stream
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

ADSL, WLAN, SATELLITE = "ADSL", "WLAN", "satellite"

_ACCESSES = (
    Access(
        ADSL, "ar1", "2001:db8:a", "dsl0", 1, 10, {"rate": 8_000_000, "delay": 0.015, "up": Quality(1_000_000, 0.015)}
    ),
    Access(WLAN, "ar2", "2001:db8:b", "wlan0", 2, 20, {"rate": 20_000_000, "delay": 0.005}),
    # Raw IP, as a receiver for DVB has it: neighbours cannot be asked for in one direction.
    Access(
        SATELLITE,
        "ar3",
        "2001:db8:d",
        "sat0",
        3,
        30,
        {"rate": 20_000_000, "delay": 0.25, "up": Quality(cut=True), "modem": True},
        {"receive_only": True},
    ),
)
_PHONE = Stream("phone", 5004, rate=50)
_PROGRAMME, _REQUESTS = Stream("programme", 7000, 200, 1200, (DOWN,)), Stream("requests", 7001, 20, 100, (UP,))
_CONFERENCE = Stream("conference", 5010, rate=50, size=400)
_ARCHIVE = Stream("archive", 7100, 40, 1000, (UP,))


def _rule(name: str, ports: int | str, **way: object) -> dict[str, object]:
    return {"name": name, "protocol": "udp", "source_port": ports, **way}


_RULES = [
    _rule("phone", _PHONE.port, via=["dsl0", "wlan0"]),
    _rule("television", "7000-7001", up=["dsl0"], down=["sat0", "dsl0"]),
    _rule("archive by night", _ARCHIVE.port, via=["wlan0", "dsl0"], **{"from": "22:00", "to": "06:00"}),
    _rule("archive", _ARCHIVE.port, via=["dsl0", "wlan0"]),
    _rule("conference", _CONFERENCE.port, via=["wlan0", "dsl0"]),
]
_BAD = {"loss": 0.9}
_ALL = frozenset({1, 2, 3})
_BY_DAY = {"phone": ADSL, "programme": SATELLITE, "requests": ADSL, "conference": WLAN, "archive": ADSL}
_BY_NIGHT = {**_BY_DAY, "archive": WLAN}
_SPARED = ("phone", "programme", "requests")

HOUSE = Scenario(
    "house",
    "Preferences by kind of traffic, direction, time of day and quality",
    vehicle("house", _ACCESSES, mobile_router={"timezone": "UTC"}, flow=_RULES),
    CORRESPONDENT,
    MOBILE,
    flows=(_PHONE, _PROGRAMME, _REQUESTS, _CONFERENCE, _ARCHIVE),
    phases=(
        Phase(
            "in the evening",
            "requests up ADSL, television down the satellite, the archive over ADSL",
            lasts=3.0,
            registered=_ALL,
            on_link=_BY_DAY,
            lossless=(*_SPARED, "conference", "archive"),
        ),
        Phase(
            "the night rule",
            "it is ten o'clock: the archive moves to the WLAN, nothing else does",
            lasts=3.0,
            does=(SetClock("2031-05-01T22:00:00"),),
            registered=_ALL,
            on_link=_BY_NIGHT,
            lossless=(*_SPARED, "conference", "archive"),
        ),
        Phase(
            "an unreliable WLAN",
            "it loses nine packets of ten: conference and archive fall back to ADSL, the others never notice",
            lasts=2.0,
            does=(Change(WLAN, "the WLAN loses 90 %", _BAD, _BAD),),
            on_link={**_BY_DAY, "conference": ADSL},
            lossless=_SPARED,
        ),
    ),
    clock="2031-05-01T21:30:00",
    story=__doc__,
)
