"""Tunnel packets from the kernel, many with one system call: raw sockets for protocols 41 and 4, and recvmmsg(2).

The kernel has put fragments together and taken the outer header away; what a data plane needs of that comes beside the
inner packet: the source as the socket address, destination and traffic class as control messages. While a socket is
open the kernel does not answer tunnel packets of its protocol with Parameter Problem.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import NamedTuple

from mip6.dataplane.offload import VIRTIO_HEADER
from mip6.numbers import Protocol
from mip6.system.manymessages import Header, Message, Vector, address, receive

PACKETS = 64  # with one call
_ROOM = VIRTIO_HEADER + 65536
_NAME, _CONTROL = 28, 64  # struct sockaddr_in6; control messages IPV6_PKTINFO and IPV6_TCLASS
_SO_RCVBUFFORCE = 33
_CONTROL_HEADER = struct.Struct("@Nii")  # struct cmsghdr


class Places(NamedTuple):
    """Where things stand in a buffer that holds an inner packet of one IP version behind a virtio_net_hdr."""

    protocol: slice  # in IPv4 together with what says that the packet is no fragment
    addresses: slice
    length: int
    length_base: int  # octets that the length does not count


_PLACES = {
    Protocol.IPV6: Places(
        slice(VIRTIO_HEADER + 6, VIRTIO_HEADER + 7), slice(VIRTIO_HEADER + 8, VIRTIO_HEADER + 40), VIRTIO_HEADER + 4, 40
    ),
    Protocol.IPV4: Places(
        slice(VIRTIO_HEADER + 6, VIRTIO_HEADER + 10),
        slice(VIRTIO_HEADER + 12, VIRTIO_HEADER + 20),
        VIRTIO_HEADER + 2,
        0,
    ),
}


class TunnelReceiver:
    """One socket and its buffers, for inner packets of one IP version. Packet number i of a batch is in `packets[i]`
    behind a virtio_net_hdr that is always `offload.NOTHING`, so that both can be written to the tunnel device as they
    stand.

    `sources[i]` are the 16 octets of its outer source, `controls[i]` its control messages as the kernel wrote them.
    """

    def __init__(self, inside: Protocol, buffer: int) -> None:
        """`inside`: IPV6 or IPV4; `buffer`: octets that may wait in the kernel."""
        self.inside, self.places = inside, _PLACES[inside]
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, inside)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        data, names, controls = (bytearray(PACKETS * size) for size in (_ROOM, _NAME, _CONTROL))
        self.packets = _parts(data, _ROOM)
        self.sources = [name[8:24] for name in _parts(names, _NAME)]
        self.controls = _parts(controls, _CONTROL)
        at_data, at_names, at_controls = (address(one) for one in (data, names, controls))
        self._vectors = (Vector * PACKETS)()
        self._messages = (Message * PACKETS)()
        for i, message in enumerate(self._messages):
            self._vectors[i] = Vector(at_data + i * _ROOM + VIRTIO_HEADER, _ROOM - VIRTIO_HEADER)
            vector = ctypes.addressof(self._vectors) + i * ctypes.sizeof(Vector)
            name, control = at_names + i * _NAME, at_controls + i * _CONTROL
            message.header = Header(name, _NAME, vector, 1, control, _CONTROL, 0)
        self._fresh = bytes(self._messages)  # the kernel writes into the headers: they are renewed before each call
        words = ctypes.sizeof(Message) // 4
        self._lengths = memoryview(self._messages).cast("B").cast("I")[Message.length.offset // 4 :: words]

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[int]:
        """Fill the buffers: the lengths of the packets that came, none when there are none. OSError as recvmmsg(2)."""
        ctypes.memmove(self._messages, self._fresh, len(self._fresh))
        try:
            count = receive(self._socket.fileno(), self._messages, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        return self._lengths[:count].tolist()


def outer_fields(control: bytes) -> tuple[bytes, int]:
    """Outer destination and traffic class from the control messages of one packet."""
    destination, traffic_class, at = b"", 0, 0
    while at + _CONTROL_HEADER.size <= len(control):
        length, _, kind = _CONTROL_HEADER.unpack_from(control, at)
        value = control[at + _CONTROL_HEADER.size : at + length]
        if kind == socket.IPV6_PKTINFO:
            destination = value[:16]
        elif kind == socket.IPV6_TCLASS:
            (traffic_class,) = struct.unpack("=i", value)
        at += max(length + 7 & ~7, _CONTROL_HEADER.size)
    return destination, traffic_class


def _parts(buffer: bytearray, size: int) -> list[memoryview]:
    view = memoryview(buffer)
    return [view[at : at + size] for at in range(0, len(buffer), size)]
