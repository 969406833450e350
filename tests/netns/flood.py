"""Many numbered datagrams a second, and which of them arrive: for tests that look for the loss of a single one.

    python -m tests.netns.flood send TALLY ADDRESS PORT RATE     # until SIGTERM
    python -m tests.netns.flood receive TALLY PORT

A tally is a file that both sides of the story can look at while it goes on: what was sent, or what arrived.
"""

from __future__ import annotations

import mmap
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mip6.system.manymessages import outgoing
from mip6.system.manymessages import send as send_many

BATCH = 32  # datagrams of one sendmmsg
LARGEST = 1 << 24  # more are not numbered
_TALLY = struct.Struct("=QQ")
_NUMBER = struct.Struct("=Q")
_SO_RCVBUFFORCE = 33
_BUFFER = 64 << 20


@dataclass(frozen=True)
class Tally:
    """`count`: datagrams sent, or different ones that arrived; `twice`: those that came once more."""

    count: int
    twice: int


def look(path: Path) -> Tally:
    """How it stands now."""
    return Tally(*_TALLY.unpack(path.read_bytes()))


def _file(path: str) -> mmap.mmap:
    Path(path).write_bytes(bytes(_TALLY.size))
    with Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), _TALLY.size)


def send(tally: str, address: str, port: int, rate: float) -> None:
    """At `rate` datagrams a second. One that the kernel refuses (no buffer, no route for a moment) is sent again, so
    that only what was taken counts."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    told, data = _file(tally), bytearray(BATCH * _NUMBER.size)
    view = memoryview(data)
    messages, _alive = outgoing([view[i * _NUMBER.size : (i + 1) * _NUMBER.size] for i in range(BATCH)])
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sent, start = 0, time.perf_counter()
        while not ended and sent + BATCH < LARGEST:
            ahead = (sent + BATCH) / rate - (time.perf_counter() - start)
            if ahead > 0:
                time.sleep(ahead)
            for i in range(BATCH):
                _NUMBER.pack_into(data, i * _NUMBER.size, sent + i)
            try:
                done = send_many(sock.fileno(), messages)
            except OSError as error:
                print(f"refused: {error.strerror}", file=sys.stderr, flush=True)
                time.sleep(0.001)
                continue
            sent += done
            _TALLY.pack_into(told, 0, sent, 0)


def receive(tally: str, port: int) -> None:
    """Count different numbers."""
    told, seen, count, twice = _file(tally), bytearray(LARGEST), 0, 0
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        sock.bind(("::", port))
        print("listening", file=sys.stderr, flush=True)
        while True:
            (number,) = _NUMBER.unpack(sock.recv(64))
            if seen[number]:
                twice += 1
            else:
                seen[number] = 1
                count += 1
            _TALLY.pack_into(told, 0, count, twice)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["send", tally, address, port, rate]:
            send(tally, address, int(port), float(rate))
        case ["receive", tally, port]:
            receive(tally, int(port))
        case _:
            raise SystemExit(__doc__)
