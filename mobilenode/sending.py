"""When Binding Updates are sent, and sent again (RFC 6275 §11.7, §11.8). Functions of the registration's state."""

from __future__ import annotations

from mip6.actions import Action, Report, SendPacket
from mip6.numbers import FlowStatus
from mobilenode.bindingupdatelist import SentUpdate, Update
from mobilenode.movement import Source
from mobilenode.plan import one_by_one, work
from mobilenode.registration import MAX_UPDATE_RATE, Goal, Registration
from mobilenode.turns import TURN, Parked, subject
from mobilenode.updates import binding_update

INITIAL_BINDACK_TIMEOUT = 1.0  # seconds, RFC 6275 §12
FIRST_REGISTRATION_TIMEOUT = 1.5  # seconds, InitialBindackTimeoutFirstReg, RFC 6275 §13
MAX_BINDACK_TIMEOUT = 32.0  # seconds, RFC 6275 §12
HOPELESS = (FlowStatus.MALFORMED, FlowStatus.SELECTOR_FORMAT_NOT_SUPPORTED)  # the same flow would be refused again


def advance(state: Registration, now: float) -> list[Action]:
    """Expire what is over, then send what is due. Sets `due`, when to look again for the sake of a packet."""
    actions: list[Action] = [
        Report("binding expired", "warning", {"bid": bid}) for bid in state.update_list.expire(now)
    ]
    state.refused = {bid: one for bid, one in state.refused.items() if now < one.retry}
    actions += _drop_ending(state, now)
    if state.hold is not None and state.hold <= now:
        state.hold = state.stopped = None
    state.due = None
    update = work(state, now)
    if update is None:
        state.in_flight, state.silent, state.asked_link, state.asking = None, None, None, False
        state.parked.clear()
        return actions
    if state.hold is not None:
        return actions
    if _leaves_by(state, update) is None or state.home_agent is None:
        # nothing can be sent; when a link comes back the first try goes out at once
        state.in_flight, state.silent = None, None
        return actions
    _change_turns(state, update)
    again = state.in_flight is not None and state.in_flight.update == update
    if again and now < state.retransmit:
        state.due = _next_turn(state, now)
        return actions
    if len(state.send_times) == MAX_UPDATE_RATE and now < state.send_times[0] + 1.0:
        state.due = state.send_times[0] + 1.0
        return actions
    if again and state.in_flight is not None:
        update = state.in_flight.update  # the very same, so that the list knows it for a repetition
        state.interval = min(state.interval * 2, MAX_BINDACK_TIMEOUT)
        state.tries += 1
        if state.interval == MAX_BINDACK_TIMEOUT and state.tries < 6:
            actions.append(Report("home agent does not answer", "warning", {"tries": state.tries}))
    else:
        state.interval = INITIAL_BINDACK_TIMEOUT if state.update_list.held else FIRST_REGISTRATION_TIMEOUT
        state.tries = 0
    actions.append(_send(state, update, now))
    state.retransmit = now + state.interval
    state.due = _next_turn(state, now)
    return actions


def _change_turns(state: Registration, update: Update) -> None:
    """Where each BID is registered by itself, the one in flight waits for its next turn beside the others."""
    if not one_by_one(state):
        state.parked.clear()
        return
    flying = state.in_flight
    if flying is not None and subject(flying.update) != subject(update):
        state.parked[subject(flying.update)] = Parked(flying, state.interval, state.retransmit, state.tries)
        parked = state.parked.pop(subject(update), None)
        if parked is not None and parked.sent.update == update:
            state.in_flight, state.interval = parked.sent, parked.interval
            state.retransmit, state.tries = parked.retransmit, parked.tries


def _next_turn(state: Registration, now: float) -> float:
    """When the one in flight is sent again, or another may be sent."""
    assert state.in_flight is not None
    over = state.in_flight.time + TURN
    return min(state.retransmit, over) if one_by_one(state) and now < over else state.retransmit


def _drop_ending(state: Registration, now: float) -> list[Action]:
    """Deregister a care-of address before it ends: its packets would go to nobody, or to the next to have it."""
    ending = [one for one in state.care_of if one.ending(now)]
    state.care_of = tuple(one for one in state.care_of if one not in ending)
    return [
        Report(
            "care-of address ends",
            "info" if one.leaving else "warning",
            {"bid": one.bid, "care_of_address": str(one.address)},
        )
        for one in ending
    ]


def deadline(state: Registration) -> tuple[float, str] | None:
    """When `advance` has to be called again, and why."""
    times: list[tuple[float, str]] = []
    if state.due is not None:
        times.append((state.due, "binding update"))
    if state.hold is not None:
        times.append((state.hold, "retry after refusal"))
    if state.stopped is None:
        times += [(one.retry, "retry of a BID") for one in state.refused.values()]
        if state.goal is Goal.REGISTERED and state.due is None and state.hold is None and state.active():
            times += [(one.refresh, "refresh") for one in state.update_list.held.values()]
    times += [(one.expires, "binding expires") for one in state.update_list.held.values()]
    times += [(ends, "care-of address ends") for one in state.care_of if (ends := one.ends) is not None]
    return min(times, default=None)


def _leaves_by(state: Registration, update: Update) -> Source | None:
    """Where a Binding Update leaves. Inside UDP it leaves by the care-of address that it states, by no other."""
    stated = {one.care_of_address for one in update.bindings}
    own = next((one for one in state.care_of if one.address in stated), None)
    if state.home is None and own is not None and own.signals_in_udp:
        return own.source()
    return state.source(state.tries) if update.bindings else state.source_in_udp(state.tries)


def _send(state: Registration, update: Update, now: float) -> SendPacket:
    source = _leaves_by(state, update)
    assert source is not None and state.home_agent is not None
    held = state.update_list.held
    if any(held[one.bid].refresh <= now for one in update.bindings if one.bid in held):
        # a refresh is the time to ask again for a flow that the home agent had no room for or did not allow; while
        # another BID's is due, flows asked for again would go before it every time
        state.refused_flows = {fid: one for fid, one in state.refused_flows.items() if one[1] in HOPELESS}
    sequence = (state.update_list.sequence + 1) % 65536
    lifetime = _lifetime(state, update, now)
    sent = SentUpdate(update, sequence, state.timestamp(now), state.clock, now, lifetime, source.link)
    state.update_list.sent(sent)
    state.access.sent(source.link, now)
    state.in_flight = sent
    state.cleared = False
    state.send_times.append(now)
    if state.silent is None:
        state.silent = now
    return binding_update(state.settings, sent, source, state.home_agent, state.ipv4.wanted(state.settings))


def _lifetime(state: Registration, update: Update, now: float) -> int:
    """No longer than the home address and any care-of address are valid (RFC 6275 §11.7.1); units of 4 seconds."""
    named = {one.care_of_address for one in update.bindings}
    ends = [one.valid_until - now for one in state.care_of if one.address in named and one.valid_until is not None]
    if state.home_until is not None:
        ends.append(state.home_until - now)
    return max(4, int(min([state.settings.lifetime, *ends])) // 4 * 4)
