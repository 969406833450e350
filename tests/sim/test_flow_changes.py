"""`mip6 flow` as a story: both ends have the new rules, or both have the old ones, and other flows are left alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Any

import pytest

from homeagent.engine import HomeAgent
from mip6.forward import Encapsulated, encapsulate
from mip6.headers import parse_packet
from mip6.lookup import Plain
from mip6.memory import Memory
from mip6.messages import decode_message
from mip6.options import FlowIdentification
from mip6.schedule import Schedule
from mip6.selectors import IPv6Selector
from mobilenode.engine import MobileNode
from mobilenode.settings import DROP, FlowSettings, copy, share, via
from tests.dataplane.test_reference import udp
from tests.sim.network import BOTH, FAIR, HOME, HOME_AGENT, MOBILE_NODE, NOON, PARTITION, Network, Weather, link

VOICE, PING = MOBILE_NODE.flows
MOVED = replace(VOICE, down=via("wlan0", "wwan0"))
WEB = FlowSettings(30, 30, "web", IPv6Selector(next_header=(6, 6)), share(wlan0=3, wwan0=1))


def registered(network: Network | None = None) -> Network:
    network = network or Network(1)
    network.observe(*BOTH)
    network.run(5)
    assert network.state() == "registered"
    return network


def here(network: Network) -> dict[int, Any]:
    """FID to BIDs and weights of the mobile node's rules."""
    node = network.mobile_node.forwarding_table().nodes[HOME]
    return {rule.fid: (rule.bids, rule.weights) for rule in node.rules}


def there(network: Network) -> dict[int, Any]:
    node = network.home_agent.forwarding_table().nodes[HOME]
    return {rule.fid: (rule.bids, rule.weights) for rule in node.rules}


OLD = {10: ((2,), ()), 20: ((2, 1), ())}


def test_a_flow_moves_at_both_ends_and_the_other_is_not_named() -> None:
    network = registered()
    number = network.change((MOVED, PING))
    assert here(network) == there(network) == OLD  # nothing before the home agent has agreed
    [arrival] = network.under_way()
    stated = decode_message(parse_packet(arrival).payload).find_all(FlowIdentification)
    assert [one.fid for one in stated] == [10]
    rule = network.home_agent.forwarding_table().nodes[HOME].rules[1]
    network.run(1)
    assert network.answers[number] == {"ok": True}
    assert here(network) == there(network) == OLD | {10: ((1,), ())}
    assert network.home_agent.forwarding_table().nodes[HOME].rules[1] == rule


def test_rules_are_added_and_deleted() -> None:
    network = registered()
    first = network.change((VOICE, PING, WEB))
    network.run(1)
    assert network.answers[first] == {"ok": True}
    assert here(network) == there(network) == OLD | {30: ((1, 2), (3, 1))}
    second = network.change((WEB,))
    network.run(1)
    assert network.answers[second] == {"ok": True}
    assert here(network) == there(network) == {30: ((1, 2), (3, 1))}


def test_without_an_answer_all_stays_as_it_was() -> None:
    network = registered()
    network.weather = PARTITION
    number = network.change((MOVED, PING), limit=5.0)
    network.run(4.9)
    assert number not in network.answers
    network.run(0.2)
    assert network.answers[number] == {"ok": False, "error": "the home agent did not answer within 5 s"}
    assert here(network) == there(network) == OLD
    network.weather = FAIR
    network.run(60)
    assert here(network) == there(network) == OLD


def test_a_change_that_only_the_home_agent_made_is_taken_back() -> None:
    network = registered()
    network.deaf = True  # what the home agent says is lost
    number = network.change((MOVED, PING), limit=3.0)
    network.run(2)
    assert there(network)[10] == ((1,), ()) and here(network) == OLD
    network.run(2)
    assert network.answers[number]["ok"] is False
    network.deaf = False
    network.run(60)
    assert here(network) == there(network) == OLD


@pytest.mark.parametrize("loss", [0.2, 0.5])
def test_on_a_bad_network_both_ends_come_to_the_same(loss: float) -> None:
    for seed in range(30):
        network = registered(Network(seed))
        network.weather = Weather(loss, 0.2, 1.0)
        number = network.change((MOVED, PING), limit=5.0)
        network.run(6)
        network.weather = FAIR
        network.run(60)
        assert here(network) == there(network) == (OLD | {10: ((1,), ())} if network.answers[number]["ok"] else OLD)


def test_a_home_agent_that_allows_no_flow_bindings_refuses_and_is_named() -> None:
    network = registered(Network(1, replace(HOME_AGENT, flow_bindings=False)))
    number = network.change((MOVED, PING))
    network.run(1)
    assert network.answers[number] == {
        "ok": False,
        "error": "the home agent refused voice (FID 10): ADMINISTRATIVELY_PROHIBITED",
    }
    assert here(network) == OLD


