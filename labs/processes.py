"""Finds and ends processes by their ids, by handles that cannot come to mean another process (pidfd_open(2))."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from labs.patience import FACTOR

_GRACE = 3.0 * FACTOR  # seconds between SIGTERM and SIGKILL


def end_processes(pids: Iterable[int], grace: float = _GRACE) -> None:
    """SIGTERM, and SIGKILL to those that are still there after `grace` seconds. Waits until all have ended."""
    handles: dict[int, int] = {}
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handles[os.pidfd_open(pid)] = pid
        for number, limit in ((signal.SIGTERM, grace), (signal.SIGKILL, None)):
            for handle in handles:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            _await_ends(handles, limit)
    finally:
        for handle in handles:
            os.close(handle)


def _await_ends(handles: Iterable[int], limit: float | None) -> None:
    poll = select.poll()
    running = set(handles)
    for handle in running:
        poll.register(handle, select.POLLIN)
    deadline = None if limit is None else time.monotonic() + limit
    while running:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return
        for handle, _ in poll.poll(None if left is None else left * 1000):
            poll.unregister(handle)
            running.discard(handle)


def processes_in(namespace: Path) -> list[int]:
    """Every process whose network namespace this file is."""
    inode = namespace.stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # It ended while we looked, or is out of our reach, as a container's init may be, and so not ours.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if (entry / "ns/net").stat().st_ino == inode:
                    found.append(int(entry.name))
    return found
