"""What the answers to STAMP probes say of a path: round-trip time, delay variation and loss of each direction.

`out` is the direction from this end to the far one, `in` the other. Nothing here needs a common clock: the round trip
is (T4 - T1) - (T3 - T2), and of one-way delays only the variation is known (RFC 3550 §6.4.1), and how much one is above
the least of late: the queue on its way. A clock that jumps shows itself, for no delay can change by more than the round
trip it is part of.

Loss is not counted event by event but follows from three numbers: of the probes up to the newest answered one, the
reflector's own count says how many arrived, and the answers are counted here. So late and reordered answers correct
the result by themselves. The count of a reflector that was restarted begins again: an answer with a number no greater
than that of one which was here before its probe was sent, or which left the reflector earlier, begins a new `_Count`.
What was lost around the restart counts as lost on the way out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mip6.stamp import MASK64, AnyReply, as_ntp

REMEMBERED = 1024  # probes whose answer is still taken, however late
WINDOW = 10  # seconds of recent loss and recent minimum
SMOOTHING = 1 / 16  # of the delay variation, RFC 3550 §6.4.1
FIRST_TIMEOUT = 1.0  # seconds until a probe is lost while no round-trip time is known (RFC 6298 §2)
SETTLING = 10  # answers of a path that is new, or passes again, of which the first may have waited for a neighbour
LEAST_MARGIN = 0.02  # seconds between the smoothed round-trip time and the time-out, for a machine that is busy
UNIT = 2.0**-32  # of a timestamp, in seconds
LEAST_WINDOW = 300  # seconds in which the least one-way delay is sought: clocks that differ by 50 ppm drift 15 ms apart
LEAST_STEP = 10  # seconds of it that are forgotten at once
QUEUE_SMOOTHING = 1 / 8  # of the one-way delay, as of the round-trip time


def between(later: int, earlier: int) -> float:
    """Seconds from one timestamp to another, modulo 2^32 seconds."""
    ticks = later - earlier & MASK64
    return (ticks - (MASK64 + 1) if ticks >> 63 else ticks) * UNIT


@dataclass(slots=True)
class _Count:
    """One count of the reflector: of the probes behind `base` up to `newest` those numbered behind `first` up to `last`
    arrived, `repeated` ones of them twice."""

    base: int
    first: int
    newest: int
    last: int
    left: int  # when the answer numbered `last` left the reflector: its timestamp
    came: float  # and when it came here
    answered: int = 0
    repeated: int = 0

    def arrived(self) -> int:
        return self.last - self.first - self.repeated


class Loss:
    """Probes lost in each direction, of those whose fate is known: all up to the newest answered one."""

    __slots__ = ("_closed", "_count", "_late")

    def __init__(self) -> None:
        self._count: _Count | None = None
        self._closed = (0, 0, 0)  # the totals of the counts that are over
        self._late = 0  # answers that came when their count was over

    def answered(self, sequence: int, number: int, left: int, sent: float, highest: int, now: float) -> None:
        """A probe, `sent` then, was answered for the first time, with the reflector's `number`; `highest` is the
        sequence number of the newest probe."""
        count = self._count
        if count is None:
            count = self._begin(-1, sequence, number, highest, left, now)
        elif sequence <= count.base:
            self._late += 1
            return
        elif number <= count.last and (sent >= count.came or between(left, count.left) > 0):
            self._close()
            count = self._begin(min(count.newest, sequence - 1), sequence, number, highest, left, now)
        count.answered += 1
        count.newest = max(count.newest, sequence)
        if number > count.last:
            count.last, count.left, count.came = number, left, now

    def repeated(self, sequence: int, number: int, first_number: int) -> None:
        """Another answer to the same probe: with another number, it was counted twice by the reflector."""
        count = self._count
        if count is not None and sequence > count.base and number != first_number:
            count.repeated += 1
            count.last = max(count.last, number)

    def session_over(self) -> None:
        """The sequence numbers of the probes start again."""
        self._close()
        self._count = None

    def totals(self) -> tuple[int, int, int]:
        """Probes, and how many of them were lost on the way out and on the way in."""
        probes, out, back = self._closed
        count = self._count
        if count is not None:
            sent = count.newest - count.base
            probes += sent
            out += max(0, sent - count.arrived())
            back += max(0, count.arrived() - count.answered)
        found = min(self._late, back)
        return probes, out - min(out, self._late - found), back - found

    def _begin(self, base: int, sequence: int, number: int, highest: int, left: int, now: float) -> _Count:
        # whatever number a reflector starts with, it cannot have counted more than was sent
        first = number - min(number, highest - base - 1) - 1
        self._count = _Count(base, first, sequence, number, left, now)
        return self._count

    def _close(self) -> None:
        self._closed = self.totals()
        self._count, self._late = None, 0


class Variation:
    """Delay variation of both directions, smoothed, in seconds."""

    __slots__ = ("_before", "back", "out")

    def __init__(self) -> None:
        self.out: float | None = None
        self.back: float | None = None
        self._before: tuple[int, int, float] | None = None

    def take(self, out: int, back: int, rtt: float) -> bool:
        """The differences of timestamps T2 - T1 and T4 - T3 of one answer, each with the offset of the clocks in it.
        False: a clock jumped."""
        before, self._before = self._before, (out, back, rtt)
        if before is None:
            return True
        changes = between(out, before[0]), between(back, before[1])
        if max(abs(changes[0]), abs(changes[1])) > max(rtt, before[2]) + UNIT:
            return False
        first, second = abs(changes[0]), abs(changes[1])
        self.out = first if self.out is None else self.out + (first - self.out) * SMOOTHING
        self.back = second if self.back is None else self.back + (second - self.back) * SMOOTHING
        return True


class Queue:
    """How much the one-way delay of one direction is above the least of the last minutes, smoothed, in seconds."""

    __slots__ = ("_least", "_reference", "_smoothed")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The clocks differ by something else from now on."""
        self._reference = 0
        self._smoothed: float | None = None
        self._least: deque[tuple[int, float]] = deque()  # step of the clock, the least delay in it

    def take(self, difference: int, now: float) -> None:
        """The difference of timestamps of one packet."""
        if self._smoothed is None:
            self._reference, self._smoothed = difference, 0.0
        delay = between(difference, self._reference)
        self._smoothed += (delay - self._smoothed) * QUEUE_SMOOTHING
        step = int(now / LEAST_STEP)
        if self._least and self._least[-1][0] == step:
            self._least[-1] = step, min(self._least[-1][1], delay)
        else:
            self._least.append((step, delay))
        while self._least[0][0] <= step - LEAST_WINDOW // LEAST_STEP:
            self._least.popleft()

    def length(self) -> float:
        """0 while nothing is known."""
        if self._smoothed is None:
            return 0.0
        return max(0.0, self._smoothed - min(one[1] for one in self._least))


