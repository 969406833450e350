"""A time of day of their own for the daemons of a lab, by libfaketime: Linux has no namespace for CLOCK_REALTIME.

Only the time of day: intervals and deadlines go by the clocks that never jump, and these are left alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

_LIBRARIES = tuple(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def missing() -> str | None:
    """What the machine lacks for it."""
    return None if _LIBRARIES else "libfaketime is missing: install the Debian package faketime"


def set_time(file: Path, now: float) -> None:
    """Whoever runs with `variables(file)` sees this time, in seconds since 1970, from now on."""
    successor = file.with_suffix(".new")
    successor.write_text(f"{now - time.time():+.3f}\n")
    successor.rename(file)


def variables(file: Path) -> Mapping[str, str]:
    """Of the environment, for a process whose clock is in this file."""
    return {
        "LD_PRELOAD": str(_LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
        "NO_FAKE_STAT": "1",
    }
