"""What a home agent is on its link besides a proxy: member of the home agents' anycast address, listener to routers."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address

from mip6.events import RouterAdvertised
from mip6.neighbourdiscovery import HOP_LIMIT
from mip6.numbers import Icmp6Type
from mip6.system import log
from mip6.system.interfaces import interface_index

_JOIN_ANYCAST = 27  # linux/in6.h: IPV6_JOIN_ANYCAST
_ICMP6_FILTER = 1
_LARGEST = 65536
_PACKETS_PER_TURN = 16


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


class RouterAdvertisements:
    """Hands every router advertisement on `interface` to `on_advertisement`; checksum and hop limit are right."""

    def __init__(self, interface: str, on_advertisement: Callable[[RouterAdvertised], None]) -> None:
        self._interface = interface
        self._on_advertisement = on_advertisement
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        # struct icmp6_filter: one bit per type, 1 blocks it
        words = [0xFFFFFFFF] * 8
        words[Icmp6Type.ROUTER_ADVERTISEMENT // 32] &= ~(1 << Icmp6Type.ROUTER_ADVERTISEMENT % 32)
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("@8I", *words))
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(_PACKETS_PER_TURN):
            try:
                message, ancillary, _, source = self._socket.recvmsg(_LARGEST, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return
            limits = [struct.unpack("@i", data)[0] for _, kind, data in ancillary if kind == socket.IPV6_HOPLIMIT]
            if limits == [HOP_LIMIT]:  # any less came through a router (RFC 4861 §6.1.2)
                address = IPv6Address(source[0].partition("%")[0])
                self._on_advertisement(RouterAdvertised(self._interface, address, message))
