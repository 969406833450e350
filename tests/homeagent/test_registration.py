"""The home agent's ladder: each refusal with its own status, and nothing changed by it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest

from homeagent.engine import HomeAgent
from homeagent.settings import NodeSettings
from mip6 import actions, events
from mip6.auth import ntp_timestamp
from mip6.numbers import AckFlag, BindingStatus, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    BindingIdentifier,
    BindingRefreshAdvice,
    MalformedOption,
    MobileNetworkPrefix,
    NonceIndices,
)
from tests.homeagent.support import (
    AHR,
    AHRO,
    CELLULAR,
    HA,
    HOME,
    HOST,
    PREFIX,
    ROUTER,
    SETTINGS,
    WALL,
    WLAN,
    Script,
    U,
    bid,
)

S = BindingStatus


def test_bulk_registration_binds_every_care_of_address() -> None:
    script = Script()
    ack = script.update(bid(1, WLAN), bid(2, CELLULAR), flags=AHRO)
    assert (ack.status, ack.lifetime, ack.sequence, ack.flags) == (S.ACCEPTED, 600, 1, AckFlag.MOBILE_ROUTER)
    assert [(one.bid, one.status, one.priority) for one in ack.find_all(BindingIdentifier)] == [(1, 0, 10), (2, 0, 20)]
    assert script.bindings() == {1: str(WLAN), 2: str(CELLULAR)}
    (node,) = script.agent.forwarding_table().nodes.values()
    assert [(one.bid, one.remote, one.mtu) for one in node.tunnels] == [(1, WLAN, 1460), (2, CELLULAR, 1460)]
    assert node.prefixes == (PREFIX,)  # implicit mode: from the prefix table
    kinds = [type(one) for one in script.seen]
    assert kinds.index(actions.StoreNode) < kinds.index(actions.SendPacket)  # stored before it is acknowledged


def test_the_acknowledgement_goes_to_the_source_with_a_routing_header() -> None:
    script = Script()
    script.update(bid(2, CELLULAR), source=WLAN)
    packet, _ = script.answer()
    assert (packet.source, packet.destination, packet.routing_address) == (HA, WLAN, HOME)


def test_plain_registration_by_alternate_care_of_address_replaces_all() -> None:
    script = Script()
    script.update(bid(1, WLAN), bid(2, CELLULAR))
    assert script.update(AlternateCareOfAddress(CELLULAR)).status == S.ACCEPTED
    assert script.bindings() == {0: str(CELLULAR)}
    assert script.update(bid(1, WLAN)).status == S.MCOA_NON_MCOA_BINDING_EXISTS
    assert script.update(bid(1, WLAN), flags=AHRO).status == S.ACCEPTED
    assert script.bindings() == {1: str(WLAN)}


@pytest.mark.parametrize("sequence", [65530, 65529, 32762, 40000])
def test_old_sequence_numbers_are_answered_with_the_last_one(sequence: int) -> None:
    script = Script()
    script.update(bid(1, WLAN), sequence=65530)
    ack = script.update(bid(1, WLAN), sequence=sequence)
    assert (ack.status, ack.sequence) == (S.SEQUENCE_NUMBER_OUT_OF_WINDOW, 65530)


@pytest.mark.parametrize("sequence", [65531, 65535, 0, 32761])
def test_newer_sequence_numbers_pass_the_wrap(sequence: int) -> None:
    script = Script()
    script.update(bid(1, WLAN), sequence=65530)
    assert script.update(bid(1, WLAN), sequence=sequence).status == S.ACCEPTED


def test_lifetime_is_capped_and_advice_given() -> None:
    script = Script(replace(SETTINGS, max_lifetime=102, refresh_advice=50))
    ack = script.update(bid(1, WLAN), lifetime=4000)
    assert ack.lifetime == 100  # units of 4 seconds
    assert ack.find(BindingRefreshAdvice).interval == 48


def test_a_binding_expires_by_itself_and_alone() -> None:
    script = Script()
    script.update(bid(1, WLAN), lifetime=100)
    script.update(bid(2, CELLULAR), lifetime=300)
    script.pass_time(101)
    assert script.bindings() == {2: str(CELLULAR)}
    done = script.pass_time(300)
    assert script.bindings() == {}
    assert script.agent.forwarding_table().nodes == {}
    assert any(isinstance(one, actions.ForwardingChanged) for one in done)


def test_deregistration_of_one_and_of_all() -> None:
    script = Script()
    script.update(bid(1, WLAN), bid(2, CELLULAR))
    assert script.update(bid(9), lifetime=0).status == S.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE
    ack = script.update(bid(1), lifetime=0)
    assert (ack.status, ack.lifetime) == (S.ACCEPTED, 0)
    assert script.bindings() == {2: str(CELLULAR)}
    assert script.update(lifetime=0).status == S.ACCEPTED
    assert script.bindings() == {}
    assert script.update(lifetime=0).status == S.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE


def test_a_delayed_update_does_not_revive_a_deleted_binding() -> None:
    script = Script()
    script.update(bid(1, WLAN), sequence=20)
    script.update(lifetime=0, sequence=22)
    assert script.update(bid(1, WLAN), sequence=21).status == S.SEQUENCE_NUMBER_OUT_OF_WINDOW
    script.pass_time(11)
    assert script.update(bid(1, WLAN), sequence=21).status == S.ACCEPTED


def test_returning_home_without_the_option() -> None:
    script = Script()
    script.update(bid(1, WLAN))
    ack = script.update(lifetime=0, source=HOME, home_option=False)
    assert ack.status == S.ACCEPTED
    packet, _ = script.answer()
    assert (packet.destination, packet.routing_address) == (HOME, None)
    (sent,) = [one for one in script.seen if isinstance(one, actions.SendPacket)]
    assert (sent.interface, sent.link_layer_destination) == ("eth0", b"\x02\0\0\0\0\7")


def test_per_bid_statuses_of_a_mixed_registration() -> None:
    script = Script()
    ack = script.update(bid(1, WLAN), bid(2), bid(3, IPv6Address("ff02::1")))
    assert ack.status == S.MCOA_NOTCOMPLETE
    assert [one.status for one in ack.find_all(BindingIdentifier)] == [0, S.MCOA_UNKNOWN_COA, S.MCOA_MALFORMED]
    assert script.bindings() == {1: str(WLAN)}
    assert script.update(bid(7)).status == S.MCOA_UNKNOWN_COA
    assert script.update(bid(1)).status == S.ACCEPTED  # a refresh needs no care-of address


def test_a_node_has_sixteen_bindings_at_most() -> None:
    script = Script()
    ack = script.update(*(bid(n, WLAN + n, 10) for n in range(1, 18)))
    assert ack.status == S.MCOA_NOTCOMPLETE
    assert [one.status for one in ack.find_all(BindingIdentifier)] == [*[0] * 16, S.INSUFFICIENT_RESOURCES]
    assert script.update(bid(18, CELLULAR, 1)).status == S.INSUFFICIENT_RESOURCES
    assert script.update(bid(16, CELLULAR, 1)).status == S.ACCEPTED  # one that is bound may move
    assert script.bindings() == {n: str(WLAN + n) for n in range(1, 16)} | {16: str(CELLULAR)}
    assert script.update(bid(18, CELLULAR, 1), flags=AHRO).status == S.ACCEPTED


def test_overwrite_keeps_the_address_of_a_refreshed_bid_and_drops_the_rest() -> None:
    script = Script()
    script.update(bid(1, WLAN), bid(2, CELLULAR))
    assert script.update(bid(2), flags=AHRO).status == S.ACCEPTED
    assert script.bindings() == {2: str(CELLULAR)}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"multiple_bindings": False}, S.MCOA_PROHIBITED),
        ({"bulk_registration": False}, S.MCOA_BULK_REGISTRATION_PROHIBITED),
    ],
)
def test_policy_of_multiple_bindings(change: dict[str, bool], status: BindingStatus) -> None:
    assert Script(replace(SETTINGS, **change)).update(bid(1, WLAN), bid(2, CELLULAR)).status == status  # type: ignore[arg-type]


def test_malformed_bid_options() -> None:
    script = Script()
    assert script.update(MalformedOption(35, bytes(7))).status == S.MCOA_MALFORMED
    assert script.update(bid(0, WLAN)).status == S.MCOA_MALFORMED
    assert script.update(bid(1, WLAN), bid(1, CELLULAR)).status == S.MCOA_MALFORMED
    home = BindingIdentifier(1, 0, True, 10, WLAN)
    assert script.update(home).status == S.MCOA_SIMULTANEOUS_HOME_AND_FOREIGN_PROHIBITED
    assert script.bindings() == {}


@pytest.mark.parametrize(
    ("prefixes", "status"),
    [
        ([(56, "2001:db8:f00::")], S.ACCEPTED),
        ([(64, "2001:db8:f00:1::5")], S.ACCEPTED),  # inside its own prefix; bits beyond the length are masked
        ([(56, "2001:db8:f00::"), (56, "2001:db8:eee::")], S.NOT_AUTHORIZED_FOR_PREFIX),
        ([(48, "2001:db8:f00::")], S.NOT_AUTHORIZED_FOR_PREFIX),
        ([(64, "fe80::")], S.INVALID_PREFIX),
        ([(64, "ff0e::")], S.INVALID_PREFIX),
        ([(129, "2001:db8:f00::")], S.INVALID_PREFIX),
        ([(0, "2001:db8:f00::")], S.INVALID_PREFIX),
    ],
)
def test_explicit_prefixes(prefixes: list[tuple[int, str]], status: BindingStatus) -> None:
    options = [MobileNetworkPrefix(length, IPv6Address(prefix)) for length, prefix in prefixes]
    assert Script().update(bid(1, WLAN), *options).status == status


def test_implicit_mode_without_configured_prefix() -> None:
    bare = replace(ROUTER, prefixes=())
    assert Script(replace(SETTINGS, nodes=(bare,))).update(bid(1, WLAN)).status == S.FORWARDING_SETUP_FAILED


def test_router_flag_and_home_flag() -> None:
    host = Script(node=HOST)
    assert host.update(bid(1, WLAN)).status == S.MOBILE_ROUTER_OPERATION_NOT_PERMITTED
    script = Script()
    assert script.update(flags=U.ACKNOWLEDGE | U.MOBILE_ROUTER).status == S.MOBILE_ROUTER_OPERATION_NOT_PERMITTED
    assert script.silence(script.packet(flags=U.ACKNOWLEDGE))
    script.update(bid(1, WLAN))
    change = S.REGISTRATION_TYPE_CHANGE_DISALLOWED
    assert script.update(bid(1, WLAN), flags=U.ACKNOWLEDGE | U.HOME_REGISTRATION).status == change
    assert script.update(flags=U.ACKNOWLEDGE | U.MOBILE_ROUTER).status == change
    assert script.silence(script.packet(NonceIndices(1, 2)))


def test_home_address_outside_the_home_prefix() -> None:
    node = replace(ROUTER, home_address=IPv6Address("2001:db8:999::5"))
    script = Script(replace(SETTINGS, nodes=(node,)), node)
    assert script.update(bid(1, WLAN)).status == S.NOT_HOME_SUBNET
    # an address of its own mobile network prefix will do (RFC 3963 §6.2)
    node = replace(ROUTER, home_address=IPv6Address("2001:db8:f00::5"))
    assert Script(replace(SETTINGS, nodes=(node,)), node).update(bid(1, WLAN)).status == S.ACCEPTED


def test_duplicate_address_detection_comes_before_the_first_acknowledgement() -> None:
    script = Script(replace(SETTINGS, home_link="home0"))
    assert script.silence(script.packet(bid(1, WLAN)))
    assert script.seen == [actions.CheckDuplicateAddress(HOME, "home0")]
    script.now += 8  # longer than the timestamp window: it was judged when it came
    script.seen = script.agent.handle(events.DuplicateAddressChecked(HOME, False), script.now)
    assert script.answer()[1].status == S.ACCEPTED  # type: ignore[attr-defined]
    assert actions.AnnounceNeighbour(HOME, "home0", True) in script.seen
    state = script.agent.kernel_state()
    assert state.proxies == (actions.ProxyNeighbour(HOME, "home0", True),)
    assert {route.destination for route in state.routes} == {IPv6Network(HOME), PREFIX}
    assert script.update(bid(1, WLAN)).status == S.ACCEPTED  # not again for a refresh
    script.update(lifetime=0)
    assert script.agent.kernel_state() == actions.KernelState(sockets=state.sockets)


def test_a_duplicate_on_the_home_link_ends_the_registration() -> None:
    script = Script(replace(SETTINGS, home_link="home0"))
    script.give(script.packet(bid(1, WLAN)))
    script.seen = script.agent.handle(events.DuplicateAddressChecked(HOME, True), script.now)
    assert script.answer()[1].status == S.DUPLICATE_ADDRESS_DETECTION_FAILED  # type: ignore[attr-defined]
    assert script.bindings() == {}


@pytest.mark.parametrize(("sequence", "bound"), [(8, {}), (6, {1: str(WLAN)})])  # the second was overtaken
def test_a_deregistration_during_duplicate_address_detection(sequence: int, bound: dict[int, str]) -> None:
    script = Script(replace(SETTINGS, home_link="home0"))
    script.give(script.packet(bid(1, WLAN), sequence=7))
    assert script.update(lifetime=0, sequence=sequence).status == S.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE
    script.agent.handle(events.DuplicateAddressChecked(HOME, False), script.now)
    assert script.bindings() == bound


def test_restart_keeps_bindings_flows_sequence_and_timestamp() -> None:
    script = Script()
    packet = script.packet(bid(1, WLAN), bid(2, CELLULAR))
    script.give(packet)
    (stored,) = [one for one in script.seen if isinstance(one, actions.StoreNode)]
    assert stored.record is not None
    again = Script()
    again.agent = HomeAgent(SETTINGS, __import__("random").Random(2))
    again.agent.handle(events.WallClockSet(WALL + 95), 5.0)  # the clock of the engine starts anew at every boot
    again.now = 6.0
    again.agent.restore({HOME: stored.record}, again.now)
    assert again.bindings() == {1: str(WLAN), 2: str(CELLULAR)}
    (before,), (after,) = (one.agent.forwarding_table().nodes.values() for one in (script, again))
    assert [replace(one, expires=None) for one in after.tunnels] == [
        replace(one, expires=None) for one in before.tunnels
    ]
    ends = [one.expires for one in before.tunnels]
    assert [one.expires + 95 for one in after.tunnels if one.expires] == pytest.approx(ends, abs=1)
    assert replace(after, tunnels=()) == replace(before, tunnels=())
    again.give(packet)
    assert again.answer()[1].status == S.MIPV6_ID_MISMATCH  # type: ignore[attr-defined]
    again.pass_time(700)
    assert again.bindings() == {}


def test_unreadable_records_are_reported() -> None:
    agent = HomeAgent(SETTINGS, __import__("random").Random(2))
    agent.handle(events.WallClockSet(WALL), 0.0)
    done = agent.restore({HOME: {"bindings": "?"}, IPv6Address("2001:db8::1"): {}}, 0.0)
    reports = [(one.event, one.level) for one in done if isinstance(one, actions.Report)]
    assert ("stored binding is not readable", "error") in reports
    assert ("binding of a node no longer configured", "warning") in reports


def test_path_mtu_lowers_the_tunnel_for_ten_minutes() -> None:
    script = Script()
    script.update(bid(1, WLAN))
    script.agent.handle(events.PathMtuChanged(HA, WLAN, 1400), script.now)
    (node,) = script.agent.forwarding_table().nodes.values()
    assert node.tunnels[0].mtu == 1360
    script.pass_time(601 - 2)
    script.pass_time(2)
    nodes = list(script.agent.forwarding_table().nodes.values())
    assert not nodes or nodes[0].tunnels[0].mtu == 1460


@pytest.mark.parametrize("care_of", [HOME, HA, PREFIX[5]])
def test_a_care_of_address_inside_the_tunnel_itself_is_none(care_of: IPv6Address) -> None:
    script = Script()
    assert script.update(bid(1, care_of), flags=AHRO).status == S.INVALID_CARE_OF_ADDRESS
    ack = script.update(bid(1, WLAN), bid(2, care_of), flags=AHRO)
    assert [one.status for one in ack.find_all(BindingIdentifier)] == [0, S.INVALID_CARE_OF_ADDRESS]
    assert script.bindings() == {1: str(WLAN)}
    if care_of != HOME:  # which without BID is a deregistration
        ack = script.update(AlternateCareOfAddress(care_of))
        assert (ack.status, script.bindings()) == (S.INVALID_CARE_OF_ADDRESS, {1: str(WLAN)})


def stored(done: list[actions.Action]) -> dict[str, object]:
    (record,) = [one.record for one in done if isinstance(one, actions.StoreNode)]
    assert record is not None
    return dict(record)


def test_what_is_on_disk_follows_the_time_of_day_when_that_is_set() -> None:
    """A machine without a clock of its own starts in 1970; when NTP has told it better, a restart loses nothing."""
    script = Script()
    script.agent.handle(events.WallClockSet(5.0), script.now)
    script.update(bid(1, WLAN), stamp=ntp_timestamp(script.now + 5.0))
    assert script.agent.handle(events.WallClockSet(5.2), script.now) == []
    record = stored(script.agent.handle(events.WallClockSet(WALL), script.now))
    again = Script()
    again.agent.restore({HOME: record}, again.now)
    assert again.bindings() == {1: str(WLAN)}


def test_a_clock_that_was_set_back_makes_no_binding_live_longer() -> None:
    script = Script()
    script.update(bid(1, WLAN))
    record = stored(script.seen)
    again = Script()
    again.agent.handle(events.WallClockSet(WALL - 86400), again.now)
    again.agent.restore({HOME: record}, again.now)
    again.pass_time(601)
    assert again.bindings() == {}


def test_a_home_agent_whose_clock_was_wrong_locks_nobody_out() -> None:
    """What it accepted by a clock that was ahead is in the future now: until then only the sequence number can tell a
    replay (RFC 4285 §6, RFC 6275 §9.5.1)."""
    script = Script()
    script.agent.handle(events.WallClockSet(WALL + 8 * 3600), script.now)
    script.update(bid(1, WLAN), stamp=ntp_timestamp(script.now + WALL + 8 * 3600))
    script.agent.handle(events.WallClockSet(WALL), script.now)
    old = script.packet(bid(1, CELLULAR), sequence=script.sequence)
    script.give(old)
    assert script.answer()[1].status == S.SEQUENCE_NUMBER_OUT_OF_WINDOW  # type: ignore[attr-defined]
    assert script.update(bid(1, CELLULAR)).status == S.ACCEPTED
    replayed = script.packet(bid(1, WLAN), stamp=ntp_timestamp(script.now + WALL - 1))
    script.give(replayed)
    assert script.answer()[1].status == S.MIPV6_ID_MISMATCH  # type: ignore[attr-defined]


def test_a_path_mtu_of_a_stranger_is_no_news_and_follows_a_binding_that_comes_back() -> None:
    script = Script()
    script.update(bid(1, WLAN), bid(2, CELLULAR), flags=AHRO)
    stranger = IPv6Address("2001:db8:bad::1")
    assert script.agent.handle(events.PathMtuChanged(HA, stranger, 1300), script.now) == []
    script.agent.handle(events.PathMtuChanged(HA, WLAN, 1400), script.now)
    script.update(bid(2, CELLULAR), flags=AHRO)  # the WLAN is lost ...
    assert script.agent.handle(events.PathMtuChanged(HA, WLAN, 1300), script.now) == []
    script.update(bid(1, WLAN), flags=AHR)  # ... and found
    tunnels = {one.bid: one.mtu for one in script.agent.forwarding_table().nodes[HOME].tunnels}
    assert tunnels == {1: 1360, 2: 1460}


def test_a_refresh_changes_nothing_of_the_forwarding_but_the_end_of_the_lifetime() -> None:
    script = Script()
    script.update(bid(1, WLAN))
    (first,) = script.agent.forwarding_table().nodes[HOME].tunnels
    script.pass_time(10)
    script.update(bid(1, WLAN))
    (second,) = script.agent.forwarding_table().nodes[HOME].tunnels
    assert first.expires is not None
    assert second.expires == pytest.approx(first.expires + 10, abs=0.1)
    assert second == replace(first, expires=second.expires)


def test_nodes_by_default_have_no_power() -> None:
    assert NodeSettings(HOME) == NodeSettings(HOME, None, False, (), "timestamp", 7.0, (), ())
    assert UpdateFlag.OVERWRITE in AHRO
