"""Lab `balance`: a coach between two terminals again; its passengers fetch page after page, each by a new connection.

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
                lfn                 eight passengers

Nobody tells the agents that terminal B becomes crowded, and then lossy. They measure it, at both ends of the tunnels,
and new connections go by terminal A: one bad link must not make the whole slower than the good one alone. With fixed
shares it would: sooner or later every passenger waits for a page that comes by terminal B.
"""

from __future__ import annotations

from labs.actions import Carrier, Change
from labs.checks import Judge, began, goodput
from labs.flows import Download
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

A, B = "A", "B"

_WLAN = {"rate": 20_000_000, "delay": 0.01}
_ACCESSES = (
    Access(A, "ar1", "2001:db8:a", "wlan0", bid=1, priority=10, figures=_WLAN | {"emulated": True}),
    Access(B, "ar2", "2001:db8:b", "wlan1", bid=2, priority=20, figures=_WLAN | {"emulated": True}),
)
_PAGES = Download("pages", port=8080, window=24 * 1024, connections=8, page=256 * 1024)
_PATHS = {"hold": 0.3, "longest_hold": 0.3}  # the story is short
_BOTH = frozenset({1, 2})
# The weights come to ten to one. A busy machine opens some 25 connections in a phase, and a lossy link repeats their
# SYN: two of three is three standard deviations less.
_MOST = 66.0
_MORE = 1.2  # of what A alone gives
_NOT_SLOWER = 0.9  # which a busy machine measures no better


def _against_alone(at_least: float) -> Judge:
    return goodput(("pages",), at_least=at_least, of="A alone", what="all pages together")


def _change(says: str, **figures: object) -> tuple[Change]:
    return (Change(B, says, figures, figures),)


BALANCE = Scenario(
    "balance",
    "Two WLANs of which one becomes crowded, then lossy: new connections go by the other",
    vehicle(
        "balance",
        _ACCESSES,
        paths=_PATHS,
        agent_tables={"paths": _PATHS},
        flow=[{"name": "pages", "protocol": "tcp", "balance": ["wlan0", "wlan1"]}],
    ),
    CORRESPONDENT,
    MOBILE,
    flows=(_PAGES,),
    phases=(
        Phase(
            "A alone",
            "terminal B is out of reach: what the good link alone is worth",
            lasts=4.0,
            does=(Carrier(B, up=False),),
            registered=frozenset({1}),
            on_link={"pages": A},
        ),
        Phase(
            "B comes",
            "terminal B is in reach, and new connections try it",
            lasts=6.0,
            does=(Carrier(B, up=True),),
            registered=_BOTH,
        ),
        Phase(
            "both good",
            "new connections go by either",
            lasts=6.0,
            registered=_BOTH,
            checks=(_against_alone(_MORE),),
        ),
        Phase(
            "B gets crowded",
            "2 of its 20 Mbit/s are left for the coach: pages that began there take a second each and more",
            lasts=12.0,
            does=_change("B has 2 Mbit/s left", rate=2_000_000),
            registered=_BOTH,
        ),
        Phase(
            "B is crowded",
            "the agents have measured its queue: most new connections go by A",
            lasts=6.0,
            registered=_BOTH,
            checks=(_against_alone(_NOT_SLOWER), began("pages", A, at_least=_MOST)),
        ),
        Phase(
            "B gets lossy",
            "terminal B has its 20 Mbit/s again, but loses 15 packets of 100 each way",
            lasts=8.0,
            does=_change("B loses 15 %", rate=20_000_000, loss=0.15),
            registered=_BOTH,
        ),
        Phase(
            "B is lossy",
            "the agents have measured its loss",
            lasts=6.0,
            registered=_BOTH,
            checks=(_against_alone(_NOT_SLOWER), began("pages", A, at_least=_MOST)),
        ),
        Phase(
            "B is good again",
            "terminal B loses nothing any more",
            lasts=2.0,
            does=_change("B loses nothing", loss=0.0),
            registered=_BOTH,
        ),
    ),
    story=__doc__,
)
