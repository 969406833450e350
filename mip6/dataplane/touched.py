"""Keys of maps that several nodes have need of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from mip6.dataplane.layout import NUMBER
from mip6.dataplane.libbpf import Map

_PRESENT = NUMBER.pack(1)


class Touched:
    """Keys that are counted by their users: written for the first, removed after the last."""

    def __init__(self, uses: dict[str, Counter[bytes]]) -> None:
        self._uses = uses
        self._before: dict[str, dict[bytes, int]] = {name: {} for name in uses}

    def use(self, name: str, now: Iterable[bytes], before: Iterable[bytes]) -> None:
        """The users now, instead of those before; a key comes once for each."""
        uses, noted = self._uses[name], self._before[name]
        for key in now:
            count = uses.get(key, 0)
            noted.setdefault(key, count)
            uses[key] = count + 1
        for key in before:
            noted.setdefault(key, uses[key])
            uses[key] -= 1

    def write(self, maps: Mapping[str, Map]) -> None:
        """Put in what has its first user."""
        for name, noted in self._before.items():
            keys = [key for key, before in noted.items() if not before and self._uses[name][key]]
            maps[name].update_batch(keys, [_PRESENT] * len(keys))

    def remove(self, maps: Mapping[str, Map]) -> None:
        """Take out what has lost its last one."""
        for name, noted in self._before.items():
            unused = [key for key in noted if not self._uses[name][key]]
            for key in unused:
                del self._uses[name][key]
            maps[name].delete_batch([key for key in unused if noted[key]])
