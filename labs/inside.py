"""Another network namespace for a moment: sockets and devices that are opened in there belong there for good."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def inside(namespace: str | Path) -> Iterator[None]:
    """This thread is in the network namespace that the file `namespace` stands for."""
    with Path("/proc/thread-self/ns/net").open() as home, Path(namespace).open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
