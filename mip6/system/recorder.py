"""`record = "FILE"`: what a run's engine was given and what it answered, one JSON object a line, for `mip6 replay`.

The file begins with the run and is of no use without its beginning, so it is not rotated away under the run: recording
ends at a limit, and a new run moves the files of the runs before aside. Keys never stand in it; addresses do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv6Address
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Protocol, TextIO

from mip6 import events
from mip6.actions import Action, KernelState
from mip6.forwarding import ForwardingTable
from mip6.journal import VERSION, named, plain, plain_actions
from mip6.system import log

LIMIT = 64 * 1024 * 1024  # octets of one file
KEPT = 3  # files of former runs: FILE.1, the newest of them, to FILE.3


class Engine(Protocol):
    """What is recorded of an engine; the rest of it is handed through."""

    def handle(self, event: events.Event, now: float) -> list[Action]: ...
    def next_deadline(self) -> tuple[float, str] | None: ...
    def forwarding_table(self) -> ForwardingTable: ...
    def kernel_state(self) -> KernelState: ...
    def explain(self, arguments: Mapping[str, object]) -> dict[str, Any]: ...
    def status(self, now: float) -> dict[str, Any]: ...


class Recorder:
    """Writes to `path`, mode 0600. A file that cannot be written ends the recording with an error in the log, not the
    daemon."""

    def __init__(self, path: Path, role: str, limit: int = LIMIT) -> None:
        self._path, self._left = path, limit
        self._seed = SystemRandom().getrandbits(128)
        self._file: TextIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for number in range(KEPT, 0, -1):
                before = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
                if before.exists():
                    before.rename(path.with_name(f"{path.name}.{number}"))
            path.touch(mode=0o600)
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            log.event("not_recorded", "error", file=path, error=error.strerror)
        self.write({"journal": VERSION, "role": role, "seed": self._seed})

    def random(self) -> Random:
        """The source of random numbers of the run; its seed stands in the file."""
        return Random(self._seed)

    def write(self, line: Mapping[str, Any]) -> None:
        """One line, at once: it is there after a crash."""
        if self._file is None:
            return
        text = json.dumps(line, separators=(",", ":")) + "\n"
        self._left -= len(text)
        if self._left < 0:
            log.event("recording_ends", "warning", file=self._path, why="the file has reached its limit")
            self.close()
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            log.event("recording_ends", "error", file=self._path, why=error.strerror)
            self.close()

    def close(self) -> None:
        """No more is written."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class Recorded:
    """An engine whose events and actions are recorded. `forwarding_table` and the like are as ever."""

    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        self._engine, self._recorder = engine, recorder
        self.next_deadline = engine.next_deadline
        self.forwarding_table = engine.forwarding_table
        self.kernel_state = engine.kernel_state
        self.status = engine.status
        self.explain = engine.explain

    def handle(self, event: events.Event, now: float) -> list[Action]:
        line = {"now": now, "event": named(event)}
        try:
            actions = self._engine.handle(event, now)
        except Exception as error:  # a bug, or an operator's mistake: recorded, and raised all the same
            self._recorder.write({**line, "raises": repr(error)})
            raise
        self._recorder.write({**line, "actions": plain_actions(actions)})
        return actions

    def restored(self, records: Mapping[IPv6Address, Mapping[str, Any]], now: float, actions: list[Action]) -> None:
        """What the home agent's engine took over from its store."""
        self._recorder.write({"now": now, "restore": plain(records), "actions": plain_actions(actions)})
