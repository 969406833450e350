"""Reads the counters of `labs.render.counters` in running nodes by nfnetlink, without a process each time."""

from __future__ import annotations

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

_GET_OBJECT, _NEW_OBJECT = 0x0A13, 0x0A12  # NFNL_SUBSYS_NFTABLES and the message, linux/netfilter/nf_tables.h
_NETLINK_NETFILTER = 12
_REQUEST_DUMP = 0x301
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
        with inside(namespace):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)

    def read(self) -> Counters:
        """(packets, octets) by name."""
        table = COUNTER_TABLE.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(table), _OBJECT_TABLE) + table + bytes(-len(table) % 4)
        size = _HEADER.size + _FAMILY.size + len(attribute)
        header = _HEADER.pack(size, _GET_OBJECT, _REQUEST_DUMP, 1, 0)
        self._socket.send(header + _FAMILY.pack(_INET, 0, 0) + attribute)
        found: Counters = {}
        while True:
            data = memoryview(self._socket.recv(_LARGEST))
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", data, _HEADER.size)[0], "nfnetlink")
                if kind == _NEW_OBJECT:
                    name, counts = _object(data[_HEADER.size + _FAMILY.size : length])
                    found[name] = counts
                data = data[length + (-length % 4) :]

    def close(self) -> None:
        self._socket.close()


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
