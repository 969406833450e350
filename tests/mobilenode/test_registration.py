"""Registration: the Binding Update itself, retransmission, refresh, rates, sequence numbers, shutting down."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from mip6.actions import ForwardingChanged, KernelChanged, SendPacket, ShutdownComplete
from mip6.auth import SecurityAssociation
from mip6.events import ShuttingDown, TimerExpired
from mip6.numbers import UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    Authentication,
    BindingRefreshAdvice,
    MessageIdentification,
    MobileNetworkPrefix,
    MobileNodeIdentifier,
)
from tests.mobilenode.support import AGENT, BOTH, CELL, HOME, PREFIX, SETTINGS, WLAN, World, link, registered


def test_one_binding_update_registers_all_care_of_addresses() -> None:
    world = World()
    world.links(*BOTH)
    (sent,) = world.sent
    assert sent.interface == "wlan0" and sent.packet.source == WLAN and sent.packet.destination == AGENT
    assert sent.packet.home_address == HOME
    flags = UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION | UpdateFlag.MOBILE_ROUTER | UpdateFlag.OVERWRITE
    assert sent.update.flags == flags and sent.update.lifetime == 600
    assert sent.bids() == {1: WLAN, 2: CELL} and sent.flows() == {10: (2,)}
    assert [one.network() for one in sent.update.find_all(MobileNetworkPrefix)] == [PREFIX]
    assert sent.update.find(MobileNodeIdentifier).identifier == b"mr@example.com"
    assert sent.update.find(AlternateCareOfAddress) is None  # RFC 5648 §5.2
    assert isinstance(sent.update.options[-1], Authentication)
    assert world.state() == "registering"
    world.answer()
    assert world.state() == "registered" and world.usable() == [1, 2]
    world.run(60)
    assert len(world.sent) == 1


def test_kernel_and_data_plane_are_ready_before_the_packet_leaves() -> None:
    actions = World().links(*BOTH)
    kinds = [type(one) for one in actions]
    assert kinds.index(KernelChanged) < kinds.index(SendPacket)
    assert kinds.index(ForwardingChanged) < kinds.index(SendPacket)


def test_implicit_prefixes_are_not_named() -> None:
    world = World(replace(SETTINGS, prefix_mode="implicit"))
    world.links(*BOTH)
    assert world.sent[0].update.find(MobileNetworkPrefix) is None
    assert world.sent[0].update.flags & UpdateFlag.MOBILE_ROUTER


def test_first_registration_backs_off_from_one_and_a_half_seconds_for_ever() -> None:
    world = World(replace(SETTINGS, links=tuple(replace(one, encapsulation="native") for one in SETTINGS.links)))
    world.links(*BOTH)
    world.run(300)
    gaps = [round(later - earlier, 6) for earlier, later in pairwise(world.times())]
    assert gaps[:5] == [1.5, 3, 6, 12, 24] and set(gaps[5:]) == {32}
    assert world.reports().count("home agent does not answer") == 1
    sequences = [one.update.sequence for one in world.sent]
    assert all((later - earlier) % 65536 == 1 for earlier, later in pairwise(sequences))
    stamps = [one.update.find(MessageIdentification).timestamp for one in world.sent]
    assert stamps == sorted(set(stamps))


def test_retransmissions_go_round_the_links() -> None:
    world = World()
    world.links(*BOTH)
    world.run(15)
    assert [one.interface for one in world.sent] == ["wlan0", "wwan0", "wlan0", "wwan0"]
    assert [one.packet.source for one in world.sent] == [WLAN, CELL, WLAN, CELL]


def test_refresh_comes_between_half_and_three_quarters_of_the_lifetime() -> None:
    for seed in range(20):
        world = World(seed=seed)
        world.links(*BOTH)
        world.answer(lifetime=400)
        world.run(199.9)
        assert len(world.sent) == 1
        world.run(100.2)
        assert len(world.sent) > 1 and 200 <= world.sent[1].time <= 300
        assert world.sent[1].summary() == (10,) and world.sent[1].flows() == {}


def test_an_unanswered_refresh_is_repeated_from_one_second_and_tunnels_stay_past_the_end() -> None:
    world = registered()
    world.run(1000)
    gaps = [round(later - earlier, 6) for earlier, later in pairwise(world.times(1))]
    assert gaps[:6] == [1, 2, 4, 8, 16, 32]
    assert world.state() == "registering" and "binding expired" in world.reports()
    assert world.usable() == [1, 2]
    world.answer()
    assert world.state() == "registered"


def test_refresh_advice_is_honoured() -> None:
    world = World()
    world.links(*BOTH)
    world.answer(extra=(BindingRefreshAdvice(40),))
    world.run(39)
    assert len(world.sent) == 1
    world.run(1.5)
    assert len(world.sent) == 2


def test_lifetime_counts_from_sending() -> None:
    world = World()
    world.links(*BOTH)
    world.run(1)
    world.answer(lifetime=100)
    assert world.engine.status(world.now)["bindings"][0]["lifetime_left"] == 99


def test_no_more_than_three_binding_updates_a_second() -> None:
    world = registered()
    for _ in range(10):
        world.links(BOTH[1])
        world.links(*BOTH)
        world.run(0.02)
    world.links(BOTH[1])
    world.run(20)
    times = [one.time for one in world.sent]
    assert all(times[index + 3] - times[index] >= 1 - 1e-9 for index in range(len(times) - 3))
    assert world.sent[-1].bids() == {2: CELL}  # the newest state wins


@pytest.mark.parametrize("first", [65533, 65535, 0])
def test_sequence_numbers_wrap(first: int) -> None:
    world = registered()
    world.engine._registration.update_list.sequence = first
    for index in range(6):
        world.links(BOTH[index % 2])
        world.answer()
        world.run(2)
    assert [one.update.sequence for one in world.sent[1:]] == [(first + 1 + index) % 65536 for index in range(6)]
    assert world.state() == "registered"


def test_a_late_answer_to_an_older_update_does_not_end_the_newer_one() -> None:
    world = World()
    world.links(*BOTH)
    world.links(BOTH[1])
    assert len(world.sent) == 2
    world.answer(world.sent[0])
    world.run(2)
    assert len(world.sent) == 3 and world.sent[2].bids() == {2: CELL}
    world.answer(world.sent[2])
    world.run(60)
    assert len(world.sent) == 3


def test_the_answer_to_any_retransmission_ends_them() -> None:
    world = World()
    world.links(*BOTH)
    world.run(5)
    assert len(world.sent) == 3
    world.answer(world.sent[0])
    world.run(100)
    assert len(world.sent) == 3 and world.state() == "registered"


def test_an_answer_that_was_overtaken_is_ignored() -> None:
    world = World()
    world.links(*BOTH)
    world.links(BOTH[0])
    world.answer(world.sent[1])
    world.answer(world.sent[0])
    assert world.count("unexpected_acknowledgement") == 1
    assert world.usable() == [1]


def test_answers_that_are_not_authentic_change_nothing() -> None:
    world = World()
    world.links(*BOTH)
    wrong = SecurityAssociation(4096, SETTINGS.association.algorithm, bytes(16)) if SETTINGS.association else None
    world.answer(key=wrong)
    world.answer(key=None)
    world.answer(status=135, key=wrong, change=lambda one: replace(one, sequence=1))
    assert world.count("not_authentic") == 3 and world.state() == "registering"


def test_an_answer_must_repeat_the_timestamp_and_the_number() -> None:
    world = World()
    world.links(*BOTH)
    world.answer(
        change=lambda one: replace(
            one,
            options=tuple(
                MessageIdentification(5) if isinstance(option, MessageIdentification) else option
                for option in one.options
            ),
        )
    )
    world.answer(
        change=lambda one: replace(
            one, options=tuple(option for option in one.options if not isinstance(option, MessageIdentification))
        )
    )
    world.answer(change=lambda one: replace(one, sequence=(one.sequence + 1) % 65536))
    assert world.count("unexpected_acknowledgement") == 3 and world.state() == "registering"


def test_shutting_down_deregisters_everything() -> None:
    world = registered()
    world.give(ShuttingDown())
    sent = world.sent[-1]
    assert sent.update.lifetime == 0 and sent.bids() == {}
    assert not any(isinstance(one, ShutdownComplete) for one in world.actions)
    actions = world.answer()
    assert isinstance(actions[-1], ShutdownComplete)
    assert world.engine.next_deadline() is None and world.give(TimerExpired()) == []


def test_shutting_down_gives_up_after_two_tries_and_three_seconds() -> None:
    world = registered()
    world.give(ShuttingDown())
    world.run(10)
    assert world.times(1) == [0, 1]
    assert sum(isinstance(one, ShutdownComplete) for one in world.actions) == 1


def test_shutting_down_says_nothing_to_a_home_agent_that_knows_nothing() -> None:
    world = World()
    assert isinstance(world.give(ShuttingDown())[-1], ShutdownComplete) and world.sent == []
    world = registered()
    world.links()
    assert isinstance(world.give(ShuttingDown())[-1], ShutdownComplete)


def test_without_an_association_nothing_is_signed() -> None:
    world = World(replace(SETTINGS, association=None, insecure=True))
    world.links(link("wlan0", WLAN))
    assert world.sent[0].update.find(Authentication) is None
    assert world.sent[0].update.find(MessageIdentification) is None
    world.answer(key=None)
    assert world.state() == "registered"
