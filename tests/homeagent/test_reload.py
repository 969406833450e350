"""The home agent is told other nodes, keys, prefixes and limits while it runs; bindings of all others stay."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from homeagent.reload import needs_restart
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.actions import KernelChanged, SendPacket, StoreNode
from mip6.auth import Algorithm, SecurityAssociation
from mip6.numbers import BindingStatus
from mip6.options import MobileNetworkPrefix
from tests.homeagent.support import AHR, CELLULAR, HOME, HOST, KEY, PREFIX, ROUTER, SETTINGS, WLAN, Script, U, bid

NEW_KEY = SecurityAssociation(5000, Algorithm.HMAC_SHA256, bytes(range(32)))
OTHER = IPv6Network("2001:db8:e00::/56")
BIND = AHR & ~U.MOBILE_ROUTER
NEW = NodeSettings(IPv6Address("2001:db8:100::7"), "new@example.com", associations=(NEW_KEY,))


def registered() -> Script:
    script = Script()
    script.update(bid(1, WLAN), bid(2, CELLULAR), MobileNetworkPrefix(PREFIX.prefixlen, PREFIX.network_address))
    return script


def reconfigure(script: Script, *nodes: NodeSettings, **other: Any) -> list[object]:
    return list(script.agent.reconfigure(replace(SETTINGS, nodes=nodes, **other), script.now))


def table(script: Script) -> Any:
    return script.agent.forwarding_table().nodes


def test_a_new_node_registers_and_the_bindings_of_others_are_the_same() -> None:
    script = registered()
    before = table(script)[HOME]
    done = reconfigure(script, ROUTER, HOST, NEW)
    assert table(script)[HOME] is before
    assert KernelChanged() in done and not any(isinstance(one, StoreNode | SendPacket) for one in done)
    new = Script(node=NEW, association=NEW_KEY)
    new.agent, new.now = script.agent, script.now
    assert new.update(bid(1, WLAN), flags=BIND).status == BindingStatus.ACCEPTED
    assert set(table(script)) == {HOME, NEW.home_address}


def test_a_node_that_is_gone_is_forgotten_and_gets_no_answer() -> None:
    script = registered()
    done = reconfigure(script, HOST)
    assert table(script) == {}
    assert [one.record for one in done if isinstance(one, StoreNode)][-1] is None
    assert script.give(script.packet(bid(1, WLAN))) and not any(isinstance(one, SendPacket) for one in script.seen)


def test_a_changed_key_counts_from_the_next_binding_update() -> None:
    script = registered()
    reconfigure(script, replace(ROUTER, associations=(NEW_KEY,)), HOST)
    assert len(table(script)[HOME].tunnels) == 2
    assert not any(isinstance(one, SendPacket) for one in script.give(script.packet(bid(1, WLAN), association=KEY)))
    assert script.update(bid(1, WLAN), association=NEW_KEY).status < 128


def test_a_prefix_that_was_taken_away_ends_at_once_and_is_stored_so() -> None:
    script = registered()
    assert PREFIX in table(script)[HOME].prefixes
    done = reconfigure(script, replace(ROUTER, prefixes=(OTHER,)), HOST)
    assert PREFIX not in table(script)[HOME].prefixes and len(table(script)[HOME].tunnels) == 2
    [stored] = [one for one in done if isinstance(one, StoreNode)]
    assert stored.record is not None and stored.record["prefixes"] == []
    option = MobileNetworkPrefix(OTHER.prefixlen, OTHER.network_address)
    assert script.update(bid(1, WLAN), bid(2, CELLULAR), option).status < 128
    assert OTHER in table(script)[HOME].prefixes


def test_a_shorter_lifetime_counts_from_the_next_binding_update() -> None:
    script = registered()
    reconfigure(script, ROUTER, HOST, max_lifetime=60)
    left = [one["lifetime"] for one in script.agent.status(script.now)["nodes"][0]["bindings"]]
    assert left == [600, 600]
    assert script.update(bid(1, WLAN), bid(2, CELLULAR)).lifetime == 60


def test_a_restart_with_another_prefix_table_restores_what_is_still_the_nodes() -> None:
    script = registered()
    [record] = [one.record for one in script.seen if isinstance(one, StoreNode)]
    assert record is not None
    after = Script(settings=replace(SETTINGS, nodes=(replace(ROUTER, prefixes=(OTHER,)), HOST)))
    after.agent.restore({HOME: record}, after.now)
    assert len(table(after)[HOME].tunnels) == 2 and table(after)[HOME].prefixes == ()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"nodes": (HOST,), "max_lifetime": 60, "flow_bindings": False, "preference": 3}, []),
        ({"address": IPv6Address("2001:db8:100::2"), "nodes": ()}, ["address"]),
        ({"device": "mip1", "mtu": 1400}, ["mtu", "device"]),
    ],
)
def test_what_needs_a_restart_is_named(change: dict[str, Any], names: list[str]) -> None:
    new: HomeAgentSettings = replace(SETTINGS, **change)
    assert sorted(needs_restart(SETTINGS, new)) == sorted(names)
