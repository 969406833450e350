"""`mip6 explain` at both ends of a simulated network: which rule, which links, and why not the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import time
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mip6.explain import explain, question
from mip6.explaincommand import render
from mip6.forward import Encapsulated, encapsulate
from mip6.forwarding import DropReason, ForwardingTable
from mip6.lookup import Plain
from mip6.memory import Memory
from mip6.packet import parse
from mip6.schedule import Schedule
from mip6.selectors import IPv6Selector
from mobilenode.settings import FlowSettings, via
from tests.dataplane.test_random import INNER, packets, tables
from tests.sim.network import BOTH, HOME, MOBILE_NODE, Network

CN = "2001:db8:c::2"
VOICE, PING = MOBILE_NODE.flows
NIGHT = FlowSettings(5, 5, "night", IPv6Selector(), via("wlan0"), schedule=Schedule(time(3), time(4)))


@pytest.fixture
def network() -> Network:
    network = Network(1, mobile_node=replace(MOBILE_NODE, flows=(NIGHT, VOICE, PING)))
    network.observe(*BOTH)
    network.run(5)
    return network


def ask(engine: Any, source: str, destination: str, protocol: str = "udp", *ports: int) -> dict[str, Any]:
    names = dict(zip(("source_port", "destination_port"), ports or (5004, 5004), strict=True))
    extra: dict[str, Any] = dict(names) if protocol == "udp" else {}
    answer: dict[str, Any] = engine.explain(
        {"source": source, "destination": destination, "protocol": protocol} | extra
    )
    return answer


def used(answer: dict[str, Any]) -> list[int]:
    return [one["bid"] for one in answer["bindings"] if one["used"]]


def test_the_mobile_node_tells_the_rule_the_link_and_the_rule_that_rests(network: Network) -> None:
    answer = ask(network.mobile_node, str(HOME), CN)
    assert [(rule["name"], rule["verdict"]) for rule in answer["rules"]] == [
        ("night", "would match, but does not hold now (only 03:00 to 04:00)"),
        ("voice", "decides"),
    ]
    assert used(answer) == [2] and answer["rules"][1]["way"] == "wwan0, else wlan0"
    text = render(answer)
    assert "rule voice (FID 10; protocol udp) decides: wwan0, else wlan0" in text
    assert "from the mobile node 2001:db8:100::5; the mobile node decides" in text


def test_a_link_that_is_down_is_named(network: Network) -> None:
    network.observe(BOTH[0])
    network.run(1)
    answer = ask(network.mobile_node, str(HOME), CN)
    assert used(answer) == [1]
    assert [one["why"] for one in answer["bindings"] if one["bid"] == 2] == [
        "the link is down, or has no address or router"
    ]


def test_either_end_says_who_decides(network: Network) -> None:
    assert ask(network.home_agent, CN, str(HOME))["decides"] == "home agent"
    assert used(ask(network.home_agent, CN, str(HOME))) == [2]
    assert ask(network.home_agent, str(HOME), CN)["outcome"] == (
        "the mobile node decides over which link it comes: ask there"
    )
    down = ask(network.mobile_node, CN, str(HOME))
    assert (down["decides"], down["outcome"], used(down)) == ("home agent", "as the home agent has acknowledged", [2])
    assert used(ask(network.mobile_node, str(HOME), CN, "icmp")) == [1, 2]
    assert used(ask(network.mobile_node, str(HOME), CN, "esp")) == [1]  # no rule: the best link
    assert ask(network.home_agent, CN, "2001:db8:bad::1")["node"] is None


def test_a_binding_that_a_flow_names_and_nobody_registered(network: Network) -> None:
    network.observe(BOTH[0])
    network.run(1)
    answer = ask(network.home_agent, CN, str(HOME), "icmp")
    assert used(answer) == [1]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"source": CN}, "expected a destination"),
        ({"source": CN, "destination": "192.0.2.1", "protocol": "udp"}, "two IP versions"),
        (
            {"source": CN, "destination": str(HOME), "protocol": "upd"},
            "protocol: expected a number from 0 to 255",
        ),
        ({"source": CN, "destination": str(HOME), "protocol": "udp"}, "expected source port and destination port"),
        ({"source": CN, "destination": str(HOME), "protocol": "esp", "source_port": 1}, "this protocol has no ports"),
        ({"source": "cn", "destination": str(HOME)}, "does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_a_wrong_question_says_what_is_wrong(words: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        question(words)


@given(tables(), st.sampled_from(INNER), st.sampled_from(INNER), st.data())
def test_what_it_says_is_what_the_reference_does(
    table: ForwardingTable, source: IPv6Address, destination: IPv6Address, data: st.DataObject
) -> None:
    packet = data.draw(packets(source, destination))
    parsed = parse(packet)
    if parsed is None:
        return
    done = encapsulate(Plain(table), packet, Memory(), 1, 0.0)
    answer = explain(table, parsed, {})
    if isinstance(done, Encapsulated):
        bids = {copy.tunnel.bid for copy in done.copies}
        shared = any(one["weight"] is not None for one in answer["bindings"])
        assert len(bids) == 1 and bids <= set(used(answer)) if shared else bids == set(used(answer))
    elif done.reason is DropReason.RULE:
        assert answer["outcome"] == "it is dropped" and not used(answer)
    elif done.reason is DropReason.NO_TUNNEL:
        assert answer["outcome"] == "no link works: it is dropped" and not used(answer)
