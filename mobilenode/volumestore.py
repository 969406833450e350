"""The volumes of metered links in the world: the kernel's counts go in, what was used up this month is kept on disk."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from mip6.events import Event, LinkCounted, VolumeRestored
from mip6.system import log
from mobilenode.linkcounts import link_counts
from mobilenode.volumes import Volume

INTERVAL = 10.0  # seconds between looks, and so the longest use that a crash can forget


class VolumeStore:
    """The file `path`, written whole and renamed into place, so that it is never half there."""

    def __init__(self, path: Path, links: Iterable[str], found: Callable[[], dict[str, Volume]]) -> None:
        self._path, self._links, self._found = path, tuple(links), found
        self._written = ""

    async def run(self, handle: Callable[[Event], None]) -> None:
        """Restore, then count until cancelled."""
        for event in self.read():
            handle(event)
        while True:
            counts = link_counts()
            for name in self._links:
                if name in counts:
                    handle(LinkCounted(name, counts[name].received + counts[name].sent))
            text = self.text()
            await asyncio.to_thread(self.write, text)  # a sync of a slow card must not hold up the tunnels
            await asyncio.sleep(INTERVAL)

    def read(self) -> list[VolumeRestored]:
        """What was kept; nothing, and a line in the log, when it cannot be read."""
        try:
            kept = json.loads(self._path.read_text())
            return [
                VolumeRestored(str(name), float(one["begun"]), int(one["used"]), int(one["counter"]))
                for name, one in kept.items()
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.event("volumes_unreadable", "error", file=self._path, error=repr(error))
            return []

    def text(self) -> str:
        """The volumes as the file has them."""
        return json.dumps(
            {
                name: {"begun": one.begun, "used": one.used, "counter": one.counter}
                for name, one in self._found().items()
            }
        )

    def write(self, text: str) -> None:
        """Keep the volumes, if they have changed."""
        if text == self._written:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_name(self._path.name + ".part")
            with part.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
            self._written = text
        except OSError as error:  # tried again at the next look
            log.event("volumes_not_written", "error", file=self._path, error=str(error))
