"""The kernel's counts of what each link has carried since it exists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COUNTS = Path("/proc/net/dev")  # of the network namespace that asks, which /sys/class/net need not be
RECEIVED, SENT = 0, 8  # columns of octets


@dataclass(frozen=True, slots=True)
class LinkCount:
    """Octets."""

    received: int
    sent: int


def link_counts() -> dict[str, LinkCount]:
    """All links by name."""
    found = {}
    # a name may hold any octet but white space, "/" and ":", also what is not UTF-8 or ends a line elsewhere
    for line in COUNTS.read_text(errors="surrogateescape").split("\n"):
        name, colon, columns = line.partition(":")
        if colon:
            numbers = columns.split()
            found[name.strip()] = LinkCount(int(numbers[RECEIVED]), int(numbers[SENT]))
    return found
