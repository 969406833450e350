"""Readiness towards systemd (sd_notify(3)): one datagram to the socket that NOTIFY_SOCKET names, or nothing at all."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send `state`, as in `READY=1`. Does nothing when no service manager asked for it."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):  # a socket of the abstract namespace
        path = "\0" + path[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), path)


def ready() -> None:
    """The daemon does its work now."""
    notify("READY=1")


def stopping() -> None:
    """The daemon says its goodbyes."""
    notify("STOPPING=1")
