"""The netfilter of running nodes, by nfnetlink and so without a process each time.

The counters of `labs.render.counters`, read often; and the mappings of a NAT, forgotten.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from labs.inside import inside
from labs.recording import Counters, Sample
from labs.render import COUNTER_TABLE

INTERVAL = 0.1  # seconds between two samples

# Subsystem and message of linux/netfilter/nfnetlink.h, nf_tables.h and nfnetlink_conntrack.h
_GET_OBJECT, _NEW_OBJECT, _DELETE_CONNECTION = 0x0A13, 0x0A12, 0x0102
_NETLINK_NETFILTER = 12
_REQUEST_ACK, _REQUEST_DUMP = 0x5, 0x301
_DONE, _ERROR = 3, 2
_INET = 1  # NFPROTO_INET
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_DATA = 1, 2, 4
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("=BBH")
_LARGEST = 1 << 17


class CounterReader:
    """The counters of one node."""

    def __init__(self, namespace: Path) -> None:
        self._socket = _open(namespace)

    def read(self) -> Counters:
        """(packets, octets) by name."""
        table = COUNTER_TABLE.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(table), _OBJECT_TABLE) + table + bytes(-len(table) % 4)
        objects = _ask(self._socket, _GET_OBJECT, _REQUEST_DUMP, _INET, attribute)
        return dict(_object(data) for kind, data in objects if kind == _NEW_OBJECT)

    def close(self) -> None:
        self._socket.close()


def forget_mappings(namespace: Path) -> None:
    """A node forgets every connection that its NAT knows."""
    with _open(namespace) as connection:
        for _ in _ask(connection, _DELETE_CONNECTION, _REQUEST_ACK, 0, b""):
            pass


def _open(namespace: Path) -> socket.socket:
    with inside(namespace):
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)


def _ask(
    connection: socket.socket, kind: int, flags: int, family: int, body: bytes
) -> Iterator[tuple[int, memoryview]]:
    """Type and attributes of every message of the answer. OSError when the kernel refuses."""
    size = _HEADER.size + _FAMILY.size + len(body)
    connection.send(_HEADER.pack(size, kind, flags, 1, 0) + _FAMILY.pack(family, 0, 0) + body)
    while True:
        data = memoryview(connection.recv(_LARGEST))
        while data:
            length, answer, *_ = _HEADER.unpack_from(data)
            if answer == _DONE:
                return
            if answer == _ERROR:
                [error] = struct.unpack_from("=i", data, _HEADER.size)
                if error:
                    raise OSError(-error, f"nfnetlink: {os.strerror(-error)}")
                return
            yield answer, data[_HEADER.size + _FAMILY.size : length]
            data = data[length + (-length % 4) :]


def _object(data: memoryview) -> tuple[str, tuple[int, int]]:
    fields = dict(_attributes(data))
    counts = {kind: int.from_bytes(value, "big") for kind, value in _attributes(fields[_OBJECT_DATA])}
    name = bytes(fields[_OBJECT_NAME]).rstrip(b"\0").decode()
    return name, (counts[_COUNTER_PACKETS], counts[_COUNTER_BYTES])


def _attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    while data:
        length, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4:length]
        data = data[length + (-length % 4) :]


class Sampler:
    """Reads the counters of all nodes together, now and, in a thread, every `INTERVAL`."""

    def __init__(self, namespaces: Iterable[Path]) -> None:
        self.samples: list[Sample] = []
        self._readers = [CounterReader(namespace) for namespace in namespaces]
        self._lock = threading.Lock()
        self.samples.append(self.now())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def now(self) -> Sample:
        """A sample of this moment."""
        with self._lock:
            counters: Counters = {}
            for reader in self._readers:
                counters |= reader.read()
            return Sample(time.monotonic_ns(), counters)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for reader in self._readers:
            reader.close()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.samples.append(self.now())
