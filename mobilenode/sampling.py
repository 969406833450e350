"""What the links carry and what the probes say of their paths, taken every second for load balancing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from mip6.events import Event, LinkMeasured, LoadMeasured, PathMeasured
from mip6.measurement import Quality
from mobilenode.linkcounts import link_counts

INTERVAL = 1.0  # seconds


async def sample(
    links: Sequence[str],
    wanted: Callable[[], bool],
    qualities: Callable[[], Mapping[int, Quality]],
    handle: Callable[[Event], None],
) -> None:
    """Until cancelled, while it is `wanted`. `qualities` by BID."""
    while True:
        if wanted():
            handle(measured(links, qualities()))
        await asyncio.sleep(INTERVAL)


def measured(links: Sequence[str], qualities: Mapping[int, Quality]) -> LoadMeasured:
    """The event, with those of the links that exist."""
    counts = link_counts()
    return LoadMeasured(
        tuple(LinkMeasured(name, counts[name].sent, counts[name].received) for name in links if name in counts),
        tuple(
            PathMeasured(bid, *(round(one, 6) for one in (path.loss_out, path.loss_in, path.queue_out, path.queue_in)))
            for bid, path in sorted(qualities.items())
        ),
    )
