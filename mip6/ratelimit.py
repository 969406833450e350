"""Token bucket: at most `burst` at once and `rate` per second in the long run (RFC 4443 §2.4 (f) names the method)."""

from __future__ import annotations


class RateLimit:
    """One bucket. Time comes in as an argument."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._last = burst, 0.0

    def allow(self, now: float) -> bool:
        """Whether one more may pass at `now`."""
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
