"""Flows as data, the records that the traffic programs leave, and what the records say. Pure.

A `Stream` is UDP; a `Download` is TCP whose content is known. The program at each end (`labs.traffic`) appends
fixed-size records to files; times are nanoseconds of CLOCK_MONOTONIC, which all namespaces share, so that times of
different ends compare.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

DOWN, UP = "down", "up"  # towards the mobile network, and away from it
DIRECTIONS = (DOWN, UP)
CHUNK = 16 * 1024  # octets; the unit in which a download is written, verified and recorded
RECORD = struct.Struct("!QQQ")
STAMP = struct.Struct("!QQ")  # what a stream's packet begins with: sequence number, time of sending


@dataclass(frozen=True, slots=True)
class Stream:
    """UDP packets of `size` octets of payload, `rate` a second in each of `directions`, `port` at both ends.

    With `repeats` each packet is sent so many times, equal to the last octet: an honest sender may do that, and all of
    them are to arrive. `family` is the version of IP.
    """

    name: str
    port: int
    rate: float
    size: int = 160
    directions: tuple[str, ...] = DIRECTIONS
    repeats: int = 1
    family: int = 6
    protocol: str = "udp"


@dataclass(frozen=True, slots=True)
class Download:
    """TCP connections from the mobile network to `port` of the correspondent, which sends for as long as it runs.

    `window` is the receive buffer of each connection in octets. Together they are smaller than the queues of the links:
    with a plain tail-drop queue larger windows would have TCP fill the queue and drop other flows' packets, and that
    loss would tell nothing about handoffs. With `page`, in octets (whole chunks), a connection ends after so many and
    the next takes its place: the page after it, by a new flow.
    """

    name: str
    port: int
    window: int = 48 * 1024
    connections: int = 1
    family: int = 6
    protocol: str = "tcp"
    page: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        """A name for the records of each connection."""
        return (self.name,) if self.connections == 1 else tuple(f"{self.name}-{i}" for i in range(self.connections))


Flow = Stream | Download


class Record(NamedTuple):
    """One line of a record file. Streams: sequence number, time sent, time arrived (0 in the sender's file).

    Downloads: octets verified so far, 0, time.
    """

    number: int
    sent: int
    arrived: int

    def encode(self) -> bytes:
        return RECORD.pack(*self)


def decode_records(data: bytes) -> list[Record]:
    """All whole records of a file; one that is still being written is left out."""
    whole = len(data) - len(data) % RECORD.size
    return [Record(*fields) for fields in RECORD.iter_unpack(data[:whole])]


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, half open, in nanoseconds of CLOCK_MONOTONIC."""

    start: int
    end: int

    def __contains__(self, moment: int) -> bool:
        return self.start <= moment < self.end


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What became of the packets that one end sent in a window.

    `reordered` counts arrivals behind a higher sequence number (RFC 4737 §3.3). `gap` is the longest time without an
    arrival that ends inside the window, in milliseconds; it ends with the window when nothing arrived any more.
    """

    sent: int
    lost: int
    duplicated: int
    reordered: int
    gap: float


def stream_report(sent: Iterable[Record], received: Sequence[Record], window: Window) -> StreamReport:
    """Judge a stream by its sender's and its receiver's records, both complete for the window."""
    due = Counter(record.number for record in sent if record.sent in window)
    copies = Counter(record.number for record in received if record.number in due)
    highest, reordered = -1, 0
    for record in received:
        if record.number in due and record.number < highest:
            reordered += 1
        highest = max(highest, record.number)
    return StreamReport(
        sent=due.total(),
        lost=(due - copies).total(),
        duplicated=(copies - due).total(),
        reordered=reordered,
        gap=longest_gap(received, window),
    )


def longest_gap(received: Iterable[Record], window: Window) -> float:
    """The longest time without an arrival that ends inside the window or with it, in milliseconds."""
    moments = sorted(record.arrived for record in received if record.arrived < window.end)
    before = [moment for moment in moments if moment < window.start]
    edges = [before[-1] if before else window.start, *moments[len(before) :], window.end]
    return max(later - earlier for earlier, later in pairwise(edges)) / 1e6


def octets_in(received: Iterable[Record], window: Window) -> int:
    """How many octets of a download's connection arrived in the window."""
    marks = [record.number for record in received if record.arrived in window]
    return marks[-1] - marks[0] if marks else 0


def content(offset: int, size: int) -> bytes:
    """The download's octets from `offset`: big-endian 64-bit numbers that count up. Both are multiples of 8."""
    numbers = array("Q", range(offset // 8, (offset + size) // 8))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()
