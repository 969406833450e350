"""Labs `nat`, `rebind`, `blocked` and `ipv4-apps`: the tunnel gets through everywhere, and IPv4 applications move too.

The network is that of `labs.dualstack`.
"""

from __future__ import annotations

from labs import dualstack
from labs.actions import Carrier, ForgetMappings
from labs.dualstack import CORRESPONDENT, MOBILE, dual_stack
from labs.flows import Download, Stream
from labs.scenario import Phase, Scenario
from labs.vehicle import Access

WLAN, CELLULAR = "WLAN", "cellular"
GAP_LIMIT = 200.0  # milliseconds, as for a handoff between two native links (lab `car`)
KEEPALIVE = 5  # seconds
_WLAN = Access(WLAN, "ar1", "2001:db8:a", "wlan0", 1, 10, {"rate": 20_000_000})
_CELLULAR = Access(CELLULAR, "ar2", "2001:db8:b", "wwan0", 2, 20, {"rate": 5_000_000})
_VOICE, _PROBE = Stream("voice", 5004, rate=50), Stream("probe", 6000, rate=250, size=100)
_DOWNLOAD = Download("download", port=8080)
_RULES = [{"name": "voice", "protocol": "udp", "source_port": 5004, "via": ["wwan0", "wlan0"]}]
_EACH_ON_ITS_LINK = {"voice": CELLULAR, "probe": WLAN, "download": WLAN}

NAT = Scenario(
    "nat",
    "WLAN has only IPv4 behind a NAT, cellular is native IPv6: handoffs between them are as good as any",
    dual_stack("nat", (_WLAN, _CELLULAR), ipv4_only=(WLAN,), flow=_RULES),
    CORRESPONDENT,
    MOBILE,
    flows=(_VOICE, _PROBE, _DOWNLOAD),
    phases=(
        Phase(
            "both links",
            "the WLAN's tunnel is IPv4 and UDP through the NAT, the cellular one plain IPv6",
            lasts=3.0,
            registered=frozenset({1, 2}),
            on_link=_EACH_ON_ITS_LINK,
            lossless=("voice", "probe"),
        ),
        Phase(
            "WLAN ends",
            "everything moves from IPv4 behind the NAT to IPv6",
            lasts=3.0,
            does=(Carrier(WLAN, up=False),),
            registered=frozenset({2}),
            on_link={"voice": CELLULAR, "probe": CELLULAR, "download": CELLULAR},
            lossless=("voice",),
            gap_limit={"probe": GAP_LIMIT},
        ),
        Phase(
            "WLAN is back",
            "probe and download return through the NAT, without loss",
            lasts=3.0,
            does=(Carrier(WLAN, up=True),),
            registered=frozenset({1, 2}),
            on_link=_EACH_ON_ITS_LINK,
            lossless=("voice", "probe"),
        ),
        Phase(
            "cellular ends",
            "the voice moves from IPv6 to IPv4 behind the NAT",
            lasts=3.0,
            does=(Carrier(CELLULAR, up=False),),
            registered=frozenset({1}),
            on_link={"voice": WLAN, "probe": WLAN, "download": WLAN},
            lossless=("probe",),
            gap_limit={"voice": GAP_LIMIT},
        ),
    ),
    story=dualstack.__doc__ or "",
)

REBIND = Scenario(
    "rebind",
    "The NAT forgets its mapping in mid-session: port and all. The next authentic Binding Update makes a new one",
    dual_stack(
        "rebind",
        (Access(WLAN, "ar1", "2001:db8:a", "wlan0", 1, 10, {"rate": 20_000_000}, {"keepalive": KEEPALIVE}),),
        ipv4_only=(WLAN,),
    ),
    CORRESPONDENT,
    MOBILE,
    flows=(_PROBE, _DOWNLOAD),
    phases=(
        Phase(
            "through the NAT",
            "the only link has IPv4 behind a NAT",
            lasts=3.0,
            registered=frozenset({1}),
            on_link={"probe": WLAN, "download": WLAN},
            lossless=("probe",),
        ),
        Phase(
            "the NAT forgets",
            "data from the new port is dropped by the home agent until a Binding Update proves who sends it",
            lasts=KEEPALIVE + 3.0,
            does=(ForgetMappings("ar1"),),
            registered=frozenset({1}),
            on_link={"probe": WLAN, "download": WLAN},
            gap_limit={"probe": 1000.0 * KEEPALIVE},
        ),
        Phase(
            "all is well",
            "the new mapping is used by both ends",
            lasts=2.0,
            registered=frozenset({1}),
            on_link={"probe": WLAN, "download": WLAN},
            lossless=("probe",),
        ),
    ),
    story=dualstack.__doc__ or "",
)

BLOCKED = Scenario(
    "blocked",
    "The WLAN's router drops protocol 41 and destination options: UDP over IPv6 gets through, found without being told",
    dual_stack("blocked", (_WLAN, _CELLULAR), blocked=(WLAN,), flow=_RULES),
    CORRESPONDENT,
    MOBILE,
    flows=(_VOICE, _PROBE, _DOWNLOAD),
    phases=(
        Phase(
            "only the WLAN",
            "three Binding Updates without an answer, then one inside UDP: the home agent is reached",
            lasts=3.0,
            does=(Carrier(CELLULAR, up=False),),
            registered=frozenset({1}),
            on_link={"voice": WLAN, "probe": WLAN, "download": WLAN},
        ),
        Phase(
            "cellular as well",
            "which has nothing in the way and stays native",
            lasts=3.0,
            does=(Carrier(CELLULAR, up=True),),
            registered=frozenset({1, 2}),
            on_link=_EACH_ON_ITS_LINK,
            lossless=("probe",),
        ),
    ),
    story=dualstack.__doc__ or "",
)

_CALL4 = Stream("call", 5004, rate=50, family=4)
_PROBE4, _DOWNLOAD4 = Stream("probe", 6000, rate=250, size=100, family=4), Download("download", port=8080, family=4)
IPV4_APPS = Scenario(
    "ipv4-apps",
    "IPv4 applications of the vehicle and an IPv4 server: a handoff from an IPv6-only to an IPv4-only link",
    dual_stack("ipv4-apps", (_CELLULAR, _WLAN), ipv4_only=(CELLULAR,)),
    CORRESPONDENT,
    MOBILE,
    flows=(_CALL4, _PROBE4, _DOWNLOAD4),
    phases=(
        Phase(
            "IPv4 in IPv6",
            "the WLAN has IPv6 only: IPv4 travels in IPv6 tunnels",
            lasts=3.0,
            registered=frozenset({1, 2}),
            on_link={"call": WLAN, "probe": WLAN, "download": WLAN},
            lossless=("call", "probe"),
        ),
        Phase(
            "IPv4 in UDP in IPv4",
            "the WLAN ends; cellular has IPv4 only, behind a NAT: connections go on",
            lasts=3.0,
            does=(Carrier(WLAN, up=False),),
            registered=frozenset({2}),
            on_link={"call": CELLULAR, "probe": CELLULAR, "download": CELLULAR},
            gap_limit={"probe": GAP_LIMIT},
        ),
        Phase(
            "and back",
            "to IPv6, without loss",
            lasts=3.0,
            does=(Carrier(WLAN, up=True),),
            registered=frozenset({1, 2}),
            on_link={"call": WLAN, "probe": WLAN, "download": WLAN},
            lossless=("call", "probe"),
        ),
    ),
    story=dualstack.__doc__ or "",
)
