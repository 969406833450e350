"""The home agent as a process: engine, store and shell joined."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from ipaddress import IPv6Address
from pathlib import Path
from random import SystemRandom
from typing import Any

from homeagent.bindingcache import from_record
from homeagent.config import Configuration
from homeagent.engine import HomeAgent
from homeagent.operator import Operator
from homeagent.settings import HomeAgentSettings
from homeagent.store import Store
from mip6.forwarding import End
from mip6.icmp6 import home_agents_anycast
from mip6.stamp import Key, derive_key
from mip6.system import log
from mip6.system.advertisements import RouterAdvertisements
from mip6.system.clock import clock
from mip6.system.homelink import AnycastMembership
from mip6.system.probes import Measured, Prober
from mip6.system.recorder import Recorded, Recorder
from mip6.system.shell import Shell


async def run(configuration: Configuration) -> None:
    """Serve until told to stop."""
    settings = configuration.settings
    if settings.insecure:
        log.event("insecure", "warning", meaning="Binding Updates are accepted without authentication")
    recorder = Recorder(Path(settings.record), "homeagent") if settings.record else None
    engine = HomeAgent(settings, SystemRandom() if recorder is None else recorder.random())
    store = Store(Path(settings.state))
    keys = Keys(settings)
    measuring = prober(settings, keys) if settings.paths.probe else None
    async with contextlib.AsyncExitStack() as stack:
        if recorder is not None:
            stack.callback(recorder.close)
        recorded = None if recorder is None else Recorded(engine, recorder)
        stack.push_async_callback(store.close)  # after the shell, whose tasks write
        shell = await stack.enter_async_context(
            Shell(
                recorded or engine,
                device=settings.device,
                dataplane=settings.dataplane,
                shortcut=settings.shortcut,
                on_exit=settings.on_exit,
                control=settings.control,
                mtu=settings.mtu,
                store=store,
                home_link=settings.home_link,
                ipv4=settings.ipv4_address is not None or settings.ipv4_home_pool is not None,
                zero_checksum=settings.udp_zero_checksum,
                prober=measuring,
            )
        )

        def changed(new: HomeAgentSettings) -> None:
            keys.set(new)
            if measuring is not None:
                measuring.renew_keys()

        operator = Operator(shell, engine, configuration.path, changed)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: shell.spawn(operator.reload()))
        link = settings.home_link or settings.device
        anycast = AnycastMembership([home_agents_anycast(one) for one in settings.home_prefixes], link)
        stack.callback(anycast.close)
        if settings.home_link is not None:
            stack.callback(RouterAdvertisements(settings.home_link, shell.handle).close)
        shell.spawn(store.run())
        now, records = clock(), store.records(readable)
        actions = engine.restore(records, now)
        if recorded is not None:
            recorded.restored(records, now, actions)
        shell.perform(actions)
        await shell.serve()


def readable(home: IPv6Address, record: dict[str, Any]) -> None:
    """Raises what `from_record` raises for a record that is none."""
    from_record(home, record, 0.0)


class Keys:
    """The keys of each mobile node's probes."""

    def __init__(self, settings: HomeAgentSettings) -> None:
        self.set(settings)

    def set(self, settings: HomeAgentSettings) -> None:
        """Those of these settings hold."""
        self._found = {
            node.home_address: [derive_key(one.key, node.home_address) for one in node.associations]
            for node in settings.nodes
        }

    def of(self, home: IPv6Address) -> Sequence[Key]:
        return self._found.get(home, ())


def prober(settings: HomeAgentSettings, keys: Keys) -> Prober:
    """What measures the paths to the mobile nodes."""
    return Prober(
        Measured(
            own=settings.address,
            end=End.HOME_AGENT,
            device=settings.device,
            keys=keys.of,
            settings=lambda tunnel: settings.paths,
        )
    )
