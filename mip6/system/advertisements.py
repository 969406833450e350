"""Listening to routers, which the kernel does as well, but without telling who advertised what."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address

from mip6.events import RouterAdvertised
from mip6.neighbourdiscovery import HOP_LIMIT
from mip6.numbers import Icmp6Type

_ICMP6_FILTER = 1
_LARGEST = 65536
_PACKETS_PER_TURN = 16
_ALL_ROUTERS = "ff02::2"


class RouterAdvertisements:
    """Hands every router advertisement on `interface` (None: on any) to `on_advertisement`; checksum and hop limit are
    right. May be asked for, too."""

    def __init__(self, interface: str | None, on_advertisement: Callable[[RouterAdvertised], None]) -> None:
        self._on_advertisement = on_advertisement
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        # struct icmp6_filter: one bit per type, 1 blocks it
        words = [0xFFFFFFFF] * 8
        words[Icmp6Type.ROUTER_ADVERTISEMENT // 32] &= ~(1 << Icmp6Type.ROUTER_ADVERTISEMENT % 32)
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("@8I", *words))
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOP_LIMIT)
        if interface is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def solicit(self, index: int) -> None:
        """Ask the routers of a link (RFC 4861 §4.1). Where it is down, the kernel asks when it comes up."""
        with contextlib.suppress(OSError):
            self._socket.sendto(bytes((Icmp6Type.ROUTER_SOLICITATION, *bytes(7))), (_ALL_ROUTERS, 0, 0, index))

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
                with contextlib.suppress(OSError):  # the link has gone meanwhile
                    name = socket.if_indextoname(source[3])
                    self._on_advertisement(RouterAdvertised(name, address, message))
