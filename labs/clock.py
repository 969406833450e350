"""A time of day of their own for the daemons of a story: `python -m labs.clock FILE PROGRAM ARGUMENT...`.

Linux has no namespace for CLOCK_REALTIME, so Python's `time.time()` is what is set: by the seconds that FILE says, and
that may be changed while the program runs. Intervals and deadlines go by the clocks that never jump, and stay as they
are. (libfaketime would do it for any program, but breaks clock_nanosleep(2) of the clocks that it is told to leave.)
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

_real_time = time.time


def set_time(file: Path, now: float) -> None:
    """Whoever runs by this file sees this time, in seconds since 1970, from now on."""
    successor = file.with_suffix(".new")
    successor.write_text(f"{now - _real_time()}\n")
    successor.rename(file)


def main() -> None:
    """Run the program, a module, by the clock of the file."""
    file, program = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [program, *sys.argv[3:]]
    time.time = lambda: _real_time() + float(file.read_text())
    runpy.run_module(program, run_name="__main__")


if __name__ == "__main__":
    main()
