"""Lab `plain`: the same kinds of nodes without any agent; proves topology, traffic, counting and checks.

    cn ---- core ---- ar1 ==== mr ---- lfn        ==== is WLAN, 20 Mbit/s
     2001:db8:c::/64    2001:db8:a::/64  2001:db8:f00:1::/64

The mobile network is reached by plain static routes. When the WLAN goes, everything stops until it is back.
"""

from __future__ import annotations

from labs.actions import Carrier
from labs.flows import Download, Stream
from labs.scenario import Phase, Scenario
from labs.topology import Link, Node, Topology, advertise, interface, route

CN, LFN = "2001:db8:c::2", "2001:db8:f00:1::10"
MOBILE_NETWORK = "2001:db8:f00::/56"
WLAN = "WLAN"


def plain_topology(rate: int | None = 20_000_000) -> Topology:
    """The topology with this rate in bit/s on its access link; None is as fast as the machine."""
    return Topology(
        "plain",
        nodes=(
            Node("cn", (interface("eth0", f"{CN}/64"),), (route("default", "eth0", "2001:db8:c::1"),)),
            Node(
                "core",
                (interface("cn", "2001:db8:c::1/64"), interface("ar1", "fe80::1/64")),
                (route(MOBILE_NETWORK, "ar1", "fe80::2"), route("2001:db8:a::/64", "ar1", "fe80::2")),
                forwarding=True,
            ),
            Node(
                "ar1",
                (
                    interface("core", "fe80::2/64"),
                    interface("wlan", "2001:db8:a::1/64", "fe80::1/64", advertises=advertise("2001:db8:a::/64")),
                ),
                (route("default", "core", "fe80::1"), route(MOBILE_NETWORK, "wlan", "fe80::5"), route(MOBILE_NETWORK)),
                forwarding=True,
            ),
            Node(
                "mr",
                (
                    interface("wlan0", "fe80::5/64", autoconf=True, dad=True),
                    interface("lan0", "2001:db8:f00:1::1/64", advertises=advertise("2001:db8:f00:1::/64")),
                ),
                forwarding=True,
            ),
            Node("lfn", (interface("eth0", autoconf=True, token="::10"),)),
        ),
        links=(
            Link("core:cn", "cn:eth0"),
            Link("core:ar1", "ar1:core"),
            Link("ar1:wlan", "mr:wlan0", rate=rate, name=WLAN),
            Link("mr:lan0", "lfn:eth0"),
        ),
    )


_EVERYTHING = {"voice": WLAN, "download": WLAN}

PLAIN = Scenario(
    "plain",
    "Plain forwarding over one link, without agents",
    plain_topology(),
    correspondent=("cn", CN),
    mobile=("lfn", LFN),
    flows=(Stream("voice", port=5004, rate=50), Download("download", port=8080)),
    phases=(
        Phase("one link", "everything over WLAN", lasts=1.5, on_link=_EVERYTHING, lossless=("voice",)),
        Phase("no link", "WLAN coverage ends, nothing gets through", lasts=0.5, does=(Carrier(WLAN, up=False),)),
        Phase("link again", "WLAN comes back", lasts=1.0, does=(Carrier(WLAN, up=True),), on_link=_EVERYTHING),
    ),
    story=__doc__,
)
