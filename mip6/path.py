"""One path as seen from one end: its state, and when it is probed.

Probes go every `interval` while the path carries traffic, every `idle_interval` while not, twice as often after a lost
one, and at random up to a fifth earlier, never later. A metered path that carries nothing and is not needed is left
alone. The home agent does not lead: while the node's own probes come in it sends few, and none on an idle path. It
keeps to the node's pace, and a path over which it has never heard one it leaves alone: the node does not probe it.

A probe without an answer within the time-out, which follows the round-trip time, is lost. A path that lost `lost`
probes in a row over some time *fails*; what that means its sisters say, see `mip6.paths`. One that always loses a share
of its probes needs more of them in a row, so that chance alone makes it fail hardly more than once in an hour.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mip6.measurement import Measurement, Reflection

HASTE = 0.5  # of the interval, after a lost probe
LEAST_SILENCE = 1.75  # intervals from the first lost probe without an answer until a path fails
FIRST_PROBES = 10  # at the full rate, to know a new path soon
GIVE_UP = 60  # probes that nobody ever answered, after which they become rare
RARE = 10  # times the idle interval
MISSING = 1.5  # intervals without a probe of the leading end until the other end probes by itself
OPINION = 0.25  # seconds between two probes of an idle path for the sake of its sisters
CHANCE = 1 / 36000  # of a false alarm per probe: one in an hour at ten probes a second
ENOUGH = 20  # probes of known fate, for their share of lost ones to mean all it says
MOST_LOST = 12  # in a row are enough for any path
LONG_SILENCE = 64  # lost probes, after which a silent far end is probed slowly
NEVER = math.inf


class PathState(StrEnum):
    """What is known of a path; the words of `mip6 status`."""

    UNMEASURED = "unmeasured"  # no probe was ever answered
    UP = "up"
    SILENT = "silent"  # nothing is heard of the far end on any path
    RECOVERING = "recovering"  # answers again, and is held back for a while
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Times in seconds; `lost` counts probes in a row. `metered`: hardly a probe while there is no traffic."""

    probe: bool = True
    interval: float = 0.1
    idle_interval: float = 1.0
    lost: int = 3
    hold: float = 3.0
    longest_hold: float = 60.0
    metered: bool = False


NOT_MEASURED = PathSettings(probe=False)


