"""Which elements of an array are free: runs of neighbours are taken and given back."""

from __future__ import annotations

from collections.abc import Iterable


class Full(Exception):
    """No run of that length is free."""


class Ranges:
    """The numbers from 0 to `size` - 1."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._end = 0  # nothing from here on was ever taken
        self._free: dict[int, list[int]] = {}  # starts by length

    def take(self, count: int) -> int:
        """The first of `count` free numbers in a row. Full when there are none."""
        if count == 0:
            return 0
        start = self._find(count)
        if start is None:
            self._merge()
            start = self._find(count)
        if start is None:
            raise Full
        return start

    def give(self, start: int, count: int) -> None:
        """They are free again."""
        if count:
            self._free.setdefault(count, []).append(start)

    def occupy(self, ranges: Iterable[tuple[int, int]]) -> None:
        """All but these (first, count) are free; for an array that somebody else has filled."""
        self._end, self._free = 0, {}
        for start, count in sorted(ranges):
            self.give(self._end, start - self._end)
            self._end = max(self._end, start + count)

    def _find(self, count: int) -> int | None:
        if self._free.get(count):
            return self._free[count].pop()
        for length in sorted(one for one, starts in self._free.items() if one > count and starts):
            start = self._free[length].pop()
            self.give(start + count, length - count)
            return start
        if self._end + count > self.size:
            return None
        self._end += count
        return self._end - count

    def _merge(self) -> None:
        """Make one of neighbours."""
        free = sorted((start, length) for length, starts in self._free.items() for start in starts)
        self._free = {}
        at, length = 0, 0
        for start, count in free:
            if start == at + length:
                length += count
            else:
                self.give(at, length)
                at, length = start, count
        if at + length == self._end:
            self._end = at
        else:
            self.give(at, length)