@dataclass(frozen=True, slots=True)
class Quality:
    """What is known of a path. Times in seconds, None while not measured; losses are shares of the last ten seconds."""

    rtt: float | None
    rtt_minimum: float | None
    rtt_last: float | None
    variation_out: float | None
    variation_in: float | None
    queue_out: float
    queue_in: float
    loss_out: float
    loss_in: float
    probes_sent: int
    probes_answered: int
    probes_lost_out: int
    probes_lost_in: int


class Measurement:
    """Everything that one sender of probes knows of its path. Sessions follow each other; the totals go on."""

    __slots__ = (
        "_deviation", "_given", "_highest", "_history", "_last", "_loss", "_minimum", "_queues", "_settling",
        "_smoothed", "_unanswered", "_variation", "answers", "sent",
    )  # fmt: skip

    def __init__(self) -> None:
        self.sent = 0
        self.answers = 0
        self._highest = -1
        self._unanswered: dict[int, tuple[float, int]] = {}  # sequence number: time of sending, timestamp
        self._given: dict[int, tuple[int, int]] = {}  # sequence number: the reflector's number, timestamp
        self._loss = Loss()
        self._variation = Variation()
        self._queues = Queue(), Queue()  # out and in
        self._smoothed: float | None = None
        self._deviation = 0.0
        self._settling = SETTLING
        self._last: float | None = None
        self._minimum: deque[tuple[int, float]] = deque()  # second, smallest round-trip time in it
        self._history: deque[tuple[int, int, int, int]] = deque()  # second, totals at its beginning

    def new_session(self) -> None:
        """The next probe has number 0 again; answers to earlier ones are not waited for."""
        self._loss.session_over()
        self._unanswered.clear()
        self._given.clear()

    def probe(self, sequence: int, timestamp: int, now: float) -> None:
        """A probe leaves."""
        self.sent += 1
        self._highest = sequence
        self._unanswered[sequence] = now, timestamp
        if len(self._unanswered) > REMEMBERED:
            del self._unanswered[next(iter(self._unanswered))]
        self._remember(now)

    def is_open(self, sequence: int) -> bool:
        """Whether this probe has no answer yet."""
        return sequence in self._unanswered

    def answer(self, reply: AnyReply, arrived: int, now: float) -> float | None:
        """An answer has `arrived` (a timestamp). When its probe was sent; None: it answers none, or once more."""
        sequence = reply.sender_sequence
        sent = self._unanswered.get(sequence)
        if sent is None:
            given = self._given.get(sequence)
            if given is not None and given[1] == reply.sender_timestamp:
                self._loss.repeated(sequence, reply.sequence, given[0])
                self._given[sequence] = reply.sequence, given[1]
            return None
        if sent[1] != reply.sender_timestamp:
            return None
        del self._unanswered[sequence]
        self._given[sequence] = reply.sequence, sent[1]
        if len(self._given) > REMEMBERED:
            del self._given[next(iter(self._given))]
        self.answers += 1
        received = as_ntp(reply.receive_timestamp, reply.error_estimate)
        left = as_ntp(reply.timestamp, reply.error_estimate)
        self._loss.answered(sequence, reply.sequence, left, sent[0], self._highest, now)
        whole, inside = max(0.0, between(arrived, sent[1])), between(left, received)
        rtt = whole - inside if 0 <= inside <= whole else whole  # else the reflector's clock jumped between the two
        self._take(rtt, now)
        out, back = received - sent[1] & MASK64, arrived - left & MASK64
        steady = self._variation.take(out, back, rtt)
        for queue, difference in zip(self._queues, (out, back), strict=True):
            if not steady:
                queue.forget()
            queue.take(difference, now)
        self._remember(now)
        return sent[0]

    def _take(self, rtt: float, now: float) -> None:
        """RFC 6298 §2. The first probes may have waited until a neighbour was known: an answer that comes much sooner
        begins anew, or the time-out would be hundreds of milliseconds too long for the next ten."""
        self._last = rtt
        self._settling = max(0, self._settling - 1)
        if self._smoothed is None or (self._settling and rtt < self._smoothed / 2):
            self._smoothed, self._deviation = rtt, rtt / 2
        else:
            self._deviation += (abs(self._smoothed - rtt) - self._deviation) / 4
            self._smoothed += (rtt - self._smoothed) / 8
        second = int(now)
        if self._minimum and self._minimum[-1][0] == second:
            self._minimum[-1] = second, min(self._minimum[-1][1], rtt)
        else:
            self._minimum.append((second, rtt))

    def _remember(self, now: float) -> None:
        second = int(now)
        if not self._history or self._history[-1][0] != second:
            self._history.append((second, *self._loss.totals()))
        while len(self._history) > 1 and self._history[1][0] <= second - WINDOW:
            self._history.popleft()
        while self._minimum and self._minimum[0][0] <= second - WINDOW:
            self._minimum.popleft()

    def outage_over(self) -> None:
        """What was lost while nothing passed is no measure of what the path loses otherwise: the recent loss begins
        anew, or the next outage would take longer to be told from chance."""
        self._settling = SETTLING
        if self._history:
            second = self._history[-1][0]
            self._history.clear()
            self._history.append((second, *self._loss.totals()))

    def timeout(self) -> float:
        """Seconds after which a probe without an answer is lost."""
        if self._smoothed is None:
            return FIRST_TIMEOUT
        return self._smoothed + max(4 * self._deviation, LEAST_MARGIN)

    def recent_loss(self) -> tuple[int, float, float]:
        """Of the last ten seconds: probes whose fate is known, and the shares of them lost on the way out and in."""
        if not self._history:
            return 0, 0.0, 0.0
        probes, out, back = self._loss.totals()
        _, probes_then, out_then, back_then = self._history[0]
        count = probes - probes_then
        if count <= 0:
            return 0, 0.0, 0.0
        return count, max(0, out - out_then) / count, max(0, back - back_then) / count

    def quality(self) -> Quality:
        """All of it."""
        _, out, back = self._loss.totals()
        _, loss_out, loss_in = self.recent_loss()
        return Quality(
            rtt=self._smoothed,
            rtt_minimum=min((one[1] for one in self._minimum), default=None),
            rtt_last=self._last,
            variation_out=self._variation.out,
            variation_in=self._variation.back,
            queue_out=self._queues[0].length(),
            queue_in=self._queues[1].length(),
            loss_out=loss_out,
            loss_in=loss_in,
            probes_sent=self.sent,
            probes_answered=self.answers,
            probes_lost_out=out,
            probes_lost_in=back,
        )


