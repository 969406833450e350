"""Lab `recovery`: a link fails in every way that links fail, under a thousand packets a second each way.

        cn               ha
         |               |
         +---- core -----+
              /    \\
            ar1    ar2
             |      |
            WLAN   cellular         without delay of their own: what is measured is the agents'
             |      |
             +- mr -+
                 |
                lfn

For each failure: how long nothing came, and where the time went. Detection: until the mobile router knows; signalling:
until its Binding Update has reached the home agent; forwarding: until a packet is through again.
"""

from __future__ import annotations

from labs.actions import Action, Carrier, Kill, Run, Start, cut, restore
from labs.checks import Judge, gap, median_gap, recovery
from labs.flows import Stream
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

WLAN, CELLULAR = "WLAN", "cellular"
CARRIER_LIMIT, SILENT_LIMIT = 20.0, 350.0  # milliseconds each way
RESTART_LIMIT = 5_000.0  # the programs of eBPF go on meanwhile; a userspace data plane begins again with its daemon
_TIMES = (1, 2, 3)

_FIGURES = {"rate": 20_000_000, "emulated": True}
_ACCESSES = (
    Access(WLAN, "ar1", "2001:db8:a", "wlan0", 1, 10, _FIGURES),
    Access(CELLULAR, "ar2", "2001:db8:b", "wwan0", 2, 20, _FIGURES),
)
_PROBE = Stream("probe", port=6000, rate=1000, size=100)
_PATHS = {"hold": 0.3, "longest_hold": 0.3}  # the story is short; what finds the failure is as by default
_BOTH, _ONE = frozenset({1, 2}), frozenset({2})
_FORGET = "echo 0 > /proc/sys/net/ipv6/conf/wlan0/accept_ra; ip -6 address flush dev wlan0 scope global"
_LISTEN = "echo 2 > /proc/sys/net/ipv6/conf/wlan0/accept_ra"


def _on(link: str) -> dict[str, str]:
    return {"probe": link}


def _again_and_again(
    failure: str, says: str, fails: Action, heals: Action, registered: frozenset[int], noticed: Judge, limit: float
) -> tuple[Phase, ...]:
    """The same failure three times, for the median of three is not one moment in which the machine was busy."""
    found: list[Phase] = []
    names = [f"{failure} {number}" for number in _TIMES]
    for name in names:
        checks = [noticed, median_gap("probe", names, limit, failure)] if name == names[-1] else [noticed]
        found += [
            Phase(
                name,
                says,
                lasts=0.5,
                does=(fails,),
                registered=registered,
                on_link=_on(CELLULAR),
                checks=tuple(checks),
            ),
            Phase(
                f"{name}, over",
                "the traffic returns, without loss",
                lasts=0.5,
                does=(heals,),
                registered=_BOTH,
                on_link=_on(WLAN),
                lossless=("probe",),
            ),
        ]
    return tuple(found)


RECOVERY = Scenario(
    "recovery",
    "How long each kind of failure is felt, at 1,000 packets a second each way, and where the time goes",
    vehicle("recovery", _ACCESSES, paths=_PATHS, agent_tables={"paths": _PATHS}),
    CORRESPONDENT,
    MOBILE,
    flows=(_PROBE,),
    phases=(
        Phase("all is well", "over WLAN", lasts=1.0, registered=_BOTH, on_link=_on(WLAN), lossless=("probe",)),
        *_again_and_again(
            "carrier lost",
            "the WLAN's carrier is lost, of which the kernel tells at once",
            Carrier(WLAN, up=False),
            Carrier(WLAN, up=True),
            _ONE,
            recovery("probe", "care-of address lost"),
            CARRIER_LIMIT,
        ),
        *_again_and_again(
            "silent loss",
            "nothing passes the WLAN any more, and nobody is told: probes go unanswered",
            cut(WLAN),
            restore(WLAN),
            _BOTH,
            recovery("probe", "path changed", state="down"),
            SILENT_LIMIT,
        ),
        Phase(
            "address lost",
            "the WLAN's address is taken away",
            lasts=0.5,
            does=(Run("mr", ("sh", "-c", _FORGET), "the WLAN's address is gone"),),
            registered=_ONE,
            on_link=_on(CELLULAR),
            checks=(recovery("probe", "care-of address lost"), gap("probe", 200.0)),
        ),
        Phase(
            "address back",
            "a router advertisement gives it an address again",
            lasts=0.5,
            does=(Run("mr", ("sh", "-c", _LISTEN), "router advertisements are heard again"),),
            registered=_BOTH,
            on_link=_on(WLAN),
            lossless=("probe",),
        ),
        Phase(
            "home agent restarted",
            "killed, and started again: its bindings are on disk",
            lasts=1.0,
            does=(Kill("ha", "homeagent"), Start("ha", "homeagent")),
            registered=_BOTH,
            on_link=_on(WLAN),
            checks=(gap("probe", RESTART_LIMIT),),
        ),
    ),
    story=__doc__,
)
