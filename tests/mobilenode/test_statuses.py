"""What a mobile node makes of every status a home agent can give (protocol: RFC 6275, 3963, 4285, 5648, 6089)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mip6.auth import ntp_timestamp
from mip6.messages import BindingAcknowledgement
from mip6.numbers import AckFlag, BindingStatus, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    BindingIdentifier,
    FlowIdentification,
    MessageIdentification,
    MobileNetworkPrefix,
)
from tests.mobilenode.support import BOTH, CELL, NOON, SETTINGS, WLAN, World, link, registered


def trying() -> World:
    world = World()
    world.links(*BOTH)
    return world


@pytest.mark.parametrize("status", [0, 1, 5])
def test_accepted(status: int) -> None:
    world = trying()
    world.answer(status=status)
    assert world.state() == "registered" and world.count(f"acknowledgement_{status}") == 1


@pytest.mark.parametrize("status", [128, 129, 130, 131, 132, 133, 141, 142, 143, 164, 167, 169, 174, 200])
def test_refused_registrations_are_tried_again_slowly(status: int) -> None:
    world = trying()
    for _ in range(4):
        world.answer(status=status)
        assert world.state() == "refused" and world.usable() == []
        count = len(world.sent)
        deadline = world.engine.next_deadline()
        assert deadline is not None
        world.run(deadline[0] - world.now)
        assert len(world.sent) == count + 1
    assert world.times() == [0, 30, 90, 210, 450]
    world.answer()
    assert world.state() == "registered"


def test_a_refusal_does_not_delay_what_a_new_link_has_to_say() -> None:
    world = World()
    world.links(BOTH[0])
    world.answer(status=130)
    world.run(5)
    world.links(*BOTH)
    assert len(world.sent) == 2 and world.sent[1].bids() == {1: WLAN, 2: CELL}


def test_a_refused_refresh_leaves_the_bindings_that_are_there() -> None:
    world = registered()
    world.run(450)
    world.answer(status=130)
    assert world.state() == "registered" and world.usable() == [1, 2]


@pytest.mark.parametrize("status", [134, 146])
def test_stop(status: int) -> None:
    """For a long time, but not for ever: an address may be free again, and who flips one bit on one link must not take
    all others away."""
    world = trying()
    world.answer(status=status)
    world.run(599)
    assert len(world.sent) == 1 and world.state() == "refused"
    assert "binding update refused, giving up" in world.reports()
    world.run(2)
    assert len(world.sent) == 2
    world.answer(status=status)
    world.links(BOTH[0])  # another way, so at once
    assert len(world.sent) == 3
    world.answer()
    assert world.state() == "registered"


@pytest.mark.parametrize("ahead", [1, 100, 32768])
def test_135_resynchronises_the_sequence_number(ahead: int) -> None:
    world = trying()
    last = (world.sent[0].update.sequence + ahead) % 65536
    world.answer(status=135, change=lambda one: replace(one, sequence=last))
    assert world.sent[1].update.sequence == (last + 1) % 65536
    world.answer(world.sent[0], status=135, change=lambda one: replace(one, sequence=last))  # repeated: known already
    assert len(world.sent) == 2
    world.answer()
    assert world.state() == "registered"


def test_135_of_an_overtaken_update_is_no_reason_to_send() -> None:
    world = trying()
    world.answer(status=135)  # a network that repeats packets: the number is the one just accepted
    assert len(world.sent) == 1
    world.answer()
    assert world.state() == "registered"


def test_135_with_a_timestamp_that_was_never_sent_is_ignored() -> None:
    world = trying()
    forged = (MessageIdentification(77),)
    world.answer(status=135, change=lambda one: replace(one, sequence=(one.sequence + 40000) % 65536, options=forged))
    assert len(world.sent) == 1 and world.count("unexpected_acknowledgement") == 1


@pytest.mark.parametrize("ahead", [3600.0, -3600.0, 1e8, -1e8])
def test_144_sets_the_clock_by_the_home_agents(ahead: float) -> None:
    world = trying()

    def mismatch(one: BindingAcknowledgement) -> BindingAcknowledgement:
        sent = one.find(MessageIdentification).timestamp
        theirs = ntp_timestamp(NOON + world.now + ahead)
        return replace(one, options=(MessageIdentification(theirs >> 32 << 32 | sent & 0xFFFFFFFF),))

    world.answer(status=144, change=mismatch)
    assert len(world.sent) == 2
    stamp = world.sent[1].update.find(MessageIdentification).timestamp
    assert abs((stamp - ntp_timestamp(NOON + world.now + ahead)) / 2**32) < 1
    world.answer(world.sent[0], status=144, change=mismatch)  # repeated: the clock is right already
    assert len(world.sent) == 2
    world.answer()
    assert world.state() == "registered"


def test_144_although_the_clocks_agree_waits_for_the_retransmission() -> None:
    world = trying()
    world.answer(status=144)
    assert len(world.sent) == 1
    world.run(1.5)
    assert len(world.sent) == 2


def test_145_adds_timestamps() -> None:
    world = World(replace(SETTINGS, replay="sequence"))
    world.links(*BOTH)
    assert world.sent[0].update.find(MessageIdentification) is None
    world.answer(status=145)
    assert world.sent[1].update.find(MessageIdentification) is not None
    world.answer()
    assert world.state() == "registered"


def test_139_deletes_and_registers_anew_once() -> None:
    world = trying()
    world.answer(status=139)
    assert world.sent[1].update.lifetime == 0 and world.sent[1].bids() == {}
    world.answer()
    assert world.sent[2].bids() == {1: WLAN, 2: CELL}
    world.answer(status=139)
    world.run(20)
    assert len(world.sent) == 3 and world.state() == "refused"


def test_140_goes_on_as_a_mobile_host() -> None:
    world = trying()
    world.answer(status=140)
    assert not world.sent[1].update.flags & UpdateFlag.MOBILE_ROUTER
    assert world.sent[1].update.find(MobileNetworkPrefix) is None
    world.answer()
    assert world.state() == "registered" and world.node().prefixes == ()


def test_143_of_an_implicit_registration_names_the_prefixes() -> None:
    world = World(replace(SETTINGS, prefix_mode="implicit"))
    world.links(*BOTH)
    world.answer(status=143)
    assert world.sent[1].update.find(MobileNetworkPrefix) is not None


def test_no_mobile_router_flag_in_the_answer_means_no_mobile_router() -> None:
    world = trying()
    world.answer(change=lambda one: replace(one, flags=AckFlag(0)))
    world.run(2)
    assert world.node().prefixes == () and world.usable() == [1, 2]


def test_one_bid_of_a_bulk_is_refused() -> None:
    world = trying()
    world.answer(status=4, bid_status={2: 130}, flow_status={10: 131})
    assert world.binding(1) == "registered" and world.binding(2) == "refused"
    assert world.usable() == [1]
    assert world.sent[1].bids() == {1: WLAN} and world.sent[1].flows() == {10: (1,)}  # the flow moves to what works
    world.answer()
    world.run(30)
    assert world.sent[-1].bids() == {1: WLAN, 2: CELL}
    world.answer()
    assert world.binding(2) == "registered"


def test_168_registers_bid_by_bid() -> None:
    world = trying()
    world.answer(status=168)
    assert world.sent[1].bids() == {1: WLAN} and world.sent[1].overwrites() and world.sent[1].flows() == {}
    world.answer()
    assert world.sent[2].bids() == {2: CELL} and not world.sent[2].overwrites()
    assert world.sent[2].flows() == {10: (2,)}  # may be named now
    world.answer()
    assert world.state() == "registered" and world.usable() == [1, 2]
    world.run(2)
    world.links(BOTH[0])  # a lost BID is deleted by itself
    assert world.sent[3].update.lifetime == 0 and world.sent[3].bids() == {2: None}
    assert world.sent[3].interface == "wlan0" and world.usable() == [1]
    world.answer()
    assert world.sent[4].flows() == {10: (1,)}
    world.answer()
    world.run(100)
    assert len(world.sent) == 5


def test_one_bid_at_a_time_a_change_that_may_have_been_heard_is_stated_again() -> None:
    world = trying()
    world.answer(status=168)
    world.answer()
    world.answer()
    world.run(2)
    elsewhere, cell = IPv6Address("2001:db8:aa::77"), IPv6Address("2001:db8:bb::77")
    world.links(link("wlan0", elsewhere), link("wwan0", CELL))
    assert world.sent[-1].bids() == {1: elsewhere}  # perhaps heard, but its answer never comes
    world.links(link("wwan0", cell))
    assert world.sent[-1].bids() == {2: cell}
    world.links(link("wlan0", WLAN), link("wwan0", cell))  # back where it was
    world.answer()
    world.run(1)
    assert world.sent[-1].bids() == {1: WLAN}
    world.answer()
    sent = len(world.sent)
    world.run(100)
    assert len(world.sent) == sent and world.usable() == [1, 2]


def test_133_to_the_deletion_of_a_bid_is_as_good_as_success() -> None:
    world = trying()
    world.answer(status=168)
    world.answer()
    world.answer()
    world.run(2)
    world.links(BOTH[0])
    world.answer(status=133)
    world.answer()
    world.run(100)
    assert world.state() == "registered" and world.binding(1) == "registered"


def test_165_overwrites() -> None:
    world = trying()
    world.answer(status=168)
    world.answer()
    world.run(2)
    world.answer(world.sent[2], status=165)
    world.run(1)
    assert world.sent[-1].overwrites()


@pytest.mark.parametrize("refusal", ["166", "answer without BID"])
def test_a_home_agent_without_multiple_bindings_gets_a_plain_one(refusal: str) -> None:
    world = trying()
    if refusal == "166":
        world.answer(status=166)
    else:
        world.answer(
            change=lambda one: replace(
                one, options=tuple(o for o in one.options if not isinstance(o, BindingIdentifier | FlowIdentification))
            )
        )
    sent = world.sent[1]
    assert sent.bids() == {} and sent.flows() == {}
    assert sent.update.find(AlternateCareOfAddress).care_of_address == WLAN
    world.answer()
    assert world.state() == "registered" and world.usable() == [0]
    world.run(2)
    world.links(BOTH[1])
    assert world.sent[2].update.find(AlternateCareOfAddress).care_of_address == CELL
    world.answer()
    world.run(60)
    assert len(world.sent) == 3 and [one.local for one in world.node().tunnels] == [CELL]


@pytest.mark.parametrize("status", [128, 129, 130, 131, 133])
def test_a_refused_flow_is_reported_and_not_repeated_at_once(status: int) -> None:
    world = trying()
    world.answer(flow_status={10: status})
    assert "flow binding refused" in world.reports()
    world.run(100)
    assert len(world.sent) == 1 and world.state() == "registered"
    world.run(360)  # at the refresh it is asked for again, unless it can never succeed
    again = world.sent[1:] and any(one.flows() for one in world.sent[1:])
    assert bool(again) == (status not in (130, 133))


def test_flow_status_132_states_the_flow_again() -> None:
    world = registered()
    world.run(299)
    while len(world.sent) == 1:
        world.run(1)
    assert world.sent[1].summary() == (10,)
    world.answer(world.sent[1], flow_status={10: 132})
    assert world.sent[-1].flows() == {10: (2,)}


def test_a_home_agent_that_ignores_flows_is_not_bothered() -> None:
    world = trying()
    world.answer(
        change=lambda one: replace(one, options=tuple(o for o in one.options if not isinstance(o, FlowIdentification)))
    )
    world.run(100)
    assert len(world.sent) == 1 and world.state() == "registered"


def test_a_late_refusal_of_bids_that_are_no_longer_sent_makes_nobody_wait_longer() -> None:
    world = World()
    world.links(*BOTH)
    world.run(4)
    first, last = world.sent[0], world.sent[-1]
    assert first.bids() and first.update.sequence != last.update.sequence
    world.answer(last, BindingStatus.MCOA_PROHIBITED)
    assert not world.sent[-1].bids()
    world.answer(status=BindingStatus.INSUFFICIENT_RESOURCES)
    due = world.engine.next_deadline()
    world.answer(first, BindingStatus.MCOA_PROHIBITED)
    assert world.engine.next_deadline() == due
