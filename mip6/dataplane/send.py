"""The sockets that tunnel packets leave by, and what to make of it when the kernel refuses one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol as Interface

from mip6.dataplane.interface import OnPathMtu, TunnelCounters
from mip6.errors import ipv4_header
from mip6.events import PathMtuChanged
from mip6.forward import Copy
from mip6.forwarding import MINIMUM_MTU, Encapsulation, IPAddress, Tunnel, overhead
from mip6.outer import INSIDE, outer_header
from mip6.pathmtu import MINIMUM_IPV4_MTU
from mip6.system import log
from mip6.system.udp import UdpPath, UdpSockets
from mip6.udp import UdpEnds

_IP_MTU, _IPV6_MTU = 14, 24
_SO_SNDBUFFORCE = 32
_GONE = (errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL, errno.EINVAL)


class Way(Interface):
    """How inner packets of one flow go over one tunnel."""

    tunnel: Tunnel
    counters: TunnelCounters

    def send(self, packet: bytes) -> None:
        """Send one that is not larger than the tunnel's MTU; OSError as sendmsg(2)."""


class NativeWay:
    """Over IPv6, without UDP. What is in front of a packet is `head`, the length of the packet, and `tail`."""

    __slots__ = ("address", "counters", "head", "socket", "tail", "tunnel")

    def __init__(self, tunnel: Tunnel, packet: bytes, sock: socket.socket, counters: TunnelCounters) -> None:
        self.tunnel, self.socket, self.counters = tunnel, sock, counters
        self.head, self.tail = outer_header(tunnel, INSIDE[packet[0] >> 4], traffic_class_of(packet))
        self.address = (str(tunnel.remote), 0)

    def send(self, packet: bytes) -> None:
        self.socket.sendto(b"".join((self.head, len(packet).to_bytes(2, "big"), self.tail, packet)), self.address)


class NativeWay4:
    """Over IPv4, without UDP."""

    __slots__ = ("_protocol", "_socket", "_tos", "counters", "tunnel")

    def __init__(self, tunnel: Tunnel, packet: bytes, sock: socket.socket, counters: TunnelCounters) -> None:
        self.tunnel, self._socket, self.counters = tunnel, sock, counters
        self._protocol, self._tos = INSIDE[packet[0] >> 4], traffic_class_of(packet)

    def send(self, packet: bytes) -> None:
        local, remote = self.tunnel.local, self.tunnel.remote
        assert isinstance(local, IPv4Address) and isinstance(remote, IPv4Address)
        header = ipv4_header(local, remote, self._protocol, len(packet), tos=self._tos)
        self._socket.sendto(header + packet, (str(remote), 0))


class UdpWay:
    """Inside UDP, by the socket that signalling has too."""

    __slots__ = ("counters", "send", "tunnel")

    def __init__(self, tunnel: Tunnel, packet: bytes, sockets: UdpSockets, counters: TunnelCounters) -> None:
        self.tunnel, self.counters = tunnel, counters
        ends = UdpEnds(tunnel.local, tunnel.remote, tunnel.local_port, tunnel.remote_port)
        self.send = UdpPath(sockets, ends, traffic_class_of(packet)).send


class Senders:
    """One raw socket for each local address and device; `udp` are the sockets of UDP encapsulation."""

    def __init__(self, on_path_mtu: OnPathMtu, buffer: int) -> None:
        """`buffer`: octets that may wait in each socket."""
        self.udp: UdpSockets | None = None
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

    def send(self, copy: Copy, packet: bytes, counters: TunnelCounters) -> Way:
        """Send a copy of `packet` over its tunnel, and say how those go that follow it; OSError as sendmsg(2)."""
        tunnel = copy.tunnel
        way = self._way(tunnel, packet, counters)
        if len(copy.packets) == 1:
            way.send(packet)
        else:  # the fragments of UDP too: the far end's kernel puts them together before it looks for a port
            sock = self._socket(tunnel)
            for outer in copy.packets:
                sock.sendto(outer, (str(tunnel.remote), 0))
        return way

    def _way(self, tunnel: Tunnel, packet: bytes, counters: TunnelCounters) -> Way:
        if tunnel.encapsulation is Encapsulation.UDP:
            if self.udp is None:
                raise OSError(errno.ENOTCONN, "no UDP sockets")
            return UdpWay(tunnel, packet, self.udp, counters)
        kind = NativeWay if isinstance(tunnel.local, IPv6Address) else NativeWay4
        return kind(tunnel, packet, self._socket(tunnel), counters)

    def _socket(self, tunnel: Tunnel) -> socket.socket:
        """The socket that is bound to the tunnel's local address, so that `from` rules apply, and to its device."""
        key = tunnel.local, tunnel.device
        sock = self._sockets.get(key)
        if sock is not None:
            return sock
        sock = socket.socket(_family(tunnel), socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, self._buffer)
            _bind(sock, tunnel)
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
        with socket.socket(_family(tunnel), socket.SOCK_DGRAM) as sock:
            try:
                _bind(sock, tunnel)
                sock.connect((str(tunnel.remote), 9))
                if isinstance(tunnel.local, IPv6Address):
                    mtu, least = sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU), MINIMUM_MTU
                else:
                    mtu, least = sock.getsockopt(socket.IPPROTO_IP, _IP_MTU), MINIMUM_IPV4_MTU
            except OSError as error:  # the route or the address went away meanwhile
                self._complain(tunnel, error)
                return
        if least <= mtu < tunnel.mtu + overhead(tunnel.local, tunnel.encapsulation):
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


def traffic_class_of(packet: bytes) -> int:
    """Of an IP packet of either version; the TOS octet of IPv4."""
    return (packet[0] & 15) << 4 | packet[1] >> 4 if packet[0] >> 4 == 6 else packet[1]


def _family(tunnel: Tunnel) -> socket.AddressFamily:
    return socket.AF_INET6 if isinstance(tunnel.local, IPv6Address) else socket.AF_INET


def _bind(sock: socket.socket, tunnel: Tunnel) -> None:
    if tunnel.device is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tunnel.device.encode())
    sock.bind((str(tunnel.local), 0))
