"""Real packets through the whole agent: what is registered, counted, too big, foreign, or for nobody."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from labs.namespaces import missing
from labs.vehicle import CN, HOME_ADDRESS, HOME_AGENT, LFN
from tests.netns.support import (
    IP_PMTUDISC_DO,
    IPV6_MTU_DISCOVER,
    IPV6_RECVERR,
    LIMIT,
    PORT,
    UDP_OVERHEAD,
    Car,
    Traffic,
    care_of_addresses,
    home_bindings,
    socket_on,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
ACCEPTED = "ACCEPTED (0)"  # a status as `mip6 decode` has it
TUNNEL_MTU = 1460  # 1500 of the access links less the outer header
NOBODY_IN_THE_VEHICLE = "2001:db8:f00:77::1"  # of the mobile network prefix, on no link
NOBODY_ON_THE_LAN = "2001:db8:f00:1::dead"
UNREGISTERED = "2001:db8:100::77"  # of the home prefix
FOREIGN = "2001:db8:bad::10"
ENDS = {"out": ("lfn", "cn", CN), "in": ("cn", "lfn", LFN)}


def _bids(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [option["fields"] for option in message["options"] if option["name"] == "BindingIdentifier"]


def test_what_was_sent_is_what_both_ends_hold(car: Car) -> None:
    """Every Binding Update on the access links was accepted, and together they are the bindings of both agents."""
    messages = car.captured("ar1") + car.captured("ar2")
    assert [one["error"] for one in messages] == [None] * len(messages)
    updates = [one for one in messages if one["message"] == "BindingUpdate"]
    answers = {one["fields"]["sequence"]: one for one in messages if one["message"] == "BindingAcknowledgement"}
    registered: dict[int, str] = {}
    for update in updates:
        answer = answers[update["fields"]["sequence"]]
        assert update["dst"] == answer["src"] == HOME_AGENT
        assert update["src"] == answer["dst"]
        assert update["home_address"] == answer["routing_address"] == HOME_ADDRESS
        assert answer["fields"]["status"] == ACCEPTED
        assert {one["bid"]: one["status"] for one in _bids(answer)} == {one["bid"]: ACCEPTED for one in _bids(update)}
        for one in _bids(update):
            registered[one["bid"]] = one["care_of_address"] or update["src"]
    assert set(registered) == {1, 2}
    assert care_of_addresses(car.mobile()["bindings"]) == registered
    assert care_of_addresses(home_bindings(car.home())) == registered


@pytest.mark.parametrize("size", [0, 1, 700, TUNNEL_MTU - UDP_OVERHEAD])
@pytest.mark.parametrize("way", ENDS)
def test_counters_are_exact_to_the_octet(car: Car, way: str, size: int) -> None:
    """N inner packets of known size are N packets and their octets at both ends, out at one and in at the other."""
    count, octets = 25, 25 * (size + UDP_OVERHEAD)
    source, target, address = ENDS[way]
    mobile, home = car.traffic()
    with socket_on(car[target], PORT) as there, socket_on(car[source], PORT) as here:
        for _ in range(count):
            here.sendto(bytes(size), (address, PORT))
        assert [len(there.recv(2048)) for _ in range(count)] == [size] * count
    mobile_after, home_after = car.traffic()
    sent, received = Traffic(count, octets, 0, 0), Traffic(0, 0, count, octets)
    assert mobile_after - mobile == (sent if way == "out" else received)
    assert home_after - home == (received if way == "out" else sent)


@pytest.mark.parametrize("way", ENDS)
def test_mtu_edges(car: Car, way: str) -> None:
    """1280 and the tunnel MTU arrive whole; one octet more is answered Packet Too Big, and then refused at once."""
    source, target, address = ENDS[way]
    with socket_on(car[target], PORT) as there, socket_on(car[source], PORT) as here:
        here.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
        here.connect((address, PORT))
        for inner in (1280, TUNNEL_MTU):
            here.send(bytes(inner - UDP_OVERHEAD))
            assert len(there.recv(2048)) == inner - UDP_OVERHEAD
        before = car.traffic()
        too_big = bytes(TUNNEL_MTU + 1 - UDP_OVERHEAD)
        assert here.send(too_big) == len(too_big)  # the sender's own link has room for it
        with pytest.raises(OSError) as answered:  # the Packet Too Big, as the socket's pending error
            here.recv(2048)
        assert answered.value.errno == errno.EMSGSIZE
        with pytest.raises(OSError) as refused:  # the sender knows the path MTU now
            here.send(too_big)
        assert refused.value.errno == errno.EMSGSIZE
        assert f"mtu {TUNNEL_MTU}" in car[source].run("ip", "-6", "route", "get", address)
        here.send(bytes(TUNNEL_MTU - UDP_OVERHEAD))
        assert len(there.recv(2048)) == TUNNEL_MTU - UDP_OVERHEAD
    (mobile, home), (mobile_after, home_after) = before, car.traffic()
    one = Traffic(1, TUNNEL_MTU, 0, 0), Traffic(0, 0, 1, TUNNEL_MTU)
    assert (mobile_after - mobile, home_after - home) == (one if way == "out" else one[::-1])


def _refused(sender: socket.socket, address: str) -> int:
    """Send one datagram and give the error by which the network answers it."""
    sender.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    sender.connect((address, PORT))
    sender.send(b"who is there?")
    with pytest.raises(OSError) as answered:
        sender.recv(2048)
    return answered.value.errno or 0


@pytest.mark.parametrize("nobody", [NOBODY_IN_THE_VEHICLE, NOBODY_ON_THE_LAN])
def test_a_packet_to_nobody_in_the_mobile_network_goes_through_the_tunnel_once(car: Car, nobody: str) -> None:
    """It ends in the vehicle with an ICMPv6 error and does not come back up the default route."""
    mobile, home = car.traffic()
    with socket_on(car["cn"]) as sender:
        assert _refused(sender, nobody) in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES)
    mobile_after, home_after = car.traffic()
    assert (home_after - home).packets_out == (mobile_after - mobile).packets_in == 1
    assert (mobile_after - mobile).packets_out == (home_after - home).packets_in == 1  # the error


def _dropped(status: dict[str, dict[str, int]], reason: str) -> int:
    return status["drops"].get(reason, 0)


@pytest.mark.parametrize(("sender", "through_tunnel"), [("cn", 0), ("lfn", 1)])
def test_a_packet_to_an_unregistered_home_address_ends_at_the_home_agent(
    car: Car, sender: str, through_tunnel: int
) -> None:
    """Counted as `no_node`, once a packet; from the vehicle it has gone through the tunnel once."""
    count = 5
    mobile, home = car.traffic()
    before = _dropped(car.home(), "no_node")
    with socket_on(car[sender]) as here:
        for _ in range(count):
            here.sendto(b"x", (UNREGISTERED, PORT))
    car.lab.until(lambda: _dropped(car.home(), "no_node") >= before + count, LIMIT, "the packets are dropped")
    assert car.echo(b"after them") == b"after them"  # so that a packet going round would have been counted by now
    assert _dropped(car.home(), "no_node") == before + count
    mobile_after, home_after = car.traffic()
    sent = count * through_tunnel
    assert (mobile_after - mobile).packets_out == (home_after - home).packets_in == sent + 1


def test_a_foreign_source_from_the_lan_does_not_enter_the_tunnel(car: Car) -> None:
    """The mobile router drops it as `source_not_owned`, and nothing of it reaches the home agent."""
    count = 5
    before, (_, home) = _dropped(car.mobile(), "source_not_owned"), car.traffic()
    car["lfn"].run("ip", "address", "add", f"{FOREIGN}/128", "dev", "eth0", "nodad")
    try:
        with socket_on(car["lfn"], address=FOREIGN) as here:
            for _ in range(count):
                here.sendto(b"x", (CN, PORT))
    finally:
        car["lfn"].run("ip", "address", "delete", f"{FOREIGN}/128", "dev", "eth0")
    reached = before + count
    car.lab.until(lambda: _dropped(car.mobile(), "source_not_owned") >= reached, LIMIT, "the packets are dropped")
    assert car.echo(b"own") == b"own"
    assert _dropped(car.mobile(), "source_not_owned") == reached
    assert (car.traffic()[1] - home).packets_in == 1  # the echo
    assert _dropped(car.home(), "source_not_owned") == 0


def test_neither_agent_has_answered_a_parameter_problem(car: Car) -> None:
    """RFC 6275 §9.2: a Parameter Problem would say that the peer does not understand a Mobility Header.

    The last test of the module: what all the others have sent is in the captures.
    """
    assert car.captured("ha")
    for name in ("ar1", "ar2", "ha"):
        assert car.parameter_problems(name) == []
