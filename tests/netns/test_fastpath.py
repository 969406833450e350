"""The eBPF data plane under the whole agent: what it passes on, where it sits, and when it takes the short cut."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from labs.car import CAR
from labs.namespaces import LabNode, missing
from labs.vehicle import CN, HOME_ADDRESS, LFN
from tests.netns.support import (
    IPV6_RECVERR,
    LIMIT,
    PORT,
    Car,
    car_lab,
    programs,
    socket_on,
    stream_socket_on,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
ROUTER_ON_LAN = "2001:db8:f00:1::1"
IPV6_UNICAST_HOPS, IPV6_MTU = 16, 24  # linux/in6.h
SHORT_CUT = {"mr": "lan0 ingress mip6:mip0:encap_ingress:clsact", "ha": "eth0 ingress mip6:mip0:encap_ingress:clsact"}
FORWARD_CHAIN = """table inet f {
    counter seen { }
    chain forward { type filter hook forward priority 0; counter name seen; }
}"""
INPUT_CHAIN = """table inet f {
    counter seen { }
    chain in { type filter hook input priority 0; iifname "mip0" counter name seen; }
}"""
MEGABYTE = bytes(1 << 20)


@pytest.fixture(scope="module")
def car() -> Iterator[Car]:
    """Registered, both agents with the eBPF data plane; shared by the module: a test leaves it as it was.

    Paths are not probed: the tests count packets.
    """
    with car_lab(paths={"probe": False}) as car:
        car.start(dataplane="ebpf")
        yield car


@pytest.fixture(scope="module")
def modem() -> Iterator[Car]:
    """The same with a cellular modem that has no Ethernet header, and nothing else."""
    links = [replace(link, modem=link.name == "cellular", rate=None) for link in CAR.links]
    with car_lab(replace(CAR, links=tuple(links))) as car:
        car.start(dataplane="ebpf")
        car["ar1"].set_link("access", up=False)
        car.lab.until(
            lambda: [b["bid"] for b in car.mobile()["bindings"] if b["state"] == "registered"] == [2], LIMIT, "one"
        )
        yield car


def test_both_agents_have_it_and_take_the_short_cut(car: Car) -> None:
    """No firewall is there, so forwarded packets need no detour."""
    for status in (car.mobile(), car.home()):
        assert (status["dataplane"], status["shortcut"]) == ("ebpf", "on")
    access = {"wlan0 ingress mip6:mip0:decap_ingress:clsact", "wwan0 ingress mip6:mip0:decap_ingress:clsact"}
    tunnel = "mip0 egress mip6:mip0:encap_egress:clsact"
    assert set(programs(car["mr"])) == {tunnel, *access, SHORT_CUT["mr"]}
    assert set(programs(car["ha"])) == {tunnel, "eth0 ingress mip6:mip0:decap_ingress:clsact", SHORT_CUT["ha"]}


def test_the_stack_forwards_nothing_of_a_flow(car: Car) -> None:
    """Neither into tunnels nor out of them, nor is it told to take another way, where it leaves as it came (ha)."""

    def counts() -> dict[str, tuple[int, int]]:
        return {node: forwarded(car[node]) for node in SHORT_CUT}

    def known() -> bool:  # what the routes said of a neighbour that was not known holds for a lap
        before = counts()
        assert car.echo(b"neighbours") == b"neighbours"
        return counts() == before

    car.lab.until(known, LIMIT, "all neighbours are known")
    before = counts()
    for number in range(10):
        assert car.echo(b"%d" % number) == b"%d" % number
    assert counts() == before


def forwarded(node: LabNode) -> tuple[int, int]:
    """IPv6 packets that the kernel has forwarded, and Redirects that it has sent."""
    counted = dict(line.split() for line in node.run("cat", "/proc/net/snmp6").splitlines())
    return int(counted["Ip6OutForwDatagrams"]), int(counted["Icmp6OutRedirects"])


@pytest.mark.parametrize("node", ["mr", "ha"])
def test_a_firewall_that_comes_later_ends_the_short_cut_and_sees_every_packet(car: Car, node: str) -> None:
    """At the mobile router and at the home agent; when it is gone the short cut is back."""
    fast = car[node]
    assert SHORT_CUT[node] in programs(fast)
    fast.run("nft", "-f", "-", stdin=FORWARD_CHAIN)
    car.lab.until(lambda: SHORT_CUT[node] not in programs(fast), LIMIT, "the short cut has ended")
    status = car.mobile() if node == "mr" else car.home()
    assert status["shortcut"] == "off"
    assert "nftables chain inet f forward" in status["shortcut_reason"]
    for number in range(10):
        assert car.echo(b"%d" % number) == b"%d" % number
    assert "packets 20 " in fast.run("nft", "list", "counter", "inet", "f", "seen")
    fast.run("nft", "delete", "table", "inet", "f")
    car.lab.until(lambda: SHORT_CUT[node] in programs(fast), LIMIT, "the short cut is back")
    assert car.echo(b"again") == b"again"


def test_a_chain_of_input_alone_leaves_the_short_cut_but_sees_packets_from_the_tunnel_device(car: Car) -> None:
    fast = car["mr"]
    fast.run("nft", "-f", "-", stdin=INPUT_CHAIN)
    car.lab.until(lambda: "inet f in" in car.mobile()["shortcut_reason"], LIMIT, "it is noticed")
    assert SHORT_CUT["mr"] in programs(fast)
    before = car.traffic()[0]
    with socket_on(car["cn"]) as here, socket_on(fast, PORT) as there:
        here.sendto(b"to the router itself", (HOME_ADDRESS, PORT))
        assert there.recv(100) == b"to the router itself"
    assert "packets 1 " in fast.run("nft", "list", "counter", "inet", "f", "seen")
    assert (car.traffic()[0] - before).packets_in == 1
    fast.run("nft", "delete", "table", "inet", "f")
    car.lab.until(lambda: "inet f in" not in car.mobile()["shortcut_reason"], LIMIT, "it is noticed")


@pytest.mark.parametrize("address", [ROUTER_ON_LAN, HOME_ADDRESS])
def test_what_the_vehicle_says_to_its_own_router_does_not_go_through_a_tunnel(car: Car, address: str) -> None:
    before = car.traffic()
    with socket_on(car["lfn"]) as here, socket_on(car["mr"], PORT) as there:
        here.sendto(b"hello", (address, PORT))
        assert there.recv(100) == b"hello"
    assert car.traffic() == before


@pytest.mark.parametrize(("source", "target", "address"), [("lfn", "cn", CN), ("cn", "lfn", LFN)])
def test_a_packet_in_fragments_arrives(car: Car, source: str, target: str, address: str) -> None:
    """Fragments of the sender are left to userspace, which knows which rule the first one met."""
    text = bytes(range(256)) * 16
    with socket_on(car[source]) as here, socket_on(car[target], PORT) as there:
        here.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1400)  # of the fragments
        here.sendto(text, (address, PORT))
        assert there.recv(8192) == text


@pytest.mark.parametrize(
    ("source", "address", "hops"), [("lfn", CN, 1), ("lfn", CN, 2), ("cn", LFN, 2), ("cn", LFN, 3)]
)
def test_a_hop_limit_that_is_used_up_at_the_tunnel_is_answered(car: Car, source: str, address: str, hops: int) -> None:
    """The mobile router and the home agent answer Time Exceeded (RFC 4443 §3.3), though they stand on the short cut, in
    front of the tunnel and behind it."""
    with socket_on(car[source]) as here:
        here.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        here.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops)
        here.connect((address, PORT))
        here.send(b"too far")
        with pytest.raises(OSError) as answered:
            here.recv(100)
        assert answered.value.errno == errno.EHOSTUNREACH


def test_a_device_that_comes_later_gets_its_program_and_one_taken_away_is_put_back(car: Car) -> None:
    mr = car["mr"]
    mr.run("ip", "link", "add", "later", "type", "veth", "peer", "name", "other")
    new = "later ingress mip6:mip0:encap_ingress:clsact"
    car.lab.until(lambda: new in programs(mr), LIMIT, "the new device has its program")
    mr.run("tc", "qdisc", "delete", "dev", "later", "clsact")
    car.lab.until(lambda: new in programs(mr), LIMIT, "it has it again")
    mr.run("ip", "link", "delete", "later")
    car.lab.until(lambda: new not in programs(mr), LIMIT, "nothing is left of it")


def test_a_port_of_a_bridge_has_none(car: Car) -> None:
    mr = car["mr"]
    for command in (
        "link add port type veth peer name far",
        "link add bridge type bridge",
        "link set port master bridge",
    ):
        mr.run("ip", *command.split())
    ours = ("bridge ingress mip6:mip0:encap_ingress:clsact", "far ingress mip6:mip0:encap_ingress:clsact")
    try:
        car.lab.until(
            lambda: {*ours} <= {*programs(mr)} and not any(one.startswith("port ") for one in programs(mr)), LIMIT, ""
        )
    finally:
        mr.run("ip", "link", "delete", "bridge")
        mr.run("ip", "link", "delete", "port")


def _transfer(source: LabNode, target: LabNode, address: str) -> int:
    """Send 8 MB by TCP; octets that arrive."""
    received = [0]
    with stream_socket_on(target) as listener, stream_socket_on(source) as here:
        listener.bind(("::", PORT))
        listener.listen(1)

        def take() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1 << 20):
                    received[0] += len(data)

        taker = threading.Thread(target=take)
        taker.start()
        here.connect((address, PORT))
        for _ in range(8):
            here.sendall(MEGABYTE)
        here.shutdown(socket.SHUT_WR)
        taker.join(LIMIT)
    return received[0]


@pytest.mark.parametrize(("source", "target", "address"), [("lfn", "cn", CN), ("cn", "lfn", LFN)])
def test_tcp_goes_through_a_link_without_ethernet_header(modem: Car, source: str, target: str, address: str) -> None:
    """Large segments and all, both ways, with both agents killed: only the programs are there."""
    assert "wwan0 ingress mip6:mip0:decap_raw:clsact" in programs(modem["mr"])
    assert _transfer(modem[source], modem[target], address) == 8 << 20


def test_the_programs_alone_carry_a_link_without_ethernet_header(modem: Car) -> None:
    """The last test of the module: the agents are killed, and traffic goes on."""
    for node, program in (("mr", "mobilenode"), ("ha", "homeagent")):
        modem[node].stop(modem[node].daemons[program], kill=True)
    assert modem.echo(b"nobody is there") == b"nobody is there"
    for ends in (("lfn", "cn", CN), ("cn", "lfn", LFN)):
        assert _transfer(modem[ends[0]], modem[ends[1]], ends[2]) == 8 << 20
