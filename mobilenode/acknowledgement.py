"""What a Binding Acknowledgement means (RFC 6275 §11.7.3, RFC 3963 §5.4, RFC 5648 §5, RFC 6089 §5.2, RFC 4285).

An acknowledgement counts only when it is authenticated, answers an outstanding Binding Update by its number (status 135
carries another) and repeats that update's timestamp. Everything else is silence.
"""

from __future__ import annotations

from mip6.actions import Action, Report
from mip6.auth import NTP_EPOCH
from mip6.flowextension import applied
from mip6.messages import BindingAcknowledgement
from mip6.numbers import AckFlag, BindingStatus, FlowStatus
from mip6.options import (
    BindingIdentifier,
    BindingRefreshAdvice,
    FlowIdentification,
    MessageIdentification,
    NatDetection,
)
from mobilenode.bindingupdatelist import PLAIN, FlowBinding, SentUpdate
from mobilenode.registration import SLOWEST_RETRY, Mode, Registration

ACCEPTED_BELOW = 128
CLOCK_TOLERANCE = 2.0  # seconds: the answer has whole seconds only, and travelled


def acknowledge(state: Registration, message: BindingAcknowledgement, now: float) -> list[Action] | None:
    """Apply an authenticated acknowledgement; None when it answers nothing that is outstanding."""
    sent = _answered(state, message)
    if sent is None:
        return None
    state.access.answered(sent.link, now)
    return _judge(state, sent, message, now)


def _judge(state: Registration, sent: SentUpdate, message: BindingAcknowledgement, now: float) -> list[Action]:
    state.silent = None
    if message.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW:
        return _resynchronise(state, message.sequence)
    if message.status == BindingStatus.MIPV6_ID_MISMATCH:
        return _set_clock(state, sent, message, now)
    if message.status < ACCEPTED_BELOW:
        return _accepted(state, sent, message, now)
    return _rejected(state, sent, message.status, now)


def _answered(state: Registration, message: BindingAcknowledgement) -> SentUpdate | None:
    stamp: MessageIdentification | None = message.find(MessageIdentification)
    if message.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW:
        for one in reversed(state.update_list.outstanding):
            if one.timestamp is None or (stamp is not None and stamp.timestamp == one.timestamp):
                return one
        return None
    sent = state.update_list.find(message.sequence)
    if sent is None or sent.timestamp is None or message.status == BindingStatus.MIPV6_MESG_ID_REQD:
        return sent
    if stamp is None:
        return None
    mask = 0xFFFFFFFF if message.status == BindingStatus.MIPV6_ID_MISMATCH else (1 << 64) - 1
    return sent if (stamp.timestamp ^ sent.timestamp) & mask == 0 else None  # RFC 4285 §6


# --- accepted -------------------------------------------------------------------------------------------------------


def _accepted(state: Registration, sent: SentUpdate, message: BindingAcknowledgement, now: float) -> list[Action]:
    update = sent.update
    state.update_list.supersede(sent)
    if state.in_flight is not None and state.in_flight not in state.update_list.outstanding:
        state.in_flight = None
    state.hold = state.stopped = None
    if update.deregisters:
        return _deregistered(state, sent)
    if message.lifetime == 0:  # accepted for no time at all: nothing is bound
        return _wait(state, "binding granted for no time", now, {})
    if update.mobile_router and not message.flags & AckFlag.MOBILE_ROUTER:
        # RFC 3963 §5.3: it has no support for mobile routers; there is no other home agent to go to
        state.mobile_router = False
    state.refusals = 0
    if message.status == BindingStatus.PREFIX_DISCOVERY_NECESSARY:
        state.solicit = True
    actions: list[Action] = []
    advice: BindingRefreshAdvice | None = message.find(BindingRefreshAdvice)
    interval = None if advice is None else advice.interval
    answers = {one.bid: one.status for one in message.find_all(BindingIdentifier)}
    if update.replaces:
        state.update_list.held.clear()
        state.overwrite = False
    for binding in update.bindings:
        status = BindingStatus.ACCEPTED if binding.bid == PLAIN else answers.get(binding.bid)
        if status is None and not answers:
            # RFC 5648 §5.2: it knows no BIDs, and made one plain binding at best
            state.mode = Mode.PLAIN
            state.update_list.clear()
            actions.append(Report("home agent knows no BIDs", "warning"))
            break
        if status is None or status >= ACCEPTED_BELOW:
            code = BindingStatus.REASON_UNSPECIFIED if status is None else status
            state.refuse_bid(binding, code, now)
            actions.append(Report("BID refused", "warning", {"bid": binding.bid, "status": _name(code)}))
        else:
            state.bind(binding, message.lifetime, sent, interval, message.find(NatDetection))
    actions += _flows(state, sent, message)
    actions += state.ipv4.acknowledged(state.settings, message)
    fields: dict[str, object] = {
        "status": _name(message.status),
        "sequence": sent.sequence,
        "lifetime": message.lifetime,
        "bindings": {one.binding.bid: str(one.binding.care_of_address) for one in state.update_list.held.values()},
    }
    return [*actions, Report("registered", fields=fields)]


