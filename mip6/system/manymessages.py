"""Many datagrams with one system call: the structures of recvmmsg(2) and sendmmsg(2)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

_LIBRARY = ctypes.CDLL(None, use_errno=True)


class Vector(ctypes.Structure):
    """struct iovec: where the octets of a datagram are."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Message(ctypes.Structure):
    """struct mmsghdr. `length`: octets that came, or went."""

    _fields_ = (("header", Header), ("length", ctypes.c_uint))


def address(buffer: bytearray) -> int:
    """Where it is in memory, for as long as it is not resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def outgoing(datagrams: Sequence[memoryview]) -> tuple[ctypes.Array[Message], object]:
    """Messages for a connected socket, one for each of these parts of writable buffers, and what has to live as long as
    they do."""
    parts = [(ctypes.c_char * len(one)).from_buffer(one) for one in datagrams]
    vectors = (Vector * len(parts))(*(Vector(ctypes.addressof(one), len(one)) for one in parts))
    messages = (Message * len(parts))()
    for i, message in enumerate(messages):
        message.header.vectors = ctypes.addressof(vectors) + i * ctypes.sizeof(Vector)
        message.header.vector_count = 1
    return messages, (parts, vectors)


def send(descriptor: int, messages: ctypes.Array[Message]) -> int:
    """How many of them the kernel took, from the first on; OSError, as sendmmsg(2), when it took none."""
    return _done(_LIBRARY.sendmmsg(descriptor, messages, len(messages), 0))


def receive(descriptor: int, messages: ctypes.Array[Message], flags: int = 0) -> int:
    """How many came; OSError as recvmmsg(2)."""
    return _done(_LIBRARY.recvmmsg(descriptor, messages, len(messages), flags, None))


def _done(count: int) -> int:
    if count < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return count