class Reflection:
    """The reflector's side of one path: its own count of the answers in each session (RFC 8762 §4.3.1, stateful).

    A probe that comes twice is answered once, so that repetition on the way does not look like arrival. The session
    before the newest is kept, for what overtook the restart of the sender.
    """

    __slots__ = ("_sessions", "answered", "repeated")

    def __init__(self) -> None:
        self._sessions: list[_Session] = []  # the newest first, two at most
        self.answered = 0
        self.repeated = 0

    def arrived(self, ssid: int, sequence: int) -> int | None:
        """The number for the answer to a probe; None: it was answered already."""
        session = next((one for one in self._sessions if one.ssid == ssid), None)
        if session is None or session.highest - sequence >= REMEMBERED:
            # one that begins again under the old identifier is a sender without RFC 8972 that was restarted
            session = _Session(ssid)
            self._sessions = [session, *(one for one in self._sessions if one.ssid != ssid)][:2]
        number = session.arrived(sequence)
        if number is None:
            self.repeated += 1
        else:
            self.answered += 1
        return number


class _Session:
    __slots__ = ("count", "highest", "seen", "ssid")

    def __init__(self, ssid: int) -> None:
        self.ssid, self.count, self.highest, self.seen = ssid, 0, -1, 0

    def arrived(self, sequence: int) -> int | None:
        behind = self.highest - sequence
        if behind < 0:
            self.seen = self.seen << min(-behind, REMEMBERED) & (1 << REMEMBERED) - 1 | 1
            self.highest = sequence
        elif self.seen >> behind & 1:
            return None
        else:
            self.seen |= 1 << behind
        self.count += 1
        return self.count - 1
