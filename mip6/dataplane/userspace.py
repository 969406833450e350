"""The userspace data plane: the tunnel device on one side, raw sockets and those of UDP encapsulation on the other."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address

from mip6.dataplane.inbound import Inbound
from mip6.dataplane.index import Index
from mip6.dataplane.inside import Inside
from mip6.dataplane.interface import Counters, OnPathMtu
from mip6.dataplane.outbound import BATCH, Outbound
from mip6.dataplane.receive import TunnelReceiver
from mip6.dataplane.send import Senders
from mip6.dataplane.sharedmemory import SharedMemory
from mip6.forwarding import IPV4_HEADER, End, ForwardingTable
from mip6.numbers import Icmp6Type, IcmpType, Protocol
from mip6.pathmtu import path_mtu_changed, relayed_too_big, relayed_too_big_in_udp
from mip6.system.tun import Tun
from mip6.system.udp import UdpSockets
from mip6.udp import UdpEnds

BUFFER = 4 << 20
_ICMP_FILTER = _ICMP6_FILTER = 1
_SO_RCVBUFFORCE, _SOL_RAW = 33, 255


class UserspaceDataPlane:
    """See `interface.DataPlane`."""

    name = "userspace"
    outlives = False

    def __init__(self, tun: Tun, on_path_mtu: OnPathMtu) -> None:
        self._on_path_mtu = on_path_mtu
        self._index = Index(End.HOME_AGENT, IPv6Address(0))
        self._inside = Inside(tun)
        self._senders = Senders(on_path_mtu, BUFFER)
        self.memory = SharedMemory()
        self._out = Outbound(self._index, self.memory, self._inside, self._senders)
        self._in = Inbound(self._index, self.memory, self._inside)
        self._sockets: list[TunnelReceiver | socket.socket] = []

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the sockets and read; OSError says what is not allowed."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inside.tun.fd, self._read_device)
        for inside in (Protocol.IPV6, Protocol.IPV4):
            receiver = TunnelReceiver(inside, BUFFER)
            self._listen(receiver, self._read_tunnels, receiver)
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, inside)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
            self._listen(sock, self._read_ipv4, sock)
        errors = _icmp_socket(socket.AF_INET6, socket.IPPROTO_ICMPV6, Icmp6Type.PACKET_TOO_BIG)
        self._listen(errors, self._read_errors, errors, 6)
        errors4 = _icmp_socket(socket.AF_INET, socket.IPPROTO_ICMP, IcmpType.DESTINATION_UNREACHABLE)
        self._listen(errors4, self._read_errors, errors4, 4)

    def _listen(self, sock: TunnelReceiver | socket.socket, read: Callable[..., None], *arguments: object) -> None:
        self._sockets.append(sock)
        self._loop.add_reader(sock, read, *arguments)

    def use_udp(self, sockets: UdpSockets) -> None:
        """Send and receive by these what goes inside UDP."""
        self._senders.udp = sockets
        sockets.on_data, sockets.on_too_big = self._take_datagram, self._too_big

    def stop(self, *, remove: bool) -> None:
        """Close everything; with `remove` the device disappears."""
        self._loop.remove_reader(self._inside.tun.fd)
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        self._senders.close()
        if self._senders.udp is not None:
            self._senders.udp.on_data = self._senders.udp.on_too_big = None
        if remove:
            self._inside.tun.remove()
        else:
            self._inside.tun.close()

    def set_table(self, table: ForwardingTable) -> None:
        """Take over a table; sockets of addresses and counters of nodes that are gone go too."""
        gone = set(self._index.set_table(table))
        if gone:
            self._inside.forget(gone)
        self._out.forget()
        self._in.forget()
        self._senders.keep(self._index.senders())

    def counters(self) -> Counters:
        """The counters, live."""
        return Counters(self._inside.tunnels, self._inside.drops)

    def status(self) -> Mapping[str, object]:
        """Nothing more."""
        return {}

    def deliver(self, packet: bytes) -> None:
        """Write a packet to the device, so that the kernel receives it."""
        self._inside.write(packet)

    # --- what comes -------------------------------------------------------------------------------------------------

    def _read_device(self) -> None:
        self._out.read(self._loop.time())

    def _read_tunnels(self, receiver: TunnelReceiver) -> None:
        self._in.read(receiver, self._loop.time())

    def _read_ipv4(self, sock: socket.socket) -> None:
        self._in.read_ipv4(sock, self._loop.time())

    def _take_datagram(self, ends: UdpEnds, traffic_class: int, inner: bytes) -> None:
        self._in.take_datagram(ends, traffic_class, inner, self._loop.time())

    def _too_big(self, ends: UdpEnds, mtu: int, inner: bytes) -> None:
        self._inside.answer(relayed_too_big_in_udp(self._index, ends, mtu, inner), self._loop.time())

    def _read_errors(self, sock: socket.socket, version: int) -> None:
        """ICMP errors about our own tunnel packets that were too big; over IPv4 with their IP header."""
        for _ in range(BATCH):
            try:
                message = sock.recv(65536)
            except BlockingIOError:
                return
            if version == 4:
                message = message[(message[0] & 15) * 4 :] if len(message) >= IPV4_HEADER else b""
            changed = path_mtu_changed(self._index, message, version)
            if changed is not None:
                self._inside.answer(relayed_too_big(self._index, message, version), self._loop.time())
                self._on_path_mtu(changed)


def _icmp_socket(family: socket.AddressFamily, protocol: int, kind: int) -> socket.socket:
    """A raw socket that hears one type of ICMP message."""
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    block = bytearray(b"\xff" * (32 if family == socket.AF_INET6 else 4))  # a set bit blocks that type
    struct.pack_into("=I", block, 0, ~(1 << kind) & 0xFFFFFFFF)  # in words of host order
    level, option = (protocol, _ICMP6_FILTER) if family == socket.AF_INET6 else (_SOL_RAW, _ICMP_FILTER)
    sock.setsockopt(level, option, bytes(block))
    return sock
