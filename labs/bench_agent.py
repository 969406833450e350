"""Benchmarks of codecs and home agent: microseconds per message, registrations per second, memory per node.

Everything is measured in this process on real Binding Updates, authenticated and different for each node; with the
store, a registration counts when its commit is done.
"""

from __future__ import annotations

import asyncio
import gc
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from statistics import median
from typing import Any

from homeagent.engine import HomeAgent
from homeagent.settings import HomeAgentSettings, NodeSettings
from homeagent.store import Store
from mip6 import actions, events
from mip6.auth import Algorithm, SecurityAssociation, ntp_timestamp, sign
from mip6.headers import build_packet
from mip6.messages import BindingAcknowledgement, BindingUpdate, decode_message, encode_message
from mip6.numbers import AckFlag, UpdateFlag
from mip6.options import (
    BindingIdentifier,
    FlowIdentification,
    MessageIdentification,
    MobileNetworkPrefix,
    MobileNodeIdentifier,
    Option,
)
from mip6.selectors import IPv6Selector
from mip6.suboptions import BindingReference, TrafficSelectorSubOption

NODES, BINDINGS = 10_000, 3
HA = IPv6Address("2001:db8:100::1")
HOME = IPv6Network("2001:db8:100::/64")
FLAGS = UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION
KEY = SecurityAssociation(4096, Algorithm.HMAC_SHA1, bytes(range(16)))
WALL = 1_700_000_000.0
CARE_OF = tuple(IPv6Address(f"2001:db8:{link}::77") for link in "abc")


def _row(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "ratio_to_plain": None}


def _microseconds(run: Callable[[], object]) -> float:
    """The median over batches of the time for one call."""
    batches = []
    for _ in range(15):
        start = time.perf_counter()
        for _ in range(500):
            run()
        batches.append((time.perf_counter() - start) / 500 * 1e6)
    return median(batches)


def codecs() -> list[dict[str, Any]]:
    """Decode a Binding Update with 3 BIDs, 2 prefixes, 4 flow bindings and authentication; encode its answer.

    Its traffic selectors have been read before, as in each but the first one of a fleet.
    """
    voice = TrafficSelectorSubOption(IPv6Selector(destination_port=(5004, 5010), next_header=(17, 17)))
    identity: tuple[Option, ...] = (MobileNodeIdentifier(1, b"mr@example.com"), MessageIdentification(1 << 63))
    update = BindingUpdate(
        7,
        FLAGS | UpdateFlag.MOBILE_ROUTER,
        600,
        (
            *(MobileNetworkPrefix(56, IPv6Address(f"2001:db8:f0{n}::")) for n in (0, 1)),
            *(BindingIdentifier(bid, 0, False, 10 * bid, CARE_OF[bid - 1]) for bid in (1, 2, 3)),
            *(FlowIdentification(fid, fid, 0, (voice, BindingReference((1, 2)))) for fid in (1, 2, 3, 4)),
            *identity,
        ),
    )
    octets = sign(update, KEY, CARE_OF[0], IPv6Address("2001:db8:100::5"))
    mac = decode_message(octets).options[-1]
    answer = BindingAcknowledgement(
        0,
        AckFlag.MOBILE_ROUTER,
        7,
        600,
        (
            *(BindingIdentifier(bid, 0, False, 10 * bid) for bid in (1, 2, 3)),
            *(FlowIdentification(fid, fid, 0) for fid in (1, 2, 3, 4)),
            *identity,
            mac,
        ),
    )
    return [
        _row("decode_bu_us", _microseconds(lambda: decode_message(octets)), "us"),
        _row("encode_ba_us", _microseconds(lambda: encode_message(answer)), "us"),
    ]


