"""Lab `surgery`: instruments far away, over two links at once; no single link's loss is to be felt.

        cn               ha         the surgeon
         |               |
         +---- core -----+
              /    \\
            ar1    ar2
             |      |
             A      B               10 and 20 ms; each loses one packet in twenty, at first
             |      |
             +- mr -+
                 |
                lfn                 the instruments

Every packet goes over both links, both ways; what comes twice is delivered once, and what the sender itself repeats,
equal to the last octet, is delivered as often as it was sent.
"""

from __future__ import annotations

from labs.actions import Change, cut
from labs.checks import copied, lost, lost_share, repeated
from labs.flows import Stream
from labs.scenario import Phase, Scenario
from labs.vehicle import CORRESPONDENT, MOBILE, Access, vehicle

A, B = "A", "B"

_LOSS = {"loss": 0.05}
_CLEAN = {"loss": 0.0}
_ACCESSES = (
    Access(A, "ar1", "2001:db8:a", "wlan0", 1, 10, {"delay": 0.01, **_LOSS}),
    Access(B, "ar2", "2001:db8:b", "wwan0", 2, 20, {"delay": 0.02, **_LOSS}),
)
_HANDS = Stream("hands", 5004, rate=500)
_PULSE = Stream("pulse", 5006, rate=200, repeats=2)
_COPIES = (copied("hands", (A, B)), copied("pulse", (A, B)), repeated("hands"), repeated("pulse"))

SURGERY = Scenario(
    "surgery",
    "Every packet over both links: neither loss nor a dead link is felt, and nothing comes twice",
    vehicle(
        "surgery",
        _ACCESSES,
        flow=[{"name": "instruments", "protocol": "udp", "source_port": "5004-5006", "copy": ["wlan0", "wwan0"]}],
    ),
    CORRESPONDENT,
    MOBILE,
    flows=(_HANDS, _PULSE),
    phases=(
        Phase(  # a Binding Update that is lost costs a second or two
            "preparation",
            "the later link is copied to when a probe has got through it and the home agent knows",
            lasts=4.0,
            registered=frozenset({1, 2}),
        ),
        Phase(
            "two bad links",
            "each loses 5 %, which leaves a quarter of a percent of both",
            lasts=8.0,
            registered=frozenset({1, 2}),
            checks=(*_COPIES, lost_share("hands", 0.5)),
        ),
        Phase(
            "two clean links",
            "neither loses any",
            lasts=2.0,
            does=(Change(A, "A is clean", _CLEAN, _CLEAN), Change(B, "B is clean", _CLEAN, _CLEAN)),
            registered=frozenset({1, 2}),
            checks=_COPIES,
        ),
        Phase(
            "one of them dies",
            "A is cut without a signal: not one packet is missed, nor one of the sender's own repeats",
            lasts=3.0,
            does=(cut(A),),
            checks=(lost("hands"), lost("pulse"), repeated("hands"), repeated("pulse")),
        ),
    ),
    story=__doc__,
)
