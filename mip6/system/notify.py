"""What is said to systemd (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names, or nothing at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

_FIRST_FD = 3  # of those that are handed over (sd_listen_fds(3))


def notify(state: str, fds: Sequence[int] = ()) -> None:
    """Send `state`, as in `READY=1`, and file descriptors. Does nothing when no service manager asked for it."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):  # a socket of the abstract namespace
        path = "\0" + path[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(path)
        socket.send_fds(manager, [state.encode()], list(fds))


def ready() -> None:
    """The daemon does its work now."""
    notify("READY=1")


def stopping() -> None:
    """The daemon says its goodbyes."""
    notify("STOPPING=1")


def keep(name: str, fds: Sequence[int]) -> None:
    """The service manager is to have these file descriptors under `name` for the next process, instead of those before.
    It does so where the unit has a FileDescriptorStoreMax=."""
    notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
    if fds:
        notify(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", fds)


def kept(name: str) -> list[int]:
    """The file descriptors that an earlier process gave to `keep`; whoever asks owns them, so the next gets none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = [_FIRST_FD + number for number, one in enumerate(names) if one == name]
    os.environ["LISTEN_FDNAMES"] = ":".join("" if one == name else one for one in names)
    for fd in found:
        os.set_inheritable(fd, False)
    return found