class Path:
    """What one end knows of a path; `mip6.paths.Paths` drives it.

    `busy`: it carries traffic; `needed`: flows are assigned to it; `attached`: it has a tunnel, which may be `sendable`
    or only receive.
    """

    __slots__ = (
        "_answered", "_asked", "_first", "_heard", "_hurried", "_jitter", "_judged", "_lost", "_numbered", "_pace",
        "_pending", "_sent",
        "attached", "busy", "failures", "measurement", "needed", "reflection", "sendable", "sequence", "settings",
        "since", "ssid", "state", "until",
    )  # fmt: skip

    def __init__(self, settings: PathSettings, now: float) -> None:
        self.settings, self.state, self.since = settings, PathState.UNMEASURED, now
        self.attached = self.sendable = self.busy = self.needed = True
        self.measurement = Measurement()
        self.reflection = Reflection()
        self.ssid = self.sequence = 0
        self.failures = 0  # since the path was last up for long
        self.until = NEVER  # when a path that is recovering is up
        self._first = FIRST_PROBES  # to be sent at the full rate
        self._jitter = 1.0
        self._sent = -NEVER  # when the last probe was
        self._hurried = False  # a probe is wanted at once
        self._asked = -NEVER  # when it was last probed for the sake of its sisters
        self._heard = -NEVER  # when the far end's last probe came
        self._numbered = -1  # and which
        self._pace = NEVER  # the shortest time from one of its probes to the next
        self._answered = -NEVER  # when the newest probe that was answered was sent
        self._pending: deque[tuple[int, float]] = deque()  # probes whose time is not over, oldest first
        self._lost: deque[float] = deque(
            maxlen=LONG_SILENCE
        )  # when those were sent that were lost since the last answered one
        self._judged = -NEVER

    def begin(self, ssid: int) -> None:
        """A new session of probes."""
        self.ssid, self.sequence, self._first, self._sent = ssid, 0, FIRST_PROBES, -NEVER
        self.measurement.new_session()
        self.forget()

    def forget(self) -> None:
        """What is not answered yet says nothing any more."""
        self._pending.clear()
        self._lost.clear()

    def enter(self, state: PathState, now: float) -> None:
        """From now on the path is in this state."""
        self.state, self.since = state, now

    # --- when it is probed --------------------

    def due(self, leads: bool) -> float:
        """When something is to be done: a probe to be sent or given up, the path to be judged."""
        if not self.attached:
            return NEVER
        due = self._next_probe(leads)
        if self._pending:
            due = min(due, self._pending[0][1] + self.measurement.timeout())
        if self._lost and self._silent_at() > self._judged:
            due = min(due, self._silent_at())
        if self.state is PathState.RECOVERING and not self._lost:
            due = min(due, self.until)
        return due

    def wants_probe(self, leads: bool, now: float) -> bool:
        """Whether a probe is to be sent now."""
        return self.attached and self._next_probe(leads) <= now

    def _next_probe(self, leads: bool) -> float:
        settings = self.settings
        if not (settings.probe and self.sendable) or (not leads and self._heard == -NEVER):
            return NEVER
        if self._hurried:
            return -NEVER
        following = not leads and self.state is PathState.UP and not self._lost
        if not following:
            return self._sent + self._interval(leads) * self._jitter
        if not self.busy:
            return NEVER
        pace = settings.interval if self._pace == NEVER else max(settings.interval, self._pace)
        unheard = max(self._sent + settings.interval * self._jitter, self._heard + MISSING * pace)
        return min(self._sent + settings.idle_interval * self._jitter, unheard)

    def _interval(self, leads: bool) -> float:
        settings = self.settings
        idle = settings.idle_interval * (RARE if settings.metered else 1)
        match self.state:
            case PathState.UNMEASURED | PathState.DOWN if self._first:
                return settings.interval
            case PathState.UNMEASURED:
                return idle * RARE if self.measurement.sent >= GIVE_UP else idle
            case PathState.RECOVERING:
                return settings.interval
            case PathState.DOWN:
                return idle
            case PathState.SILENT:
                # not this end's business to find out soon; and a reflector that cannot follow needs no more to do
                return settings.interval if leads and len(self._lost) < LONG_SILENCE else settings.idle_interval
        if self._lost:
            return settings.interval * HASTE
        if self.busy:
            return settings.interval
        return settings.idle_interval if self.needed or not settings.metered else NEVER

    def probe(self, timestamp: int, jitter: float, now: float) -> int:
        """A probe leaves: its sequence number."""
        sequence = self.sequence
        self.sequence += 1
        self.measurement.probe(sequence, timestamp, now)
        self._pending.append((sequence, now))
        self._sent, self._jitter, self._first, self._hurried = now, jitter, max(0, self._first - 1), False
        return sequence

    def hurry(self, since: float, now: float) -> None:
        """Somebody wants to know how the path has fared since then: probe at once, unless that was done lately."""
        if self._sent < since and now - self._asked >= OPINION:
            self._asked, self._hurried = now, True

    def heard(self, sequence: int, now: float) -> None:
        """The far end's probe of this number came."""
        if sequence > self._numbered >= 0:
            self._pace = min(self._pace, (now - self._heard) / (sequence - self._numbered))
        self._heard, self._numbered = now, sequence
        if self.state is PathState.DOWN:
            self.hurry(now - self.settings.interval, now)

    def own_packets(self) -> int:
        """How many packets of measurement the tunnel has carried, both ways."""
        return (
            self.measurement.sent + self.measurement.answers + 2 * self.reflection.answered + self.reflection.repeated
        )

    # --- how it fares --------------------

    def answered(self, sent: float) -> None:
        """A probe, sent then, is answered."""
        if self.state is PathState.DOWN:
            self.measurement.outage_over()
        if sent > self._answered:
            self._answered = sent
            while self._lost and self._lost[0] <= sent:
                self._lost.popleft()
        while self._pending and not self.measurement.is_open(self._pending[0][0]):
            self._pending.popleft()

    def judge(self, now: float) -> bool:
        """Give up probes whose time is over; whether the first in a row was among them."""
        self._judged = now
        before = len(self._lost)
        timeout = self.measurement.timeout()
        while self._pending and self._pending[0][1] + timeout <= now:
            sequence, sent = self._pending.popleft()
            if sent > self._answered and self.measurement.is_open(sequence):
                self._lost.append(sent)
        return before == 0 and bool(self._lost)

    def suspected(self) -> bool:
        """Whether the last probe of known fate was lost."""
        return bool(self._lost)

    def trouble_since(self) -> float:
        """When the first probe was sent that was lost since the last answered one."""
        return self._lost[0] if self._lost else NEVER

    def fails(self, now: float) -> bool:
        """Whether so much is lost that the path cannot be used."""
        lost = len(self._lost)
        return lost >= self.settings.lost and self._silent_at() <= now and lost >= self._enough()

    def _silent_at(self) -> float:
        return self._lost[0] + LEAST_SILENCE * self.settings.interval

    def _enough(self) -> int:
        """How many probes lost in a row are no chance any more, given what the path loses anyway."""
        count, out, back = self.measurement.recent_loss()
        share = (out + back) * min(1.0, count / ENOUGH)  # a loss among few probes says less, but it says something
        if share <= 0:
            return self.settings.lost
        if share >= 1:
            return MOST_LOST
        return max(self.settings.lost, min(MOST_LOST, math.ceil(math.log(CHANCE) / math.log(share))))

    # --- looking --------------------

    def describe(self, now: float) -> dict[str, Any]:
        """As `mip6 status` has it; times in milliseconds, losses in percent."""
        quality = self.measurement.quality()
        return {
            "state": str(self.state),
            "since": round(now - self.since, 1),
            "rtt_ms": _milliseconds(quality.rtt),
            "rtt_minimum_ms": _milliseconds(quality.rtt_minimum),
            "rtt_last_ms": _milliseconds(quality.rtt_last),
            "variation_out_ms": _milliseconds(quality.variation_out),
            "variation_in_ms": _milliseconds(quality.variation_in),
            "queue_out_ms": _milliseconds(quality.queue_out),
            "queue_in_ms": _milliseconds(quality.queue_in),
            "loss_out_percent": round(quality.loss_out * 100, 2),
            "loss_in_percent": round(quality.loss_in * 100, 2),
            "probes_sent": quality.probes_sent,
            "probes_answered": quality.probes_answered,
            "probes_lost_out": quality.probes_lost_out,
            "probes_lost_in": quality.probes_lost_in,
            "probes_reflected": self.reflection.answered,
            "busy": self.busy,
        }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
