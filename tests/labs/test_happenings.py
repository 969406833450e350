"""What may happen in a story, on one network with everything in it: a switch, two routers, IPv4 behind a NAT."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from labs.acting import carry_out
from labs.actions import Advertise, Carrier, ForgetMappings, Kill, Run, SetClock, Start, cut, restore
from labs.namespaces import Lab, missing
from labs.topology import Daemon, Link, Node, Topology, advertise, interface, route
from labs.vehicle import HOME_AGENT, home_agent_settings

SERVER, PORT = "192.0.2.2", 7000
NAT = """
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "outside" masquerade random
    }
}
"""
WHO_ASKS = f"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("{SERVER}", {PORT}))
print("ready", flush=True)
while True:
    _, (address, port) = s.recvfrom(9); s.sendto(f"{{address}} {{port}}".encode(), (address, port))
"""
ASK = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 5000)); s.settimeout(2)
s.sendto(b"?", ("{SERVER}", {PORT})); print(s.recv(99).decode())
"""


def router(name: str, prefix: str, *more: str, outside: tuple[str, ...] = (), nat: str = "") -> Node:
    inside = interface("inside", f"{prefix}::1/64", *more, advertises=advertise(f"{prefix}::/64"))
    return Node(name, (inside, interface("outside", *outside)), forwarding=True, nftables=nat)


TOPOLOGY = Topology(
    "happenings",
    nodes=(
        Node(
            "server",
            (interface("eth0", f"{SERVER}/24", f"{HOME_AGENT}/64"), interface("eth1")),
            daemons=(Daemon("homeagent", home_agent_settings()),),
        ),
        router("r1", "2001:db8:a", "10.0.0.1/24", outside=("192.0.2.1/24",), nat=NAT),
        router("r2", "2001:db8:b"),
        Node("lan", (interface("r1"), interface("r2"), interface("host")), switch=True),
        Node(
            "host",
            (interface("eth0", "10.0.0.5/24", autoconf=True, dad=True),),
            (route("0.0.0.0/0", "eth0", "10.0.0.1"),),
        ),
    ),
    links=(
        Link("server:eth0", "r1:outside"),
        Link("server:eth1", "r2:outside"),
        Link("r1:inside", "lan:r1", name="one"),
        Link("r2:inside", "lan:r2", name="two", emulated=True),
        Link("lan:host", "host:eth0", name="port", counted="r1:inside"),
    ),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(TOPOLOGY, own_clock=True) as lab:
        lab.until(lambda: len(addresses(lab)) == 2, 10, "an address of each router's prefix")
        yield lab


def addresses(lab: Lab) -> dict[str, int]:
    """Prefix and preferred lifetime of each global IPv6 address of the host."""
    found = lab["host"].addresses("eth0")
    return {":".join(one["local"].split(":")[:3]): one["preferred_life_time"] for one in found}


def routers(lab: Lab) -> set[str]:
    """The nodes that are the host's default routers."""
    listing = json.loads(lab["host"].run("ip", "-j", "-6", "route", "show", "default"))
    gateways = {hop["gateway"] for entry in listing for hop in entry.get("nexthops", [entry])}
    return {name for name in ("r1", "r2") if gateways & link_locals(lab, name)}


def link_locals(lab: Lab, name: str) -> set[str]:
    [found] = json.loads(lab[name].run("ip", "-j", "-6", "address", "show", "dev", "inside", "scope", "link"))
    return {one["local"] for one in found["addr_info"] if one}  # ip puts an empty one for each that it leaves out


@pytest.mark.netns
@pytest.mark.skipif(bool(missing()), reason="; ".join(missing()))
class TestInOneNetwork:
    def test_two_routers_on_one_link_and_one_of_them_withdraws(self, lab: Lab) -> None:
        assert routers(lab) == {"r1", "r2"}
        carry_out(lab, Advertise("r2", "inside", "r2 withdraws", {"router_lifetime": 0, "preferred_lifetime": 0}))
        lab.until(lambda: routers(lab) == {"r1"}, 3, "one router")
        lab.until(lambda: addresses(lab)["2001:db8:b"] == 0, 3, "the address is deprecated")
        assert addresses(lab)["2001:db8:a"] > 0

    def test_a_killed_router_says_no_farewell(self, lab: Lab) -> None:
        carry_out(lab, Kill("r1", "radvd"))
        lab.check_processes()  # it was to be expected
        assert "r1" in routers(lab)

    def test_a_silent_link_has_its_carrier_and_a_port_loses_it(self, lab: Lab) -> None:
        carry_out(lab, cut("two"))
        assert "LOWER_UP" in lab["r2"].run("ip", "link", "show", "inside")
        carry_out(lab, restore("two"))
        carry_out(lab, Carrier("port", up=False))
        lab.until(lambda: "NO-CARRIER" in lab["host"].run("ip", "link", "show", "eth0"), 3, "no carrier")
        assert "LOWER_UP" in lab["r1"].run("ip", "link", "show", "inside")
        carry_out(lab, Carrier("port", up=True))

    def test_a_nat_translates_and_forgets(self, lab: Lab) -> None:
        server = lab["server"].popen(sys.executable, "-u", "-c", WHO_ASKS, log="who.log")
        lab.until(lambda: "ready" in (lab["server"].directory / "who.log").read_text(), 5, "the server answers")
        seen = [lab["host"].run(sys.executable, "-c", ASK) for _ in range(2)]
        assert seen[0].startswith("192.0.2.1 ") and seen[0] == seen[1]  # one mapping
        carry_out(lab, ForgetMappings("r1"))
        assert lab["host"].run(sys.executable, "-c", ASK) != seen[0]
        lab["server"].stop(server)

    def test_a_command_is_run_where_it_belongs(self, lab: Lab) -> None:
        carry_out(lab, Run("host", ("touch", str(lab["host"].directory / "there")), "touch"))
        assert (lab["host"].directory / "there").exists()

    def test_a_daemon_has_the_time_of_day_of_the_story(self, lab: Lab) -> None:
        lab.set_clock(datetime(2031, 5, 1, 21, 59, tzinfo=UTC).timestamp())
        lab.start_daemons(log="debug")
        log = lab["server"].directory / "homeagent.log"
        assert log.read_text().startswith("2031-05-01T21:59:")
        carry_out(lab, SetClock("2031-05-01T22:00:00"))
        carry_out(lab, Kill("server", "homeagent"))
        carry_out(lab, Start("server", "homeagent"))
        assert "\n2031-05-01T22:00:" in log.read_text()
