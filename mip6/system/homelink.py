"""What a home agent is on its link besides a proxy: member of the home agents' anycast address."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv6Address

from mip6.system import log
from mip6.system.interfaces import interface_index

_JOIN_ANYCAST = 27  # linux/in6.h: IPV6_JOIN_ANYCAST


class AnycastMembership:
    """Packets to `addresses` are for this machine, by `device`, as long as this is not closed; it is lost on exit.

    The kernel never takes an anycast address as the source of anything. What it refuses is logged: then nobody can
    discover this home agent, and all else works.
    """

    def __init__(self, addresses: Iterable[IPv6Address], device: str) -> None:
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        for address in addresses:
            try:
                request = address.packed + struct.pack("@I", interface_index(device))
                self._socket.setsockopt(socket.IPPROTO_IPV6, _JOIN_ANYCAST, request)
            except OSError as error:
                fields = {"address": address, "device": device, "error": error.strerror}
                log.event("anycast_address_not_joined", "warning", **fields)

    def close(self) -> None:
        self._socket.close()
