"""Which rules hold: the schedule's part, and changes of rules while the mobile node runs. Pure.

A change is the whole new list of rules. It is proposed: the next Binding Update states the flows as they would be,
while this end forwards as before. When the home agent holds them all, this end takes them over too and the change is
answered; when it refuses one, or says nothing within the limit, the old list is what is wanted again and the next
Binding Update takes back whatever the home agent may have accepted (the binding update list knows). Flows that are
equal in both lists are not stated anew, and so are left alone.

While the two ends differ for the time of an exchange nothing is lost: either end takes a flow's packets from
any tunnel.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import tzinfo

from mip6.actions import Action, Answer, Report
from mip6.numbers import FlowStatus
from mobilenode.registration import Goal, Mode, Registration
from mobilenode.settings import FlowSettings, MobileNodeSettings

Rules = tuple[FlowSettings, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that the home agent was not heard of yet; `number` is that of the request it answers, `changed`
    are FIDs."""

    number: int
    rules: Rules
    changed: frozenset[int]
    deadline: float
    limit: float


class FlowChanges:
    """Keeps `Registration.flows` (what the home agent is to hold) and `.rules` (what this end does) as they must be."""

    def __init__(self, settings: MobileNodeSettings, state: Registration) -> None:
        self._zone: tzinfo = settings.zone
        self._state = state
        self._proposal: Proposal | None = None
        self._next_schedule: float | None = None
        self.rules: Rules = settings.flows
        state.rules = state.flows = self.rules

    def propose(self, number: int, rules: Rules, limit: float, now: float) -> None:
        """Begin a change; `limit` in seconds. ValueError while another one is under way."""
        if self._proposal is not None:
            raise ValueError("another change of the rules is under way")
        changed = frozenset(flow.fid for flow in set(rules) ^ set(self.rules))
        self._proposal = Proposal(number, rules, changed, now + limit, limit)
        refused = self._state.refused_flows  # a flow that was refused once is asked for again
        self._state.refused_flows = {fid: one for fid, one in refused.items() if fid not in changed}
        self.update(now)

    def replace(self, rules: Rules, now: float) -> None:
        """Other rules from now on, whatever the home agent says: as at a start."""
        self.rules = rules
        self.update(now)

    def update(self, now: float) -> None:
        """Before anything is sent: which rules hold now."""
        wanted = self.rules if self._proposal is None else self._proposal.rules
        self._state.rules = self._holding(self.rules, now)
        self._state.flows = self._state.rules if wanted is self.rules else self._holding(wanted, now)
        wall = self._wall(now)
        schedules = {flow.schedule for flow in (*self.rules, *wanted) if flow.schedule is not None}
        changes = [one for schedule in schedules if (one := schedule.next_change(wall, self._zone)) is not None]
        self._next_schedule = min(changes) - self._state.wall_offset if changes else None

    def settle(self, now: float) -> list[Action]:
        """After something was heard: the answer to the change, once it is known."""
        proposal, state = self._proposal, self._state
        if proposal is None:
            return []
        refused = state.refused_flow(proposal.changed)
        if refused is not None:
            fid, status = refused
            name = next((flow.name for flow in proposal.rules if flow.fid == fid), str(fid))
            why = "it knows no flow bindings" if status is None else _status_name(status)
            return self._end(proposal, f"the home agent refused {name} (FID {fid}): {why}", now)
        if state.home is not None or state.flows_agreed():
            return self._end(proposal, None, now)
        if proposal.deadline <= now:
            return self._end(proposal, f"the home agent did not answer within {proposal.limit:g} s", now)
        return []

    def deadlines(self) -> list[tuple[float, str]]:
        """When something here has to be looked at."""
        found = [] if self._proposal is None else [(self._proposal.deadline, "change of rules")]
        return found if self._next_schedule is None else [*found, (self._next_schedule, "schedule")]

    def _end(self, proposal: Proposal, refusal: str | None, now: float) -> list[Action]:
        self._proposal = None
        if refusal is None:
            self.rules = proposal.rules
        self.update(now)
        state = self._state
        note = None
        if refusal is None and state.home is not None:
            note = "at home no flow goes through a tunnel; the home agent hears of it when the home link is left"
        elif refusal is None and state.mode is Mode.PLAIN and state.goal is Goal.REGISTERED:
            note = "the home agent takes no flow bindings: only what this mobile node sends follows the rules"
        answer = {"ok": refusal is None, "error": refusal, "note": note}
        fields = {} if refusal is None else {"why": refusal}
        event = "flow rules changed" if refusal is None else "flow rules not changed"
        report = Report(event, "info" if refusal is None else "warning", fields)
        return [report, Answer(proposal.number, {name: one for name, one in answer.items() if one is not None})]

    def _holding(self, rules: Rules, now: float) -> Rules:
        wall = self._wall(now)
        return tuple(one for one in rules if one.schedule is None or one.schedule.holds(wall, self._zone))

    def _wall(self, now: float) -> float:
        """The time of day of this machine, which people set their rules by."""
        return round(now + self._state.wall_offset, 3)  # a wake-up may come a rounding error early


def _status_name(status: int) -> str:
    return FlowStatus(status).name if status in set(FlowStatus) else f"status {status}"
