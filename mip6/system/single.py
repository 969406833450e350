"""One agent in each network namespace: what it owns in the kernel is known by marks that do not tell whose it is."""

from __future__ import annotations

import socket

from mip6.system.command import UnusableError

_NAME = "\0mip6 agent of this network namespace"


class OnlyAgent:
    """Held by the agent of this network namespace as long as it lives; UnusableError when there is one already.

    A name in the abstract namespace of Unix sockets: each network namespace has its own, and the kernel gives the name
    back with the process, however that ends.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind(_NAME)
        except OSError as error:
            self._socket.close()
            raise UnusableError(
                "another homeagent or mobilenode runs in this network namespace: "
                "they would take each other's routes away, so each needs a namespace of its own"
            ) from error

    def close(self) -> None:
        self._socket.close()
