"""Flow bindings at the home agent (RFC 6089 §5.3): kept per mobile node, ordered, forwarded, inactive, refreshed."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

from homeagent.engine import HomeAgent
from homeagent.registration import MOST_UNKNOWN
from mip6.actions import StoreNode
from mip6.events import WallClockSet
from mip6.flowextension import DEFAULT_ENTERPRISE, FlowExtension, applied, encode_flow
from mip6.messages import BindingAcknowledgement
from mip6.numbers import BindingStatus, FlowStatus, OptionType
from mip6.options import FlowIdentification, FlowSummary, MalformedOption, Option
from mip6.selectors import IPv6Selector, UnknownSelector
from mip6.suboptions import BindingReference, MalformedSubOption, TrafficSelectorSubOption
from tests.homeagent.support import AHRO, CELLULAR, HOME, SETTINGS, WALL, WLAN, Script, bid

VOICE = IPv6Selector(destination_port=(5004, 5010), next_header=(17, 17))


def flow(fid: int, *bids: int, priority: int | None = None, selector: IPv6Selector | None = VOICE) -> Option:
    parts = (BindingReference(bids),) if bids else ()
    selectors = (TrafficSelectorSubOption(selector),) if selector is not None else ()
    return FlowIdentification(fid, priority or 10 * fid, 0, (*selectors, *parts))


def statuses(ack: BindingAcknowledgement) -> dict[int, int]:
    assert ack.status == 0
    return {one.fid: one.status for one in ack.find_all(FlowIdentification)}


def started() -> Script:
    script = Script()
    ack = script.update(bid(1, WLAN), bid(2, CELLULAR), flow(1, 2), flow(2, 1, 2), flags=AHRO)
    assert statuses(ack) == {1: 0, 2: 0}
    return script


def test_rules_stand_in_order_of_priority() -> None:
    script = Script()
    script.update(bid(1, WLAN), flow(7, 1, priority=30), flow(8, 1, priority=20))
    node = script.agent.forwarding_table().nodes[HOME]
    assert [(rule.fid, rule.bids) for rule in node.rules] == [(8, (1,)), (7, (1,))]


def test_a_flow_that_is_not_named_ends() -> None:
    script = started()
    assert script.flows() == {1: [2], 2: [1, 2]}
    script.update(bid(1), FlowSummary((2,)))
    assert script.flows() == {2: [1, 2]}
    script.update(bid(1))
    assert script.flows() == {}


def test_summary_of_an_unknown_flow() -> None:
    assert statuses(started().update(bid(1), FlowSummary((1, 9, 9)))) == {9: FlowStatus.FID_NOT_FOUND}


def test_more_unknown_flows_than_an_acknowledgement_holds_are_named_in_turns() -> None:
    script = started()
    fids = tuple(range(100, 500))
    summaries = [FlowSummary(fids[at : at + 127]) for at in range(0, len(fids), 127)]
    answered = statuses(script.update(bid(1), *summaries))
    assert answered == dict.fromkeys(fids[:MOST_UNKNOWN], FlowStatus.FID_NOT_FOUND)


def test_what_cannot_be_acknowledged_is_refused_and_changes_nothing() -> None:
    """A Binding Update whose answer would be longer than any Mobility Header is no reason to fall over."""
    script = started()
    before = script.bindings(), script.flows()
    malformed = [MalformedOption(OptionType.FLOW_IDENTIFICATION, bytes((1, one, 0, 1))) for one in range(255)]
    ack = script.update(bid(1), *malformed, flags=AHRO)
    assert ack.status == BindingStatus.INSUFFICIENT_RESOURCES and not ack.find_all(FlowIdentification)
    assert (script.bindings(), script.flows()) == before
    assert script.update(bid(1), sequence=script.sequence).status == BindingStatus.ACCEPTED


def test_a_known_flow_may_change_in_part() -> None:
    script = started()
    ack = script.update(bid(1), flow(1, 1, selector=None), FlowSummary((2,)))
    assert statuses(ack) == {1: 0}
    assert script.flows() == {1: [1], 2: [1, 2]}


def test_statuses_of_refused_flows() -> None:
    script = started()
    unknown = FlowIdentification(5, 5, 0, (TrafficSelectorSubOption(UnknownSelector(7, b"x")), BindingReference((1,))))
    cut = FlowIdentification(6, 6, 0, (MalformedSubOption(3, b"\2"), BindingReference((1,))))
    ack = script.update(
        bid(1),
        flow(1, 9),  # names a BID that is not bound: the flow stays as it was
        flow(2, 1),
        flow(3, 9),
        flow(4, 1, selector=None),
        unknown,
        cut,
        MalformedOption(45, b"\0\x0a\0\x0a\0\0\2\xff"),
        flow(11, 1),
        flow(11, 2),
    )
    assert statuses(ack) == {
        1: FlowStatus.BID_NOT_FOUND,
        2: FlowStatus.SUCCESS,
        3: FlowStatus.BID_NOT_FOUND,
        4: FlowStatus.MALFORMED,
        5: FlowStatus.SELECTOR_FORMAT_NOT_SUPPORTED,
        6: FlowStatus.MALFORMED,
        10: FlowStatus.MALFORMED,
        11: FlowStatus.REJECTED,
    }
    assert script.flows() == {1: [2], 2: [1]}


def test_a_flow_without_its_bindings_is_inactive_and_comes_back() -> None:
    script = started()
    script.update(bid(2), FlowSummary((1, 2)), lifetime=0)
    (node,) = [one for one in script.agent.status(script.now)["nodes"] if one["home_address"] == str(HOME)]
    assert [(one["fid"], one["active"]) for one in node["flows"]] == [(1, False), (2, True)]
    script.update(bid(2, CELLULAR), FlowSummary((1, 2)))
    (node,) = [one for one in script.agent.status(script.now)["nodes"] if one["home_address"] == str(HOME)]
    assert [one["active"] for one in node["flows"]] == [True, True]


def test_partial_deregistration_deletes_flows_it_does_not_name() -> None:
    script = started()
    script.update(bid(2), FlowSummary((2,)), lifetime=0)
    assert script.flows() == {2: [1, 2]}


def test_policy_may_refuse_flow_bindings() -> None:
    script = Script(replace(SETTINGS, flow_bindings=False))
    ack = script.update(bid(1, WLAN), flow(1, 1))
    assert statuses(ack) == {1: FlowStatus.ADMINISTRATIVELY_PROHIBITED}
    assert script.flows() == {}


def test_two_flows_may_swap_priorities_in_one_update() -> None:
    script = started()
    script.update(bid(1), flow(1, 2, priority=20), flow(2, 1, priority=10))
    assert list(script.flows()) == [2, 1]


def test_local_drop_rules_come_first() -> None:
    node = replace(SETTINGS.nodes[0], drops=(IPv6Selector(destination_port=(25, 25)),))
    script = Script(replace(SETTINGS, nodes=(node,)))
    script.update(bid(1, WLAN), flow(1, 1))
    rules = script.agent.forwarding_table().nodes[HOME].rules
    assert [rule.drop for rule in rules] == [True, False]


def test_what_is_copied_upwards_only_has_its_duplicates_eliminated() -> None:
    script = Script()
    for copied in (False, True):
        extension = encode_flow(DEFAULT_ENTERPRISE, FlowExtension(1, copied=copied))
        script.update(bid(1, WLAN), bid(2, CELLULAR), flow(1, 1), extension, flags=AHRO)
        node = script.agent.forwarding_table().nodes[HOME]
        assert [rule.bids for rule in node.rules] == [(1,)]
        assert node.copied == ((node.rules[0].selector,) if copied else ())
    [stored] = [one for one in script.seen if isinstance(one, StoreNode)]
    assert stored.record is not None
    restored = HomeAgent(script.settings, Random(2))
    restored.handle(WallClockSet(WALL), script.now)
    restored.restore({HOME: json.loads(json.dumps(stored.record))}, script.now)
    assert restored.forwarding_table().nodes[HOME].copied == node.copied


def test_a_last_resort_of_unreachable_tells_the_sender() -> None:
    script = Script()
    extension = encode_flow(DEFAULT_ENTERPRISE, FlowExtension(1, drop=True, unreachable=True))
    script.update(bid(1, WLAN), bid(2, CELLULAR), flow(1, 2), extension, flags=AHRO)
    script.update(bid(2), FlowSummary((1,)), lifetime=0)
    [rule] = script.agent.forwarding_table().nodes[HOME].rules
    assert rule.drop and rule.unreachable


def shared(fid: int, *shares: tuple[int, int], drop: bool = False, enterprise: int = DEFAULT_ENTERPRISE) -> Option:
    return encode_flow(enterprise, FlowExtension(fid, shares, drop=drop))


def test_a_shared_flow_has_weights_and_says_so() -> None:
    script = Script()
    ack = script.update(bid(1, WLAN), bid(2, CELLULAR), flow(1, 1), shared(1, (1, 3), (2, 1)), flags=AHRO)
    assert statuses(ack) == {1: 0} and applied(ack.options, DEFAULT_ENTERPRISE) == {1}
    [rule] = script.agent.forwarding_table().nodes[HOME].rules
    assert (rule.bids, rule.weights, rule.drop) == ((1, 2), (3, 1), False)


def test_weights_are_kept_by_the_summary_and_by_the_store_and_end_with_a_plain_restatement() -> None:
    script = Script()
    script.update(bid(1, WLAN), bid(2, CELLULAR), flow(1, 1), shared(1, (1, 3), (2, 1)), flags=AHRO)
    script.update(bid(1), FlowSummary((1,)))
    [stored] = [one for one in script.seen if isinstance(one, StoreNode)]
    assert stored.record is not None
    record = json.loads(json.dumps(stored.record))  # as it comes back from the disk
    script.agent = HomeAgent(script.settings, Random(2))
    script.agent.handle(WallClockSet(WALL), script.now)
    script.agent.restore({HOME: record}, script.now)
    [rule] = script.agent.forwarding_table().nodes[HOME].rules
    assert (rule.bids, rule.weights) == ((1, 2), (3, 1))
    script.update(bid(1), flow(1, 2))
    [rule] = script.agent.forwarding_table().nodes[HOME].rules
    assert (rule.bids, rule.weights) == ((2,), ())


def test_another_vendors_option_changes_nothing() -> None:
    script = Script()
    ack = script.update(bid(1, WLAN), bid(2, CELLULAR), flow(1, 1), shared(1, (1, 3), (2, 1), enterprise=9), flags=AHRO)
    assert statuses(ack) == {1: 0} and not applied(ack.options, DEFAULT_ENTERPRISE)
    [rule] = script.agent.forwarding_table().nodes[HOME].rules
    assert (rule.bids, rule.weights) == ((1,), ())


def test_a_flow_that_drops_as_a_last_resort_drops_without_its_bindings() -> None:
    script = Script()
    script.update(bid(1, WLAN), bid(2, CELLULAR), flow(1, 2), shared(1, drop=True), flags=AHRO)
    assert [rule.drop for rule in script.agent.forwarding_table().nodes[HOME].rules] == [False]
    script.update(bid(2), FlowSummary((1,)), lifetime=0)
    assert [rule.drop for rule in script.agent.forwarding_table().nodes[HOME].rules] == [True]
