"""Random histories of both engines over a bad network, and a few that have names.

The seed is printed; `MIP6_SEED=4711 pytest tests/sim` plays that history first and the ones after it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import time
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest

from mip6.events import LinkState
from mip6.forwarding import IPAddress
from mip6.path import PathState
from mip6.schedule import Schedule
from mip6.selectors import IPv6Selector
from mobilenode.settings import DROP, FlowSettings, copy, share, via
from tests.sim.invariants import agree
from tests.sim.network import (
    AGENT4,
    BOTH,
    CELL,
    FAIR,
    HOME_AGENT,
    MOBILE_NODE,
    PARTITION,
    WLAN,
    Network,
    Weather,
    guarded_by_sequence,
    link,
)

HISTORIES = 2000
PROBED = 200  # histories with paths that fail
CHUNKS = 20
SEED = int(os.environ.get("MIP6_SEED", "0"))
LOG_LINES = 60  # of a failed history
QUIET = 100.0  # seconds beyond a lifetime, so that what is not refreshed has ended
BIDS = (1, 2, 101)  # of the paths that probes may be about
STRANGER = IPv6Address("2001:db8:bad::1")
ADDRESSES: dict[str, tuple[IPAddress, ...]] = {
    "wlan0": (WLAN, IPv6Address("2001:db8:a::2"), IPv6Address("2001:db8:aa::1")),
    "wwan0": (CELL,),
}
UDP, ICMPV6 = IPv6Selector(next_header=(17, 17)), IPv6Selector(next_header=(58, 58))
RULES = (
    FlowSettings(10, 10, "voice", UDP, via("wlan0", "wwan0")),
    FlowSettings(20, 20, "ping", ICMPV6, copy("wwan0", "wlan0")),
    FlowSettings(30, 30, "shared", UDP, share(wlan0=3, wwan0=1)),
    FlowSettings(40, 40, "ways", ICMPV6, via("wwan0"), up=via("wlan0")),
    FlowSettings(50, 50, "dropped", UDP, DROP),
    FlowSettings(60, 60, "soon", UDP, via("wwan0"), schedule=Schedule(time(22, 15), time(22, 20))),  # NOON is 22:13:20
)
INSIDE, INSIDE2, CELL4 = IPv4Address("10.0.0.2"), IPv4Address("10.0.1.2"), IPv4Address("10.0.0.3")
HOME4 = IPv4Address("192.0.2.5")
WITH_IPV4: dict[str, tuple[IPAddress, ...]] = {
    "wlan0": (*ADDRESSES["wlan0"], INSIDE, INSIDE2),
    "wwan0": (CELL, CELL4),
}
AT_HOME = link("wlan0", IPv6Address("2001:db8:100::abcd"), router=False)


def build(seed: int) -> Network:
    """Two ends whose settings the seed decides."""
    chance = Random(seed)
    home_agent = replace(
        HOME_AGENT,
        multiple_bindings=chance.random() > 0.1,
        bulk_registration=chance.random() > 0.3,
        flow_bindings=chance.random() > 0.2,
        refresh_advice=chance.choice((0, 0, 40)),
        max_lifetime=chance.choice((3600, 60, 300)),
    )
    mobile_node = MOBILE_NODE
    if chance.random() < 0.5:
        udp = chance.choice(("allow", "allow", "force", "refuse"))
        home_agent = replace(home_agent, ipv4_address=AGENT4, udp_encapsulation=udp)
        mobile_node = replace(mobile_node, home_agents_ipv4=(AGENT4,), ipv4_home_address=IPv4Address(0))
        if chance.random() < 0.7:
            nodes = tuple(replace(one, ipv4_home_address=HOME4) for one in home_agent.nodes)
            home_agent = replace(home_agent, nodes=nodes)
    if chance.random() < 0.3:
        home_agent, mobile_node = guarded_by_sequence(home_agent, mobile_node)
    return Network(seed, home_agent, mobile_node, mobile_clock=chance.choice((0, 0, 0, 100, -100)))


def some_links(network: Network, chance: Random, *, every: bool = False) -> list[LinkState]:
    """Links with some of their addresses; now and then the first of them is the home link."""
    found = []
    ipv4 = bool(network.mobile_settings.home_agents_ipv4)
    for name, addresses in (WITH_IPV4 if ipv4 else ADDRESSES).items():
        if every or chance.random() < 0.7:
            found.append(link(name, *([one for one in addresses if chance.random() < 0.6] or addresses[:1])))
    if not every and found and chance.random() < 0.15:
        found[0] = AT_HOME
    return found


def play(network: Network, chance: Random, probing: Random | None = None) -> None:
    """A random history, then quiet time with both links up. With `probing`, probes of both ends now and then say that
    a path is in another state; in the end that all are good."""
    network.weather = Weather(chance.choice((0, 0.1, 0.4)), chance.choice((0, 0.2)), chance.choice((0.1, 1, 5)))
    bad = network.weather
    for _ in range(chance.randrange(1, 12)):
        what = chance.random()
        if what < 0.6:
            network.observe(*some_links(network, chance))
        elif what < 0.7:
            network.restart_home_agent(with_store=chance.random() < 0.6)
        elif what < 0.76:
            network.restart_mobile_node()
        elif what < 0.82:
            if not network.asked:
                network.change(tuple(chance.sample(RULES, chance.randrange(len(RULES) + 1))))
        elif what < 0.86:
            network.revoke()
        elif what < 0.9:
            network.forge(STRANGER)
        elif what < 0.92:
            network.nat.rebind(chance.choice((None, IPv4Address("198.51.100.77"))))
        elif what < 0.95:
            network.weather = PARTITION if network.weather is bad else bad
        else:
            network.jump_clock(chance.choice((-100, 0, 100)), home_agent=chance.random() < 0.5)
        if probing is not None:
            for _ in range(probing.randrange(4)):
                network.path(probing.choice(BIDS), probing.choice(list(PathState)), home_agent=probing.random() < 0.4)
                network.run(probing.choice((0, 0.1, 0.3)))
        network.run(chance.choice((0.1, 1, 5, 60, 400)))
    network.weather = FAIR
    for bid in BIDS if probing is not None else ():
        network.path(bid, PathState.UP, home_agent=False)
        network.path(bid, PathState.UP, home_agent=True)
    network.observe(*some_links(network, chance, every=True))
    settle(network)
    assert network.reachable(), f"nothing reaches {network.bindings()}"


def settle(network: Network) -> None:
    """Quiet time, after which both ends agree."""
    lifetime = min(network.mobile_settings.lifetime, network.settings.max_lifetime)
    network.run(lifetime + QUIET)
    agree(network.home_agent, network.mobile_node, network.settings, network.now)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_histories(chunk: int) -> None:
    count = HISTORIES // CHUNKS
    first = SEED + chunk * count
    print(f"seeds {first} to {first + count - 1}")
    for seed in range(first, first + count):
        replay(seed)


def replay(seed: int) -> None:
    """Play the history of this seed; AssertionError tells it when it fails."""
    network = build(seed)
    try:
        play(network, Random(seed + 1))
    except Exception as error:
        story = network.story(LOG_LINES)
        raise AssertionError(f"seed {seed} at {network.now:.3f} s: {error!r}\n{story}") from error


@pytest.mark.parametrize("chunk", range(PROBED // 40))
def test_random_histories_with_paths_that_fail(chunk: int) -> None:
    """Silent losses as the engines hear of them; without IPv4, whose own histories are above."""
    first = SEED + chunk * 40
    print(f"seeds {first} to {first + 39}")
    for seed in range(first, first + 40):
        network = build(seed)
        plain = replace(network.settings, ipv4_address=None, udp_encapsulation="refuse")
        network = Network(seed, plain, replace(network.mobile_settings, home_agents_ipv4=()))
        try:
            play(network, Random(seed + 1), Random(seed + 2))
        except Exception as error:
            story = network.story(LOG_LINES)
            raise AssertionError(f"seed {seed} at {network.now:.3f} s: {error!r}\n{story}") from error


@pytest.mark.parametrize("seed", [100481, 101132])
def test_flows_that_are_refused_do_not_take_the_turn_of_a_refresh(seed: int) -> None:
    """The home agent has forgotten a BID that is due for its refresh, and refuses the flows that name it."""
    replay(seed)


def registered() -> Network:
    """A mobile node with both links registered."""
    network = Network(1)
    network.observe(*BOTH)
    network.run(5)
    assert network.care_of_addresses() == {str(WLAN), str(CELL)}
    return network


@pytest.mark.parametrize("with_store", [True, False])
def test_home_agent_restarts_in_mid_handoff(with_store: bool) -> None:
    network = registered()
    new = IPv6Address("2001:db8:aa::1")
    network.observe(link("wlan0", new), link("wwan0", CELL))
    network.restart_home_agent(with_store=with_store)  # the Binding Update is under way
    assert network.care_of_addresses() == ({str(WLAN), str(CELL)} if with_store else set())
    network.run(MOBILE_NODE.lifetime + QUIET)
    assert network.care_of_addresses() == {str(new), str(CELL)}
    agree(network.home_agent, network.mobile_node, network.settings, network.now)


def test_a_partition_longer_than_the_lifetime_ends_all_bindings_and_heals() -> None:
    network = registered()
    network.weather = PARTITION
    network.run(MOBILE_NODE.lifetime + 1)
    assert network.care_of_addresses() == set()
    assert network.state() == "registering"
    network.weather = FAIR
    network.run(60)  # MAX_BINDACK_TIMEOUT is 32 s
    assert network.care_of_addresses() == {str(WLAN), str(CELL)}
    agree(network.home_agent, network.mobile_node, network.settings, network.now)


def test_a_revocation_that_crosses_a_binding_update() -> None:
    network = registered()
    network.observe(link("wlan0", WLAN))  # says so with a Binding Update ...
    network.revoke()  # ... that meets the Binding Revocation Indication on its way
    network.run(1)
    assert not network.care_of_addresses()
    network.observe(*BOTH)
    network.run(MOBILE_NODE.lifetime + QUIET)
    agree(network.home_agent, network.mobile_node, network.settings, network.now)


def test_nobody_registers_without_the_key() -> None:
    network = registered()
    network.forge(STRANGER)
    network.run(1)
    assert network.care_of_addresses() == {str(WLAN), str(CELL)}
    assert network.home_agent.status(network.now)["signalling"]["refused_146"] == 1
