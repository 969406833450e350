"""Signalling inside UDP: an asyncio-dgram stream on the port that the data has too (RFC 5555 §4.1).

Two sockets are bound to the same end (SO_REUSEPORT), and the kernel tells by a classic BPF program which of them a
datagram is for. So Binding Updates, which are the keepalives of NATs, have a buffer of their own: data that comes
faster than it is taken pushes none of them out. They need no control messages, which asyncio's transports do not hand
over.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

import asyncio_dgram

from mip6.numbers import Protocol

MAXIMUM_DATAGRAM = 65536
_SO_ATTACH_REUSEPORT_CBPF = 51
_DATA, _SIGNALLING = 0, 1  # the sockets of an end in the order in which they are bound
_VERSION, _NEXT_HEADER, _DESTINATION = 0, 6, 24  # octets of an IPv6 header
# linux/filter.h: classic BPF instructions
_LOAD_WORD, _LOAD_OCTET, _SHIFT_RIGHT, _IF_EQUAL, _RETURN = 0x20, 0x30, 0x74, 0x15, 0x06


def steering_program(own: IPv6Address) -> bytes:
    """A classic BPF program (array of struct sock_filter) over what is inside UDP: which socket it is for, as
    `mip6.udp.is_signalling` has it for an agent whose inner address is `own`. What is too short is data: a load that
    goes past the end returns 0."""
    tests = [(_LOAD_OCTET, _VERSION, 6), (_LOAD_OCTET, _NEXT_HEADER, Protocol.MOBILITY)]
    tests += [(_LOAD_WORD, _DESTINATION + at, int.from_bytes(own.packed[at : at + 4], "big")) for at in (0, 4, 8, 12)]
    program: list[tuple[int, int, int]] = []  # code, instructions to skip if false, operand
    for load, at, wanted in reversed(tests):
        compare = [(load, 0, at), (_IF_EQUAL, len(program) + 1, int(wanted))]
        if at == _VERSION:
            compare.insert(1, (_SHIFT_RIGHT, 0, 4))
        program = compare + program
    program += [(_RETURN, 0, _SIGNALLING), (_RETURN, 0, _DATA)]
    return b"".join(struct.pack("=HBBI", code, 0, skipped, operand) for code, skipped, operand in program)


def steer(sock: socket.socket, own: IPv6Address) -> None:
    """To be called before the first socket of an end, the one for data, is bound."""
    code = steering_program(own)
    held = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


class SignallingSocket(socket.socket):
    """What asyncio reads and writes. An error about an earlier datagram (ICMP) is no error of this call: `errors`
    empties the error queue and says whether there was one. `unsent` has each datagram's error and address that the
    kernel did not take."""

    errors: Callable[[], bool]
    unsent: Callable[[OSError, tuple[str, int]], None]

    def recvfrom(self, bufsize: int = MAXIMUM_DATAGRAM, flags: int = 0) -> tuple[bytes, Any]:
        try:
            return super().recvfrom(MAXIMUM_DATAGRAM, flags)
        except BlockingIOError:
            self.errors()
            raise
        except OSError as error:  # whose entry the error queue may have had no room for
            self.errors()
            raise BlockingIOError from error

    def sendto(self, data: Any, address: Any) -> int:  # type: ignore[override]  # asyncio's transports use no other form
        try:
            try:
                return super().sendto(data, address)
            except BlockingIOError:
                raise
            except OSError:
                if not self.errors():
                    raise
                return super().sendto(data, address)
        except OSError as error:
            self.unsent(error, address)
            return len(data)


class SignallingStream:
    """Datagrams to and from one end. `on_datagram` has each with the address it came from."""

    def __init__(self, sock: SignallingSocket, on_datagram: Callable[[bytes, tuple[Any, ...]], None]) -> None:
        self._socket, self._on_datagram = sock, on_datagram
        self._waiting: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._serve())
        self._task.add_done_callback(self._done)

    def send(self, packet: bytes, address: tuple[str, int]) -> None:
        """In the next turn of the loop, in order."""
        self._waiting.put_nowait((packet, address))

    def close(self) -> None:
        """What waits is still sent. The port is free at once; asyncio takes a few turns to let go of its socket."""
        if self._task.done():  # by a fault
            return
        while not self._waiting.empty():
            self._socket.sendto(*self._waiting.get_nowait())
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as unbound:
            os.dup2(unbound.fileno(), self._socket.fileno(), inheritable=False)
        self._task.cancel()

    async def _serve(self) -> None:
        stream = await asyncio_dgram.from_socket(self._socket)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._receive(stream))
                both.create_task(self._send(stream))
        finally:
            stream.close()

    async def _receive(self, stream: asyncio_dgram.aio.DatagramServer) -> None:
        while True:
            self._on_datagram(*await stream.recv())

    async def _send(self, stream: asyncio_dgram.aio.DatagramServer) -> None:
        while True:
            await stream.send(*await self._waiting.get())

    def _done(self, task: asyncio.Task[None]) -> None:
        """What a receiver did wrong is the loop's to tell, as if it had called it itself."""
        self._socket.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            self._loop.call_exception_handler({"message": "signalling inside UDP", "exception": first})
