"""What the next Binding Update says: the first difference between what is wanted and what the home agent may hold.

Functions of the registration's state. A bulk Binding Update is the whole state, with O=1: it replaces all bindings in
one message, so a lost care-of address ends at the home agent in the very message that moves its flows, and bindings of
a former run or of a lost acknowledgement cannot survive. RFC 5648 §5.9 asks for O=1 only after a start; §4.2 allows it
always.
"""

from __future__ import annotations

from mobilenode.bindingupdatelist import Binding, Update
from mobilenode.registration import Goal, Mode, Registration
from mobilenode.turns import TURN, subject
from mobilenode.updates import fit_flows


def work(state: Registration, now: float) -> Update | None:
    """The Binding Update that is needed now, or None when the home agent holds what it is to hold."""
    if state.stopped is not None:
        return None
    bindings = state.update_list.possible_bindings()
    if state.goal is Goal.NOTHING or state.purge:
        if state.cleared and all(values == {None} for values in bindings.values()):
            return None
        return Update(replaces=True, mobile_router=state.mobile_router)
    wanted = {one.bid: state.binding(one) for one in state.active()}
    if not wanted:
        return None
    wrong = [bid for bid, one in wanted.items() if bindings.get(bid, {None}) != {one}]
    surplus = [bid for bid, values in bindings.items() if bid not in wanted and values != {None}]
    stale = [bid for bid in wanted if bid not in wrong and state.update_list.held[bid].refresh <= now]
    if one_by_one(state):
        return _individual(state, wanted, [*wrong, *stale], surplus, now)
    base = _base(state, tuple(wanted.values()), replaces=True)
    full = _with_flows(state, base, wanted)
    if state.overwrite or wrong or surplus or stale or _flows_differ(state, full):
        return full
    return None


def one_by_one(state: Registration) -> bool:
    """Whether each BID is registered by itself: asked for by status 168, or because of a care-of address whose
    Binding Update has to come from itself (RFC 5648 §8.1)."""
    if state.mode is Mode.BULK:
        return any(one.signals_in_udp for one in state.care_of) and any(one.signals_in_udp for one in state.active())
    return state.mode is Mode.INDIVIDUAL


def _individual(
    state: Registration, wanted: dict[int, Binding], wrong: list[int], surplus: list[int], now: float
) -> Update | None:
    """One BID at a time (RFC 5648 §5.2). What moves flows goes at once, by a link that is answered; else the one in
    flight has its turn, so that it is not overtaken by its successor, and then lets the others pass."""
    if state.overwrite:
        first = _turn(state, [], [_base(state, (one,), replaces=True) for one in wanted.values()], now)
        return _with_flows(state, first, {one.bid: one for one in first.bindings})
    bound = {bid: one for bid, one in wanted.items() if bid in state.update_list.held}
    deletes = [Update(deletes=(bid,), mobile_router=state.mobile_router) for bid in surplus]
    others = [_base(state, (wanted[bid],), replaces=False) for bid in wrong]
    urgent: list[Update] = []
    good = [one for one in state.active() if one.bid not in wrong]
    if not good:
        others += deletes
    elif deletes:
        urgent = deletes
    else:
        heard = min(good, key=lambda one: state.access.unanswered(one.link))
        anyway = _base(state, (wanted[heard.bid],), replaces=False)
        urgent = [anyway] if _flows_differ(state, _with_flows(state, anyway, bound)) else []
    if not urgent and not others:
        return None
    update = _turn(state, urgent, others, now)
    return _with_flows(state, update, bound | {one.bid: one for one in update.bindings})


def _turn(state: Registration, urgent: list[Update], others: list[Update], now: float) -> Update:
    """Whose turn it is: who has not been sent yet, then who waits for the least time."""

    def ready(update: Update) -> float:
        if state.in_flight is not None and subject(state.in_flight.update) == subject(update):
            return state.retransmit if now >= state.in_flight.time + TURN else -1.0
        parked = state.parked.get(subject(update))
        if parked is not None:
            return parked.retransmit
        return -2.0 if update in urgent else 0.0

    return min([*urgent, *others], key=ready)


def _base(state: Registration, bindings: tuple[Binding, ...], *, replaces: bool) -> Update:
    return Update(
        bindings=bindings,
        replaces=replaces,
        overwrite=replaces and state.mode is not Mode.PLAIN,
        mobile_router=state.mobile_router,
        explicit_prefixes=state.mobile_router and state.explicit,
    )


def _with_flows(state: Registration, base: Update, bound: dict[int, Binding]) -> Update:
    """`base` with every flow that is to be kept; flows may only name BIDs that are `bound` (RFC 6089 §5.2)."""
    if state.mode is Mode.PLAIN:
        return base
    possible = state.update_list.possible_flows()
    wanted = state.wanted_flows()
    as_wanted = tuple(flow.fid for flow in wanted if possible.get(flow.fid) == {flow})
    changed = [flow for flow in wanted if flow.fid not in as_wanted]
    full = tuple(flow for flow in changed if set(flow.bids) <= bound.keys())
    later = {flow.fid for flow in changed if flow not in full}
    resting = sorted(fid for fid in state.resting_flows() | later if fid in state.update_list.flows)
    return fit_flows(state.settings, base, full, state.update_list.flows, (*as_wanted, *resting))


def _flows_differ(state: Registration, update: Update) -> bool:
    """Whether this update would change a flow: state one in full, or end one by leaving it out."""
    if update.flows:
        return True
    named = set(update.kept)
    return any(fid not in named and values != {None} for fid, values in state.update_list.possible_flows().items())
