"""What a mobile node knows beside its forwarding table, for `mip6 explain`: why a link is not used, what rests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mip6.explain import Absent, Background, explain, walk
from mip6.forwarding import FlowRule, ForwardingTable
from mip6.lookup import Plain
from mip6.packet import Parsed
from mobilenode import views
from mobilenode.balance import Balance
from mobilenode.movement import CareOfAddress
from mobilenode.policy import Direction
from mobilenode.registration import Registration
from mobilenode.settings import FlowSettings, MobileNodeSettings


def background(
    settings: MobileNodeSettings, state: Registration, rules: Iterable[FlowSettings], loads: Mapping[str, str]
) -> Background:
    """`rules`: all of them, also those that do not hold now. `loads` of links, in the direction that is asked about."""
    every = tuple(rules)
    holding = set(state.rules)
    links = {link.bid: link.name for link in settings.links} | {one.bid: one.link for one in state.active()}
    return Background(
        names={flow.fid: flow.name for flow in every},
        ways={flow.fid: flow.uplink.describe() for flow in every},
        links=links,
        unused=_unused(settings, state),
        absent=tuple(
            Absent(flow.fid, flow.priority, flow.name, flow.selector, _resting(flow))
            for flow in every
            if flow not in holding
        ),
        loads={bid: loads[link] for bid, link in links.items() if link in loads},
        balanced=frozenset(flow.fid for flow in every if flow.down.balance or flow.uplink.balance),
    )


def explain_here(
    settings: MobileNodeSettings,
    state: Registration,
    rules: Iterable[FlowSettings],
    table: ForwardingTable,
    balance: Balance,
    packet: Parsed,
) -> dict[str, Any]:
    """Packets from the mobile node by its table; packets to it by what the home agent has acknowledged."""
    upwards = Plain(table).owner(packet.source) is not None or Plain(table).owner(packet.destination) is None
    told = background(settings, state, rules, balance.words(Direction.UP if upwards else Direction.DOWN))
    if upwards:
        answer = explain(table, packet, {settings.home_address: told})
        if state.home is not None:
            answer["outcome"] = "at home: it goes without a tunnel"
        return answer
    held = state.update_list.held
    flows = sorted(state.update_list.flows.values(), key=lambda one: (one.priority, one.fid))
    believed = [FlowRule(one.fid, one.priority, one.selector, one.bids, weights=one.weights) for one in flows]
    steps, chosen = walk(believed, set(held), packet, reverse=False, told=told)
    taken = dict(zip(chosen.bids, chosen.weights or (None,) * len(chosen.bids), strict=True)) if chosen else {}
    best = min(held.values(), key=lambda one: (one.binding.priority, one.binding.bid), default=None)
    if chosen is None and best is not None:
        taken = {best.binding.bid: None}
    words = "as the home agent has acknowledged" if held else "the home agent has no binding: it is dropped there"
    return {
        "ok": True,
        "node": str(settings.home_address),
        "direction": "to the mobile node",
        "decides": "home agent",
        "rules": [{**step, "way": _down(rules, int(step["fid"]))} for step in steps],
        "outcome": words if chosen is not None or not held else "no rule decides: the best link takes it",
        "bindings": [
            {
                "bid": bid,
                "link": told.links.get(bid),
                "care_of_address": str(held[bid].binding.care_of_address),
                "used": bid in taken,
                "weight": taken.get(bid),
                "why": told.why(chosen, bid) if bid in taken else "works, but is not chosen",
            }
            for bid in sorted(held)
        ],
    }


def _down(rules: Iterable[FlowSettings], fid: int) -> str | None:
    return next((flow.down.describe() for flow in rules if flow.fid == fid), None)


def _resting(flow: FlowSettings) -> str:
    assert flow.schedule is not None  # what does not hold has one
    return f"does not hold now (only {flow.schedule.describe()})"


def _unused(settings: MobileNodeSettings, state: Registration) -> dict[int, str]:
    """Why a binding is not used for sending; nothing for those that could be."""
    found: dict[int, str] = {}
    sending = views.usable(state)
    present = {one.link for one in state.care_of}
    for link in settings.links:
        if link.name not in present:
            found[link.bid] = "the link is down, or has no address or router"
    registrable = {one.bid for one in state.active()}
    for one in state.care_of:
        if one.bid not in registrable and not any(bid == 0 for bid in registrable):
            found[one.bid] = "the home agent refused its registration"
    in_use = {one.bid for one in state.in_use(sending.values())}
    for one in state.active():
        if one.leaving is not None:
            found[one.bid] = "its prefix or router was withdrawn"
        elif not state.settings.sends(one.link):
            found[one.bid] = "the link is receive-only"
        elif one.bid not in sending:
            found[one.bid] = "not yet acknowledged by the home agent"
        elif one.bid not in in_use:
            found[one.bid] = _held_back(state, one)
    return found


def _held_back(state: Registration, one: CareOfAddress) -> str:
    if one.link in state.spent:
        return "its monthly volume is used up"
    if one.bid in state.unproven:
        return "no probe has got through it yet"
    return f"its path is {state.paths[one.bid]}"