def test_a_rule_of_this_end_alone_needs_no_home_agent() -> None:
    network = registered()
    network.weather = PARTITION
    number = network.change((VOICE, PING, FlowSettings(30, 5, "never", WEB.selector, DROP)))
    assert network.answers[number] == {"ok": True} and here(network)[30] == ((), ())


def test_only_one_change_at_a_time() -> None:
    network = registered()
    network.change((MOVED, PING))
    with pytest.raises(ValueError, match="another change of the rules is under way"):
        network.change((VOICE, PING))
    network.asked.popitem()
    network.run(1)
    assert there(network)[10] == ((1,), ())


def test_a_change_while_no_link_is_there_is_refused_after_the_limit() -> None:
    network = registered()
    network.observe()
    number = network.change((MOVED, PING), limit=2.0)
    network.run(3)
    assert network.answers[number]["ok"] is False
    network.observe(*BOTH)
    network.run(5)
    assert here(network) == there(network) == OLD


def test_a_link_is_lost_while_a_change_is_under_way() -> None:
    network = registered()
    number = network.change((MOVED, copied := replace(PING, down=copy("wlan0", "wwan0"))))
    network.observe(link("wwan0", BOTH[1].addresses[0].address))
    network.run(2)
    assert network.answers[number] == {"ok": True} and copied.down.copy
    assert here(network) == there(network) == {10: ((2,), ()), 20: ((2,), ())}


def at(hour: int, minute: int) -> float:
    """Seconds from the beginning of a history until this time of its first evening (UTC)."""
    begin = datetime.fromtimestamp(NOON, UTC)
    return (begin.replace(hour=hour, minute=minute, second=0, microsecond=0) - begin).total_seconds()


def test_a_night_rule_begins_and_ends_to_the_second_at_both_ends() -> None:
    night = replace(MOVED, priority=5, fid=40, schedule=Schedule(time(22, 30), time(22, 45)))
    network = registered(Network(1, mobile_node=replace(MOBILE_NODE, flows=(VOICE, PING, night))))
    network.run(at(22, 30) - network.now - 0.001)
    assert 40 not in here(network) and 40 not in there(network)
    network.run(0.002)
    assert here(network)[40] == ((1,), ())
    network.run(0.1)
    assert there(network) == OLD | {40: ((1,), ())}
    network.run(at(22, 45) - network.now + 0.1)
    assert here(network) == there(network) == OLD


def test_a_clock_that_is_set_brings_the_night() -> None:
    night = replace(MOVED, priority=5, fid=40, schedule=Schedule(time(3), time(4)))
    network = registered(Network(1, mobile_node=replace(MOBILE_NODE, flows=(VOICE, PING, night), zone=UTC)))
    for home_agent in (True, False):
        network.jump_clock(at(3, 30) + 86400, home_agent=home_agent)
    network.run(1)
    assert here(network)[40] == ((1,), ()) and there(network) == OLD | {40: ((1,), ())}


def test_running_flows_stay_on_a_link_when_a_better_one_is_back() -> None:
    """At both ends: the flow that moved stays, a new one takes the better link."""
    rule = replace(VOICE, down=replace(via("wlan0", "wwan0"), stay=True))
    network = registered(Network(1, mobile_node=replace(MOBILE_NODE, flows=(rule,))))
    ends: tuple[MobileNode | HomeAgent, ...] = (network.mobile_node, network.home_agent)
    memories = [Memory() for _ in ends]

    def bid_of(port: int) -> list[int]:
        """The tunnel that a packet of this flow takes now: upwards, and downwards."""
        packets = (
            udp(src=str(HOME), dst="2001:db8:c::1", port=port),
            udp(src="2001:db8:c::1", dst=str(HOME), sport=port),
        )
        taken = []
        for end, memory, packet in zip(ends, memories, packets, strict=True):
            sent = encapsulate(Plain(end.forwarding_table()), packet, memory, 1, network.now)
            assert isinstance(sent, Encapsulated)
            taken.append(sent.copies[0].tunnel.bid)
        return taken

    assert bid_of(1) == [1, 1]
    network.observe(BOTH[1])
    network.run(2)
    assert bid_of(1) == bid_of(2) == [2, 2]
    network.observe(*BOTH)
    network.run(5)
    assert bid_of(1) == bid_of(2) == [2, 2] and bid_of(3) == [1, 1]
    network.run(61)  # silence: what comes now counts as new
    assert bid_of(1) == [1, 1]
