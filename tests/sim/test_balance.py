"""Load balancing as a story: both ends' weights follow the load that the mobile node measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mip6.events import LinkMeasured, LoadMeasured, PathMeasured
from mip6.headers import parse_packet
from mip6.messages import BindingUpdate, decode_message
from mip6.options import FlowIdentification
from mip6.selectors import IPv6Selector
from mip6.suboptions import BindingReference
from mobilenode.settings import FlowSettings, balance, share
from tests.sim.network import BOTH, HOME, HOME_AGENT, MOBILE_NODE, Network

WEB = FlowSettings(30, 30, "web", IPv6Selector(next_header=(6, 6)), balance(wlan0=1, wwan0=1))
BALANCED = replace(MOBILE_NODE, flows=(WEB,))


class Measuring:
    """A registered mobile node whose links carry what a story says, in Mbit/s down, measured every second."""

    def __init__(self, network: Network) -> None:
        self.network = network
        network.observe(*BOTH)
        network.run(5)
        assert network.state() == "registered"
        self._octets = {"wlan0": 0, "wwan0": 0}
        self.updates = 0

    def run(self, seconds: int, lost: float = 0.0, queue: float = 0.0, **down: float) -> None:
        for _ in range(seconds):
            for name, rate in down.items():
                self._octets[name] += round(rate * 125_000)
            links = tuple(LinkMeasured(name, octets // 400, octets) for name, octets in self._octets.items())
            paths = (PathMeasured(1, 0.0, lost, 0.0, queue), PathMeasured(2, 0.0, 0.0, 0.0, 0.0))
            self.network.to_mobile_node(LoadMeasured(links, paths))
            self.updates += sum(isinstance(_message(one), BindingUpdate) for one in self.network.under_way())
            self.network.run(1)

    def weights(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the mobile node and of the home agent, for BIDs 1 and 2."""
        return _weights(self.network.mobile_node), _weights(self.network.home_agent)


def _message(packet: bytes) -> Any:
    return decode_message(parse_packet(packet).payload)


def _weights(engine: Any) -> tuple[int, ...]:
    [rule] = [one for one in engine.forwarding_table().nodes[HOME].rules if one.fid == 30]
    assert rule.bids in ((1, 2), (1,))
    return tuple(rule.weights)


def test_downloads_on_one_link_send_new_ones_to_the_other() -> None:
    """What comes down is no load upwards: only the home agent's weights change."""
    story = Measuring(Network(1, mobile_node=BALANCED))
    assert story.weights() == ((1, 1), (1, 1))
    story.run(20, wlan0=18.0, wwan0=1.0)
    up, down = story.weights()
    assert up == (1, 1) and down[1] == 100 and down[0] < 60


def test_a_lossy_path_is_avoided_and_taken_again_when_it_is_good() -> None:
    story = Measuring(Network(1, mobile_node=BALANCED))
    story.run(20, lost=0.2)
    assert story.weights()[1] == (5, 100)
    story.run(60)
    assert story.weights()[1] == (100, 100)


def test_weights_cost_no_more_than_twelve_binding_updates_a_minute() -> None:
    story = Measuring(Network(1, mobile_node=BALANCED))
    for _ in range(30):
        story.run(2, queue=0.3)
        story.run(2)
    assert 12 <= story.updates <= 24


def test_without_change_nothing_is_sent() -> None:
    story = Measuring(Network(1, mobile_node=BALANCED))
    story.run(60, wlan0=5.0, wwan0=4.5)
    assert story.updates == 0


def test_a_home_agent_without_the_extension_is_told_once_and_gets_one_stable_link() -> None:
    """It cannot share: to hear of the load would make it move running flows."""
    story = Measuring(Network(1, replace(HOME_AGENT, enterprise=1), BALANCED))
    story.run(60, wlan0=18.0, lost=0.2)
    assert story.updates == 0
    assert story.weights()[1] == ()
    [flow] = story.network.home_agent.status(story.network.now)["nodes"][0]["flows"]
    assert flow["bids"] == [1]


def test_the_binding_reference_stays_though_the_weights_turn() -> None:
    story = Measuring(Network(1, mobile_node=BALANCED))
    story.network.to_mobile_node(LoadMeasured((LinkMeasured("wlan0", 0, 0), LinkMeasured("wwan0", 0, 0)), ()))
    story.network.run(11)
    links = (LinkMeasured("wlan0", 0, 0), LinkMeasured("wwan0", 0, 0))
    story.network.to_mobile_node(LoadMeasured(links, (PathMeasured(1, 0.0, 0.5, 0.0, 0.0),)))
    [packet] = story.network.under_way()
    [flow] = _message(packet).find_all(FlowIdentification)
    [reference] = [one for one in flow.suboptions if isinstance(one, BindingReference)]
    assert reference.bids == (1,)
    story.network.run(1)
    assert story.weights()[1] == (2, 100)


def test_fixed_weights_stay_fixed() -> None:
    fixed = replace(WEB, down=share(wlan0=3, wwan0=1))
    story = Measuring(Network(1, mobile_node=replace(MOBILE_NODE, flows=(fixed,))))
    assert not story.network.mobile_node.balances()
    story.run(20, wlan0=18.0, lost=0.3)
    assert story.weights() == ((3, 1), (3, 1))


def test_explain_and_status_say_why() -> None:
    story = Measuring(Network(1, mobile_node=BALANCED))
    story.run(20, wlan0=18.0, lost=0.2)
    answer = story.network.mobile_node.explain(
        {"source": "2001:db8:c::1", "destination": str(HOME), "protocol": "tcp", "source_port": 80}
        | {"destination_port": 5000}
    )
    wlan, cell = answer["bindings"]
    assert (wlan["weight"], cell["weight"]) == story.weights()[1]
    assert "carries 18.0 of 36.0 Mbit/s, 20.0 % lost: factor" in wlan["why"]
    status = story.network.mobile_node.status(story.network.now)
    assert status["bindings"][0]["load"]["down"]["loss_percent"] == 20.0
    assert status["flows"][0]["down_weights"] == list(story.weights()[1])
