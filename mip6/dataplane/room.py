"""Room in the maps: what is free, and what is retired: nothing points to it, but a program may still look at it."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from mip6.dataplane.layout import CHUNK_KEY, MAX_CHUNKS, NUMBER
from mip6.dataplane.libbpf import LibbpfError, Map
from mip6.dataplane.ranges import Full, Ranges

_RETIRED = 8192  # old things that may wait to be freed together
_ZERO = NUMBER.pack(0)


class Room:
    """Elements of the arrays `tunnels` and `counts`, chunks in `rules`."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._maps = maps
        self._free = {name: Ranges(maps[name].max_entries) for name in ("tunnels", "counts")}
        self._retired: dict[str, list[tuple[int, int]]] = {name: [] for name in self._free}
        self._chunks: list[bytes] = []

    def take(self, name: str, count: int) -> int:
        """The index of the first of so many free elements in a row. LibbpfError (E2BIG) when there are none."""
        try:
            return self._free[name].take(count)
        except Full:
            self.reclaim()
        try:
            return self._free[name].take(count)
        except Full:
            raise LibbpfError(f"map {name}: no room for {count} more", errno.E2BIG) from None

    def occupy(self, name: str, runs: Iterable[tuple[int, int]]) -> None:
        """All but these elements (first, count) are free."""
        self._free[name].occupy(runs)

    def insert(self, name: str, keys: list[bytes], values: list[bytes]) -> None:
        """Write many; what is retired makes room if there is none."""
        try:
            self._maps[name].update_batch(keys, values)
        except LibbpfError as error:
            if error.errno != errno.E2BIG or not self._waiting():
                raise
            self.reclaim()
            self._maps[name].update_batch(keys, values)

    def retire(self, name: str, start: int, count: int) -> None:
        """Elements of an array are no longer needed."""
        self._retired[name].append((start, count))

    def retire_rules(self, version: int, chunks: int, copied: int) -> None:
        """Chunks of rules are no longer needed."""
        numbers = (*range(chunks), *range(MAX_CHUNKS, MAX_CHUNKS + copied))
        self._chunks += [CHUNK_KEY.pack(version, number) for number in numbers]

    def retire_chunks(self, keys: Iterable[bytes]) -> None:
        """The same, by their keys."""
        self._chunks += keys

    def tidy(self) -> None:
        """Free what is retired when it is much: that takes milliseconds, however much it is."""
        if self._waiting() > min(_RETIRED, self._maps["rules"].max_entries // 4):
            self.reclaim()

    def reclaim(self) -> None:
        """Free what is retired, once no program can look at it any more."""
        # the kernel returns from this when every program has ended that ran when it began
        self._maps["grace"].update(_ZERO, NUMBER.pack(self._maps["settings"].fd))
        chunks, self._chunks = self._chunks, []
        self._maps["rules"].delete_batch(chunks)
        for name, runs in self._retired.items():
            for start, count in runs:
                self._free[name].give(start, count)
            runs.clear()

    def _waiting(self) -> int:
        return len(self._chunks) + sum(map(len, self._retired.values()))