def _settings() -> HomeAgentSettings:
    homes = [HOME[1000 + n] for n in range(NODES)]
    keys = [SecurityAssociation(4096, Algorithm.HMAC_SHA1, n.to_bytes(16, "big")) for n in range(NODES)]
    nodes = tuple(NodeSettings(home, f"node{n}@example.com", associations=(keys[n],)) for n, home in enumerate(homes))
    return HomeAgentSettings(HA, (HOME,), nodes=nodes)


def _updates(settings: HomeAgentSettings, now: float) -> list[events.PacketReceived]:
    """One authentic Binding Update of every node, each with three care-of addresses of its own."""
    result = []
    for number, node in enumerate(settings.nodes):
        care_of = [IPv6Address(int(link) + number) for link in CARE_OF]
        assert node.identifier is not None
        update = BindingUpdate(
            int(now) % 65536,
            FLAGS | UpdateFlag.OVERWRITE,
            600,
            (
                *(BindingIdentifier(bid + 1, 0, False, bid + 1, one) for bid, one in enumerate(care_of)),
                MobileNodeIdentifier(1, node.identifier.encode()),
                MessageIdentification(ntp_timestamp(now + WALL)),
            ),
        )
        mh = sign(update, node.associations[0], care_of[0], node.home_address)
        packet = build_packet(care_of[0], HA, mh, home_address=node.home_address)
        result.append(events.PacketReceived(packet, "eth0"))
    return result


def _agent(settings: HomeAgentSettings) -> HomeAgent:
    agent = HomeAgent(settings, random.Random(1))
    agent.handle(events.WallClockSet(WALL), 0.0)
    return agent


def _accepted(done: list[actions.Action]) -> bool:
    return any(isinstance(one, actions.StoreNode) for one in done)


def registrations() -> list[dict[str, Any]]:
    """Registrations per second without and with the store, refreshes of the same bindings, and memory per node."""
    settings = _settings()
    rates: list[float] = []
    refreshes: list[float] = []
    first, second = _updates(settings, 10.0), _updates(settings, 20.0)
    for _ in range(5):
        agent = _agent(settings)
        gc.collect()
        for updates, now, found in ((first, 10.0, rates), (second, 20.0, refreshes)):
            start = time.perf_counter()
            done = sum(_accepted(agent.handle(event, now)) for event in updates)
            found.append(done / (time.perf_counter() - start))
            if done != NODES:
                raise RuntimeError(f"{done} of {NODES} registrations were accepted")
    stored = [asyncio.run(_stored(settings, first)) for _ in range(5)]
    gc.collect()
    tracemalloc.start()
    agent = _agent(settings)
    before = tracemalloc.get_traced_memory()[0]
    for event in first:
        agent.handle(event, 10.0)
    gc.collect()
    memory = (tracemalloc.get_traced_memory()[0] - before) / NODES
    tracemalloc.stop()
    return [
        _row("registrations_per_s", median(rates), "1/s"),
        _row("refreshes_per_s", median(refreshes), "1/s"),
        _row("registrations_per_s_stored", median(stored), "1/s"),
        _row("memory_per_node_bytes", memory, "octets"),
    ]


async def _stored(settings: HomeAgentSettings, updates: list[events.PacketReceived]) -> float:
    """Every registration waits for its own commit; the next one does not wait for it."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "bench.sqlite")
        writer = asyncio.create_task(store.run())
        agent = _agent(settings)
        finished = asyncio.Event()
        waiting = len(updates)

        def committed(written: bool) -> None:
            nonlocal waiting
            if not written:
                raise RuntimeError("the store could not write")
            waiting -= 1
            if waiting == 0:
                finished.set()

        start = time.perf_counter()
        for number, event in enumerate(updates):
            for action in agent.handle(event, 10.0):
                if isinstance(action, actions.StoreNode):
                    store.put(action.home_address, action.record, committed)
            if number % 64 == 0:
                await asyncio.sleep(0)  # as the daemon does between two packets: completions run
        await finished.wait()
        elapsed = time.perf_counter() - start
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await store.close()
    return len(updates) / elapsed
