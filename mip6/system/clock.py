"""The engines' clock."""

from __future__ import annotations

import time


def clock() -> float:
    """Seconds on a clock that never jumps and goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
