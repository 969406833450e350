"""Movement: which addresses become care-of addresses, and what happens when links come and go."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

from mip6.actions import AnnounceNeighbour, ForwardingChanged, LocalAddress, Report, Route, Rule, SendPacket
from mip6.events import AddressState, LinkState, PathMtuChanged, RouterState
from mip6.forwarding import IPAddress
from mip6.selectors import IPv6Selector
from mobilenode.access import REMEMBERED, Access
from mobilenode.movement import Way, care_of_addresses
from mobilenode.settings import DROP, FlowSettings, copy, via
from tests.mobilenode.support import (
    AGENT,
    BOTH,
    CELL,
    HOME,
    ROUTER,
    SETTINGS,
    VOICE,
    WLAN,
    World,
    link,
    registered,
    with_flows,
)

OTHER = IPv6Address("2001:db8:aa::77")
AT_HOME = link("wlan0", IPv6Address("2001:db8:100::abcd"))


IPV6 = {"wlan0": Way(), "wwan0": Way()}


def chosen(*states: AddressState | IPv6Address) -> dict[int, IPAddress]:
    return {one.bid: one.address for one in care_of_addresses((link("wlan0", *states),), SETTINGS, (), 0.0, IPV6)}


def test_one_care_of_address_per_prefix() -> None:
    assert chosen(WLAN, OTHER, IPv6Address("2001:db8:a::1")) == {1: IPv6Address("2001:db8:a::1"), 101: OTHER}


def test_a_router_with_many_prefixes_displaces_no_other_link_and_ends_nothing() -> None:
    many = [IPv6Address(int(WLAN) + (n << 64)) for n in range(90)]
    world = World()
    world.links(link("wlan0", *many), BOTH[1])
    assert set(world.sent[-1].bids()) == {*range(1, 1501, 100), 2}
    world.answer()
    (said,) = [one for one in world.actions if isinstance(one, Report) and one.level == "warning"]
    assert said.fields["registered"] == 16 and str(many[15]) in said.fields["care_of_addresses"]  # type: ignore[operator]
    assert not [one for one in world.links(link("wlan0", *many), BOTH[1]) if isinstance(one, Report)]


def test_addresses_that_cannot_be_used() -> None:
    assert chosen(AddressState(WLAN, 64, tentative=True)) == {}
    assert chosen(AddressState(WLAN, 64, dad_failed=True)) == {}
    assert chosen(AddressState(WLAN, 64, valid_lifetime=0)) == {}
    assert chosen(AddressState(WLAN, 64, temporary=True, valid_lifetime=0.0)) == {}
    assert chosen(IPv6Address("fe80::77")) == {} and chosen(HOME) == {}
    assert chosen(IPv6Address("2001:db8:f00::1")) == {}  # of the mobile network


def test_deprecated_and_temporary_addresses_serve_where_there_is_nothing_better() -> None:
    old = AddressState(WLAN, 64, deprecated=True)
    temporary = AddressState(IPv6Address("2001:db8:a::dead"), 64, temporary=True)
    assert chosen(old) == {1: WLAN}
    assert chosen(old, OTHER) == {1: OTHER}
    assert chosen(temporary) == {1: temporary.address}
    assert chosen(temporary, WLAN) == {1: WLAN}
    assert chosen(temporary, old) == {1: temporary.address}


def test_a_link_without_carrier_or_router_is_not_used() -> None:
    for bad in (link("wlan0", WLAN, up=False), link("wlan0", WLAN, router=False), link("eth7", WLAN)):
        assert care_of_addresses((bad,), SETTINGS, (), 0.0, IPV6) == ()


def test_an_address_keeps_its_bid_and_table_while_it_stays() -> None:
    first = care_of_addresses((link("wlan0", WLAN, OTHER),), SETTINGS, (), 0.0, IPV6)
    second = care_of_addresses((link("wlan0", OTHER),), SETTINGS, first, 0.0, IPV6)
    assert [(one.bid, one.table) for one in first] == [(1, 1000), (101, 1002)]
    assert second == first[1:]
    third = care_of_addresses((link("wlan0", OTHER, WLAN),), SETTINGS, second, 0.0, IPV6)
    assert third == first


def test_the_preferred_router_is_used() -> None:
    better = IPv6Address("fe80::2")
    wlan = replace(BOTH[0], routers=(RouterState(ROUTER), RouterState(better, 1)))
    assert care_of_addresses((wlan,), SETTINGS, (), 0.0, IPV6)[0].router == better


def test_kernel_state_away() -> None:
    state = registered().engine.kernel_state()
    assert state.addresses == (LocalAddress(HOME, "mip0"),)
    assert [(one.source, one.table) for one in state.rules] == [(WLAN, 1000), (CELL, 1001)]
    assert len({one.priority for one in state.rules}) == 1 and isinstance(state.rules[0], Rule)
    found = {(str(one.destination), one.device, one.gateway, one.table) for one in state.routes}
    assert found == {
        ("2001:db8:a::/64", "wlan0", None, 1000),
        ("::/0", "wlan0", ROUTER, 1000),
        ("2001:db8:b::/64", "wwan0", None, 1001),
        ("::/0", "wwan0", ROUTER, 1001),
        ("::/0", "mip0", None, 254),
    }
    main = next(one for one in state.routes if one.table == 254)
    assert isinstance(main, Route) and main.source == HOME and main.metric == 64


def test_a_lost_link_is_left_at_once_and_deregistered_over_one_that_works() -> None:
    settings = with_flows(replace(VOICE, down=via("wlan0", "wwan0")))
    world = registered(settings)
    actions = world.links(BOTH[1])
    assert isinstance(actions[1], ForwardingChanged)
    assert [one.bid for one in world.node().tunnels] == [2] and world.usable() == [2]
    assert world.node().rules[0].bids == (2,)
    sent = world.sent[-1]
    assert sent.time == world.now and sent.interface == "wwan0" and sent.packet.source == CELL
    assert sent.overwrites() and sent.bids() == {2: CELL} and sent.flows() == {10: (2,)}
    assert world.binding(1) == "down"


def test_a_link_that_returns_carries_nothing_before_the_home_agent_knows_it() -> None:
    world = registered(with_flows(replace(VOICE, down=via("wlan0", "wwan0"))))
    world.links(BOTH[1])
    world.answer()
    world.run(5)
    world.links(*BOTH)
    assert [(one.bid, one.usable) for one in world.node().tunnels] == [(1, False), (2, True)]
    assert world.node().rules[0].bids == (2,) and world.sent[-1].flows() == {10: (1,)}
    world.answer()
    assert world.usable() == [1, 2] and world.node().rules[0].bids == (1,)


def test_a_changed_address_under_a_bid_is_registered_at_once() -> None:
    world = registered()
    new = IPv6Address("2001:db8:a::99")
    world.links(link("wlan0", new), BOTH[1])
    assert world.sent[-1].bids() == {1: new, 2: CELL} and world.usable() == [2]
    world.answer()
    assert world.usable() == [1, 2] and world.node().tunnels[0].local == new


def test_all_links_lost_and_one_back() -> None:
    world = registered()
    world.links()
    assert world.state() == "no_link" and world.node().tunnels == () and len(world.sent) == 1
    world.run(20)
    assert len(world.sent) == 1
    world.links(BOTH[1])
    assert len(world.sent) == 2 and world.sent[1].bids() == {2: CELL}
    world.answer()
    assert world.state() == "registered"


def test_a_flow_without_any_link_rests_at_the_home_agent() -> None:
    world = registered(with_flows(replace(VOICE, down=via("wwan0"))))
    world.links(BOTH[0])
    assert world.sent[-1].flows() == {} and world.sent[-1].summary() == (10,)
    assert world.node().rules[0].bids == ()
    world.answer()
    world.links(*BOTH)
    assert world.sent[-1].summary() == (10,)  # the home agent knows it as it is
    world.answer()
    assert world.node().rules[0].bids == (2,)


def test_copies_go_over_all_links_and_drop_rules_stay_at_home() -> None:
    everything = FlowSettings(20, 5, "both", IPv6Selector(next_header=(58, 58)), copy("wwan0", "wlan0"))
    never = FlowSettings(30, 1, "never", IPv6Selector(destination_port=(25, 25)), DROP)
    world = registered(with_flows(VOICE, everything, never))
    assert world.sent[0].flows() == {20: (2, 1), 10: (2,)}
    assert [(one.fid, one.drop, one.bids) for one in world.node().rules] == [
        (30, True, ()),
        (20, False, (2, 1)),
        (10, False, (2,)),
    ]


def test_more_flows_than_one_packet_holds_follow_in_the_next() -> None:
    flows = [
        FlowSettings(fid, fid, str(fid), IPv6Selector(source=(CELL, IPv6Address(int(CELL) + fid))), via("wlan0"))
        for fid in range(1, 61)
    ]
    world = World(with_flows(*flows))
    world.links(*BOTH)
    seen: set[int] = set()
    for _ in range(10):
        sent = world.sent[-1]
        assert seen <= {*sent.flows(), *sent.summary()}  # nothing that was registered is left out
        seen |= set(sent.flows())
        world.answer()
        world.run(0.9)
    assert seen == set(range(1, 61))
    count = len(world.sent)
    world.run(100)
    assert len(world.sent) == count


def test_the_tunnel_mtu_follows_the_path_and_forgets() -> None:
    settings = replace(SETTINGS, links=(replace(SETTINGS.links[0], mtu=1400), SETTINGS.links[1]))
    world = registered(settings)

    def mtus() -> list[int]:
        return [one.mtu for one in world.node().tunnels]

    assert mtus() == [1360, 1460]
    world.give(PathMtuChanged(CELL, AGENT, 1300))
    assert mtus() == [1360, 1260]
    world.give(PathMtuChanged(CELL, AGENT, 1350))  # larger than known: no news
    world.give(PathMtuChanged(WLAN, AGENT, 600))
    world.give(PathMtuChanged(WLAN, OTHER, 500))
    assert mtus() == [1240, 1260]
    world.run(299)
    world.answer()
    world.run(302)
    assert mtus() == [1360, 1460]


def test_parts_of_the_table_that_did_not_change_are_the_same_objects() -> None:
    world = registered()
    before = world.node().tunnels[1]
    world.links(BOTH[1])
    assert world.node().tunnels[0] is before
    table = world.engine.forwarding_table()
    world.links(BOTH[1])
    assert world.engine.forwarding_table() is table


def test_returning_home_and_leaving_again() -> None:
    world = registered()
    world.links(AT_HOME, BOTH[1])
    sent = world.sent[-1]
    assert sent.update.lifetime == 0 and sent.packet.source == HOME and sent.packet.home_address is None
    assert sent.interface == "wlan0" and world.state() == "registering"
    # what the home agent sends until it has heard of it is taken
    assert [(one.bid, one.usable) for one in world.node().tunnels] == [(2, False)] and world.node().rules == ()
    kernel = world.engine.kernel_state()
    assert kernel.addresses == (LocalAddress(HOME, "wlan0"),) and not any(one.table == 254 for one in kernel.routes)
    assert not any(isinstance(one, AnnounceNeighbour) for one in world.actions)
    actions = world.answer()
    assert AnnounceNeighbour(HOME, "wlan0", True) in actions and world.state() == "at_home"
    assert world.node().tunnels == ()
    home_again = replace(AT_HOME, addresses=(*AT_HOME.addresses, AddressState(HOME, 128)))
    world.links(home_again, BOTH[1])  # the home address on the link changes nothing
    world.run(1000)
    assert len(world.sent) == 2
    world.links(*BOTH)
    assert world.sent[2].bids() == {1: WLAN, 2: CELL} and world.sent[2].overwrites()
    world.answer()
    assert world.state() == "registered" and world.usable() == [1, 2]


def test_starting_at_home_where_nothing_was_bound() -> None:
    world = World()
    world.links(AT_HOME)
    assert world.sent[0].update.lifetime == 0
    actions = world.answer(status=133)
    assert world.state() == "at_home" and any(isinstance(one, AnnounceNeighbour) for one in actions)
    assert not any(isinstance(one, SendPacket) for one in world.links(AT_HOME))


def expiring(address: IPv6Address, seconds: float) -> AddressState:
    return AddressState(address, 64, valid_lifetime=seconds)


def test_no_registration_outlives_a_care_of_address() -> None:
    """RFC 6275 §11.7.1."""
    world = World()
    world.links(link("wlan0", expiring(WLAN, 101)), link("wwan0", CELL))
    assert world.sent[-1].update.lifetime == 100
    world.answer(lifetime=100)
    world.links(link("wlan0", expiring(WLAN, 86400)), link("wwan0", CELL))  # a router advertisement renewed it
    assert len(world.sent) == 1  # nothing to say before the refresh
    world.run(76)
    assert world.sent[-1].update.lifetime == SETTINGS.lifetime


def test_a_care_of_address_that_nobody_renews_is_deregistered_before_it_ends() -> None:
    world = World()
    world.links(link("wlan0", expiring(WLAN, 101)), link("wwan0", CELL))
    while world.now < 92.9:
        if world.sent[-1].update.lifetime:
            world.answer(lifetime=world.sent[-1].update.lifetime)
        deadline = world.engine.next_deadline()
        assert deadline is not None
        world.run(min(deadline[0], 92.9) - world.now)
        assert world.sent[-1].time + world.sent[-1].update.lifetime <= 101
    before = len(world.sent)
    assert before < 8  # nearer and nearer to the end, but not without bound
    world.run(0.2)
    assert world.sent[-1].bids() == {2: CELL} and world.sent[-1].overwrites()
    assert world.sent[-1].update.lifetime == SETTINGS.lifetime
    assert world.usable() == [2]


FIRST, SECOND = IPv6Address("2001:db8:1::5"), IPv6Address("2001:db8:2::5")
R1, R2 = IPv6Address("fe80::1:1"), IPv6Address("fe80::2:2")


def one_link(*routers: RouterState, **advertised: tuple[IPv6Address, ...]) -> LinkState:
    """A link with an address of each of two prefixes, and who was heard to advertise each."""
    states = [
        AddressState(address, 64, advertised_by=advertised.get(name, ()))
        for name, address in (("first", FIRST), ("second", SECOND))
    ]
    return replace(link("wlan0", *states), routers=routers)


def care_of(observed: LinkState) -> dict[IPAddress, tuple[IPAddress, int]]:
    """Router and BID-PRI of each care-of address."""
    found = care_of_addresses((observed,), SETTINGS, (), 0.0, {"wlan0": Way()})
    return {one.address: (one.router, one.priority) for one in found}


def test_packets_from_an_address_go_by_a_router_that_advertised_its_prefix() -> None:
    both = one_link(RouterState(R1), RouterState(R2), first=(R1,), second=(R2,))
    assert care_of(both) == {FIRST: (R1, 10), SECOND: (R2, 10)}


def test_a_less_preferred_router_makes_its_addresses_less_preferred() -> None:
    both = one_link(RouterState(R1, -1), RouterState(R2), first=(R1,), second=(R2,))
    assert care_of(both) == {FIRST: (R1, 11), SECOND: (R2, 10)}


def test_an_address_whose_routers_have_withdrawn_is_left_while_another_has_its_own() -> None:
    assert care_of(one_link(RouterState(R1), first=(R1,), second=(R2,))) == {FIRST: (R1, 10)}
    assert care_of(one_link(RouterState(R1), first=(R2,), second=(R2,))) == {FIRST: (R1, 10), SECOND: (R1, 10)}


def test_until_a_router_is_heard_the_best_one_serves_all() -> None:
    both = one_link(RouterState(R1), RouterState(R2, 1))
    assert care_of(both) == {FIRST: (R2, 10), SECOND: (R2, 10)}


def test_a_withdrawn_address_stays_registered_for_what_is_under_way_but_takes_nothing_new() -> None:
    """Its router forwards until the home agent has heard of it: two seconds, then it is deregistered."""
    both = one_link(RouterState(R1), RouterState(R2, 1), first=(R1,), second=(R2,))
    world = World(with_flows(replace(VOICE, down=via("wlan0"))))
    world.links(both)
    world.answer()
    assert [one.bid for one in world.node().tunnels] == [101, 1] and world.sent[-1].flows() == {10: (101,)}
    withdrawn = one_link(RouterState(R1), first=(R1,), second=(R2,))
    world.run(1.5)
    world.links(withdrawn)
    assert world.sent[-1].bids() == {1: FIRST, 101: SECOND} and world.sent[-1].flows() == {10: (1,)}
    assert [one.bid for one in world.node().tunnels] == [1, 101] and world.node().rules[0].bids == (1,)
    world.answer()
    world.run(1.9)
    world.links(withdrawn)  # seen again, which does not begin it anew
    assert len(world.node().tunnels) == 2
    world.run(0.2)
    assert world.sent[-1].bids() == {1: FIRST} and [one.bid for one in world.node().tunnels] == [1]
    world.answer()
    world.links(withdrawn)
    world.run(5)
    assert world.sent[-1].bids() == {1: FIRST}
    world.links(both)
    assert world.sent[-1].bids() == {1: FIRST, 101: SECOND}


def test_an_address_that_is_gone_or_the_only_one_does_not_linger() -> None:
    both = one_link(RouterState(R1), RouterState(R2), first=(R1,), second=(R2,))
    world = World()
    world.links(both)
    world.answer()
    world.run(1.5)
    world.links(replace(both, addresses=both.addresses[:1], routers=(RouterState(R1),)))
    assert world.sent[-1].bids() == {1: FIRST}
    world.links(replace(both, addresses=both.addresses[:1], routers=()))
    assert world.state() == "no_link"


def test_networks_that_were_visited_are_forgotten_in_the_end() -> None:
    access = Access(SETTINGS)
    for number in range(2 * REMEMBERED):
        access.observe([link("wlan0", IPv6Address(int(WLAN) + (number << 64)))])
        assert access.chosen().keys() == {"wlan0"}
    assert len(access._memories) == REMEMBERED
