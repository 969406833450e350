"""When what the home agent knows of each home address is due: a heap with one live entry each."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from ipaddress import IPv6Address


class Deadlines:
    """Later deadlines are cheap: the old one rings, and whoever it wakes sets the new one."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, IPv6Address]] = []
        self._rings: dict[IPv6Address, float] = {}  # the live heap entry of each home address

    def set(self, home: IPv6Address, due: float | None) -> None:
        """`home` is looked at when `due`, or sooner; None: never."""
        if due is None:
            self._rings.pop(home, None)
            return
        rings = self._rings.get(home)
        if rings is None or due < rings:  # a later deadline is found when the old one rings
            self._rings[home] = due
            heapq.heappush(self._heap, (due, home))

    def next(self) -> tuple[float, IPv6Address] | None:
        """The earliest deadline."""
        while self._heap and self._rings.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def take(self, now: float) -> Iterator[IPv6Address]:
        """What is due, each taken off; set its next deadline before going on."""
        while self._heap and self._heap[0][0] <= now:
            due, home = heapq.heappop(self._heap)
            if self._rings.get(home) == due:
                del self._rings[home]
                yield home