def _deregistered(state: Registration, sent: SentUpdate) -> list[Action]:
    if sent.update.deletes:
        for bid in sent.update.deletes:
            state.update_list.held.pop(bid, None)
        named = {*sent.update.kept}
        state.update_list.flows = {fid: flow for fid, flow in state.update_list.flows.items() if fid in named}
        if state.update_list.held:
            return [Report("BID deregistered", fields={"bids": list(sent.update.deletes)})]
    state.update_list.clear()
    state.cleared, state.purge, state.overwrite = True, False, True
    return [Report("deregistered", fields={"sequence": sent.sequence})]


def _flows(state: Registration, sent: SentUpdate, message: BindingAcknowledgement) -> list[Action]:
    """RFC 6089 §5.2: each flow stated in full has its status; a flow of the summary only when it is unknown (132)."""
    answers: dict[int, int] = {one.fid: one.status for one in message.find_all(FlowIdentification)}
    extended = applied(message.options, state.settings.enterprise)
    actions: list[Action] = []
    flows: dict[int, FlowBinding] = {}
    for fid in sent.update.kept:
        if fid in state.update_list.flows and answers.get(fid) != FlowStatus.FID_NOT_FOUND:
            flows[fid] = state.update_list.flows[fid]
    for flow in sent.update.flows:
        status = answers.get(flow.fid)
        if status == FlowStatus.SUCCESS:
            flows[flow.fid] = flow
            state.refused_flows.pop(flow.fid, None)
            if flow.extension() is not None:
                state.shares = flow.fid in extended
            if not state.shares and flow.extension() is not None:
                actions.append(Report("home agent applies no flow extension", "warning", {"fid": flow.fid}))
            continue
        if flow.fid in state.update_list.flows:
            flows[flow.fid] = state.update_list.flows[flow.fid]  # a refused change leaves the flow as it was
        if status != FlowStatus.FID_NOT_FOUND:  # that one is simply stated again
            state.refused_flows[flow.fid] = (flow, status)
        why = "no answer" if status is None else _flow_name(status)  # no answer: it does not know flow bindings
        actions.append(Report("flow binding refused", "warning", {"fid": flow.fid, "status": why}))
    state.update_list.flows = flows
    return actions


# --- rejected -------------------------------------------------------------------------------------------------------


