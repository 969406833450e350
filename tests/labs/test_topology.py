"""Topologies and scenarios as data: what is wrong is said before anything is made."""

from __future__ import annotations

import tomllib

import pytest

from labs import render
from labs.car import CAR, CAR_SCENARIO, CELLULAR, WLAN
from labs.flows import Record, Stream, Window, content, decode_records, stream_report
from labs.scenario import Phase, Scenario
from labs.topology import Link, Node, Topology, advertise, interface, route


def two(*links: Link) -> Topology:
    return Topology(
        "two",
        nodes=(Node("a", (interface("eth0", "2001:db8::1/64"),)), Node("b", (interface("eth0", "2001:db8::2/64"),))),
        links=links,
    )


def test_interface_in_no_link_is_named() -> None:
    with pytest.raises(ValueError, match="a:eth0 is in no link"):
        two()


def test_interface_in_two_links_is_named() -> None:
    with pytest.raises(ValueError, match="a:eth0 is in 2 links"):
        two(Link("a:eth0", "b:eth0"), Link("a:eth0", "b:eth0"))


def test_link_to_unknown_interface_is_named() -> None:
    with pytest.raises(ValueError, match="a:eth7, which no node declares"):
        two(Link("a:eth7", "b:eth0"))


def test_route_by_unknown_interface_is_named() -> None:
    with pytest.raises(ValueError, match="node a: route to ::/0 by unknown interface eth9"):
        Node("a", (interface("eth0"),), (route("default", "eth9"),))


def test_only_a_router_advertises() -> None:
    with pytest.raises(ValueError, match="must forward"):
        Node("a", (interface("eth0", advertises=advertise("2001:db8::/64")),))


def test_scenario_knows_its_flows_and_links() -> None:
    with pytest.raises(ValueError, match="no flow is called ghost"):
        Scenario("x", "x", CAR, ("cn", "::1"), ("lfn", "::2"), (), (Phase("p", "", 1, lossless=("ghost",)),))


def test_rates_limit_both_directions_of_both_access_links() -> None:
    assert list(CAR.access_links) == [WLAN, CELLULAR]
    for node, rate in (("ar1", 20_000_000), ("ar2", 5_000_000)):
        [command] = render.rate_commands(CAR, CAR[node])
        assert f"rate {rate}bit" in command
    assert len(render.rate_commands(CAR, CAR["mr"])) == 2


def test_mobile_router_forwards_and_still_hears_advertisements_on_its_access_links() -> None:
    settings = render.sysctls(CAR["mr"])
    assert "net.ipv6.conf.all.forwarding=1" in settings
    for access in ("wlan0", "wwan0"):
        assert f"net.ipv6.conf.{access}.accept_ra=2" in settings
        assert f"net.ipv6.conf.{access}.accept_dad=1" in settings
    assert "net.ipv6.conf.lan0.accept_ra=0" in settings


@pytest.mark.parametrize("node", ["ha", "mr"])
def test_settings_survive_toml(node: str) -> None:
    [daemon] = CAR[node].daemons
    assert tomllib.loads(render.toml(daemon.settings)) == daemon.settings


def test_car_ends_with_every_flow_back_on_its_link() -> None:
    both = [phase.on_link for phase in CAR_SCENARIO.phases]
    assert both[0] == both[2] and set(both[1].values()) == {CELLULAR}


def test_stream_report_counts_each_fate_once() -> None:
    sent = [Record(number, number * 1_000_000, 0) for number in range(6)]
    order = (0, 2, 1, 3, 3)  # 1 behind 2; 3 twice; 4 and 5 never
    received = [Record(number, number * 1_000_000, 10_000_000 + i * 1_000_000) for i, number in enumerate(order)]
    report = stream_report(sent, received, Window(0, 20_000_000))
    assert (report.sent, report.lost, report.duplicated, report.reordered) == (6, 2, 1, 1)


def test_half_written_record_is_left_out() -> None:
    data = Record(1, 2, 3).encode()
    assert decode_records(data + data[:5]) == [Record(1, 2, 3)]


def test_content_depends_on_its_place() -> None:
    assert content(0, 32)[8:] == content(8, 24)
    assert content(0, 16) != content(16, 16)


def test_counters_know_a_flow_plain_and_tunnelled() -> None:
    ruleset = render.counters(CAR, CAR["ar1"], (Stream("voice", 5004, 50),))
    assert "udp sport 5004" in ruleset
    assert "meta nfproto ipv6 @nh,48,8 41 @nh,368,8 17 @nh,640,16 5004" in ruleset
    assert "meta nfproto ipv4 udp sport 4191 @nh,224,4 6 @nh,272,8 17 @nh,544,16 5004" in ruleset
    assert render.counters(CAR, CAR["core"]) == ""
