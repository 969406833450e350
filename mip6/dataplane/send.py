"""The sockets that tunnel packets leave by, and what to make of it when the kernel refuses one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Set as AbstractSet

from mip6.dataplane.interface import OnPathMtu
from mip6.events import PathMtuChanged
from mip6.forwarding import IPV6_HEADER, MINIMUM_MTU, IPAddress, Tunnel
from mip6.system import log

_IPV6_MTU = 24
_SO_SNDBUFFORCE = 32
_GONE = (errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL, errno.EINVAL)


class Senders:
    """One raw socket for each local address and device."""

    def __init__(self, on_path_mtu: OnPathMtu, buffer: int) -> None:
        """`buffer`: octets that may wait in each socket."""
        self._on_path_mtu, self._buffer = on_path_mtu, buffer
        self._sockets: dict[tuple[IPAddress, str | None], socket.socket] = {}
        self._complained: set[tuple[IPAddress, int]] = set()

    def keep(self, wanted: AbstractSet[tuple[IPAddress, str | None]]) -> None:
        """A new table: close what it does not send by, and say again what is wrong."""
        for way in self._sockets.keys() - wanted:
            self._sockets.pop(way).close()
        self._complained.clear()

    def close(self) -> None:
        self.keep(set())

    def socket(self, tunnel: Tunnel) -> socket.socket:
        """The socket that is bound to the tunnel's local address, so that `from` rules apply, and to its device."""
        key = tunnel.local, tunnel.device
        sock = self._sockets.get(key)
        if sock is not None:
            return sock
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, self._buffer)
            if tunnel.device is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tunnel.device.encode())
            sock.bind((str(tunnel.local), 0))
        except OSError:
            sock.close()
            raise
        self._sockets[key] = sock
        return sock

    def failed(self, tunnel: Tunnel, error: OSError) -> bool:
        """The kernel refused a packet; whether the tunnel's socket is closed for that. A message that is too long
        teaches the path MTU."""
        if error.errno == errno.EMSGSIZE:
            self._learn_mtu(tunnel)
        self._complain(tunnel, error)
        if error.errno not in _GONE:
            return False
        stale = self._sockets.pop((tunnel.local, tunnel.device), None)  # the address or device is another one now
        if stale is not None:
            stale.close()
        return True

    def _learn_mtu(self, tunnel: Tunnel) -> None:
        """Ask the kernel what the route to the far end carries; a connected socket knows."""
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            try:
                if tunnel.device is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tunnel.device.encode())
                sock.bind((str(tunnel.local), 0))
                sock.connect((str(tunnel.remote), 9))
                mtu = sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
            except OSError as error:  # the route or the address went away meanwhile
                self._complain(tunnel, error)
                return
        if MINIMUM_MTU <= mtu < tunnel.mtu + IPV6_HEADER:
            self._on_path_mtu(PathMtuChanged(tunnel.local, tunnel.remote, mtu))

    def _complain(self, tunnel: Tunnel, error: OSError) -> None:
        """One log line per tunnel and kind of error, until the table changes."""
        key = tunnel.remote, error.errno or 0
        if error.errno not in (errno.EAGAIN, errno.ENOBUFS) and key not in self._complained:
            self._complained.add(key)
            log.event(
                "tunnel_send_failed",
                "warning",
                local=str(tunnel.local),
                remote=str(tunnel.remote),
                error=os.strerror(error.errno or 0),
            )