def _rejected(state: Registration, sent: SentUpdate, status: int, now: float) -> list[Action]:
    """Statuses from 128 on: the home agent changed nothing (RFC 6275 §10.3.1). Fix the cause, or wait."""
    update = sent.update
    fields: dict[str, object] = {"status": _name(status), "sequence": sent.sequence}
    if state.in_flight is sent:
        state.in_flight = None
    if status == BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE and update.deregisters:
        # nothing was bound (RFC 6275 §10.3.2), or not that BID (RFC 5648 §6.3): as wanted
        state.update_list.supersede(sent)
        return _deregistered(state, sent)
    state.update_list.drop(sent)
    if _superseded(state, sent):
        return [Report("binding update refused", "info", fields)]
    if status == BindingStatus.ADMINISTRATIVELY_PROHIBITED and any(one.force_udp for one in update.bindings):
        otherwise = state.access.udp_refused(sent.link)
        if otherwise:
            return [Report("binding update refused, trying otherwise", "warning", fields), *otherwise]
    match status:
        case BindingStatus.MIPV6_AUTH_FAIL | BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED:
            state.stop(status, now)  # RFC 4285 §5.3: no more Binding Updates, but the only uplink is not lost for ever
            return [Report("binding update refused, giving up", "error", {**fields, "retry_after": SLOWEST_RETRY})]
        case BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED if not update.deregisters and state.refusals == 0:
            state.purge, state.cleared = True, False  # RFC 6275 §11.7.3: delete, then register with the right flags
            state.refusals += 1
        case BindingStatus.MOBILE_ROUTER_OPERATION_NOT_PERMITTED if state.mobile_router:
            state.mobile_router = False  # RFC 3963 §5.4: no more R=1; the home address at least stays reachable
        case BindingStatus.FORWARDING_SETUP_FAILED if not state.explicit and state.settings.prefixes:
            state.explicit = True  # RFC 3963 §5.4: it knows no prefixes of this router: name them
        case BindingStatus.MIPV6_MESG_ID_REQD if not state.timestamps:
            state.timestamps = True
        case BindingStatus.MCOA_NON_MCOA_BINDING_EXISTS if not update.overwrite:
            state.overwrite = True
        case BindingStatus.MCOA_PROHIBITED if state.mode is not Mode.PLAIN:
            state.mode, state.overwrite = Mode.PLAIN, True
            state.update_list.clear()
        case BindingStatus.MCOA_BULK_REGISTRATION_PROHIBITED if state.mode is Mode.BULK:
            state.mode, state.overwrite = Mode.INDIVIDUAL, True
        case _:
            return _wait(state, "binding update refused", now, fields)
    return [Report("binding update refused, trying otherwise", "warning", fields)]


def _superseded(state: Registration, sent: SentUpdate) -> bool:
    """Whether something else was said to the home agent since, or would be now: the answer to that decides."""
    bids = [one.bid for one in sent.update.bindings]
    if (state.mode is Mode.PLAIN and any(bids)) or (state.mode is Mode.INDIVIDUAL and len(bids) > 1):
        return True
    newer = state.in_flight
    return newer is not None and newer.update != sent.update and newer.time >= sent.time


def _wait(state: Registration, event: str, now: float, fields: dict[str, object]) -> list[Action]:
    return [Report(event, "warning", {**fields, "retry_after": state.hold_back(now)})]


def _resynchronise(state: Registration, last: int) -> list[Action]:
    """Status 135: `last` is the last number the home agent accepted (RFC 6275 §11.7.3).

    When the next number is acceptable anyway, this answers a repeated or overtaken Binding Update: its newer sibling or
    the retransmission will do.
    """
    if 1 <= (state.update_list.sequence + 1 - last) % 65536 <= 32767:
        return []
    state.update_list.sequence = last
    state.in_flight = None
    return [Report("sequence number resynchronised", fields={"sequence": last})]


def _set_clock(state: Registration, sent: SentUpdate, message: BindingAcknowledgement, now: float) -> list[Action]:
    """Status 144: the upper half of MESG-ID is the home agent's clock (RFC 4285 §6).

    If that lies between sending and now, the clocks agree and the update was only repeated or overtaken on its way.
    """
    stamp: MessageIdentification | None = message.find(MessageIdentification)
    if stamp is None or sent.clock != state.clock:
        return []  # clocks were set since
    theirs = stamp.timestamp >> 32
    late = _seconds(theirs - NTP_EPOCH - state.wall(now))
    early = _seconds(theirs - NTP_EPOCH - state.wall(sent.time))
    if late <= CLOCK_TOLERANCE and early >= -CLOCK_TOLERANCE:
        return []
    state.correction += late + 0.5  # the middle of the second that was named
    state.clock += 1
    state.last_timestamp = 0  # no greater one than the home agent's time was ever accepted
    state.in_flight = None
    return [Report("clock corrected by the home agent's", "warning", {"seconds": round(late, 1)})]


def _seconds(difference: float) -> float:
    """A difference of NTP seconds, which wrap in 2036."""
    return (difference + (1 << 31)) % (1 << 32) - (1 << 31)


def _name(status: int) -> str:
    return BindingStatus(status).name if status in set(BindingStatus) else str(status)


def _flow_name(status: int) -> str:
    return FlowStatus(status).name if status in set(FlowStatus) else str(status)
