"""The UDP sockets of path measurement. Of a packet count its time of arrival (the kernel's), its hop limit and the
interface it came by."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import IPv6Address

from mip6.system.clock import clock

BATCH = 64  # packets of one socket in a turn of the loop
BUFFER = 4 << 20
OLDEST = 1.0  # seconds that a packet may have waited for us; a stamp older than that is no stamp
HOP_LIMIT = 255
_SIZE = 2048
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_IPV6_FREEBIND = 78
_ANCILLARY = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(20) + socket.CMSG_SPACE(4)
_TIME = struct.Struct("@qq")
_INT = struct.Struct("@i")

Arrival = tuple[bytes, str, int, float, int, int]
"""Packet, source as the kernel prints it, port, time of arrival, hop limit, interface."""


def open_socket(own: IPv6Address, port: int) -> socket.socket:
    """A socket of this address and port, for `receive`; OSError where the port is taken."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        for level, name, value in (
            (socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER),
            (socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER),
            (socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1),
            (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1),
            (socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1),
            (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT),
            (socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1),  # the home address may come a moment later
        ):
            sock.setsockopt(level, name, value)
        sock.bind((str(own), port))
    except OSError:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket) -> tuple[list[Arrival], int]:
    """What waits in a socket, BATCH packets at most, and how many ICMPv6 errors about earlier ones came between."""
    found: list[Arrival] = []
    errors = 0
    ahead = None
    for _ in range(BATCH):
        try:
            data, ancillary, _, address = sock.recvmsg(_SIZE, _ANCILLARY)
        except BlockingIOError:
            break
        except OSError:
            errors += 1
            continue
        if ahead is None:
            now = clock()
            ahead = time.time() - now
        arrived, hop_limit, interface = now, 0, 0
        for _, kind, value in ancillary:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIME.unpack(value)
                stamped = seconds - ahead + nanoseconds * 1e-9
                arrived = stamped if now - OLDEST < stamped <= now else now
            elif kind == socket.IPV6_PKTINFO:
                (interface,) = _INT.unpack_from(value, 16)
            else:
                (hop_limit,) = _INT.unpack(value)
        found.append((data, address[0], address[1], arrived, hop_limit, interface))
    return found, errors
