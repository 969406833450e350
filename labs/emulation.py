"""What an emulated link does to packets: rate and queue, delay and jitter, loss, a cut that nobody is told of. Pure.

A `Quality` is the figures of one direction, a `Channel` their meaning: when does a packet that is offered now come out
at the other end, if at all? `labs.relay` moves real packets by it; where the kernel has netem, `labs.render` says the
same figures in the words of tc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_QUEUE = 256 * 1024  # octets


@dataclass(frozen=True, slots=True)
class Quality:
    """One direction of a link.

    `rate` in bit/s of whole frames (None: as fast as the machine); `delay` in seconds, and `jitter`: each packet's
    delay is uniform in `delay` ± `jitter`, but no packet overtakes the one before it, as on a radio link; `loss`:
    share of the packets that are lost, each by itself; `queue`: octets that wait for the rate before packets are
    dropped. A direction that is `cut` passes nothing, and neither end is told.
    """

    rate: int | None = None
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    queue: int = DEFAULT_QUEUE
    cut: bool = False

    def __post_init__(self) -> None:
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"rate of {self.rate} bit/s: expected more than 0")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss of {self.loss}: expected a share, 0 to 1")
        if not 0 <= self.jitter <= self.delay:
            raise ValueError(f"jitter of {self.jitter} s: expected 0 up to the delay of {self.delay} s")

    @property
    def only_rate(self) -> bool:
        """Nothing but rate and queue: a token bucket does it."""
        return not (self.delay or self.jitter or self.loss or self.cut)


class Channel:
    """One direction of a link at work. `uniform` gives the next random number of [0, 1).

    Times are seconds of any one clock. `quality` may be replaced at any time; what is under way keeps its time.
    """

    def __init__(self, quality: Quality, uniform: Callable[[], float]) -> None:
        self.quality = quality
        self.passed = self.lost = self.overflowed = 0  # packets; what is cut counts as lost
        self._uniform = uniform
        self._free = 0.0  # when the transmitter has sent what it has taken
        self._last = 0.0  # when the last packet comes out

    def offer(self, size: int, now: float) -> float | None:
        """When a packet of `size` octets that enters now comes out; None: never."""
        quality = self.quality
        if quality.cut or (quality.loss and self._uniform() < quality.loss):
            self.lost += 1
            return None
        out = now
        if quality.rate is not None:
            start = max(now, self._free)
            if (start - now) * quality.rate / 8 + size > quality.queue:
                self.overflowed += 1
                return None
            out = self._free = start + size * 8 / quality.rate
        out += quality.delay
        if quality.jitter:
            out += quality.jitter * (2 * self._uniform() - 1)
        self._last = max(self._last, out)
        self.passed += 1
        return self._last
