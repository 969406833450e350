"""Another network namespace for a moment: sockets and devices that are opened in there belong there for good.

And interfaces taken up or down through such a socket: at once, where a process would take its time to start.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_REQUEST = struct.Struct("16sH22x")  # struct ifreq: name, flags


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


def is_up(asking: socket.socket, interface: str) -> bool:
    """Whether an interface is up, in the namespace of any socket."""
    return bool(_flags(asking, interface) & _IFF_UP)


def set_up(asking: socket.socket, interface: str, up: bool) -> None:
    """Take an interface up or down, in the namespace of any socket."""
    flags = _flags(asking, interface)
    wanted = flags | _IFF_UP if up else flags & ~_IFF_UP
    if wanted != flags:
        fcntl.ioctl(asking, _SIOCSIFFLAGS, _REQUEST.pack(interface.encode(), wanted))


def _flags(asking: socket.socket, interface: str) -> int:
    answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, _REQUEST.pack(interface.encode(), 0))
    return int(_REQUEST.unpack(answer)[1])
