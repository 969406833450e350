"""The mobile node as a process: engine and shell joined. It keeps nothing on disk but the volumes of metered links."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from random import SystemRandom

from mip6.forwarding import End, Tunnel
from mip6.path import PathSettings
from mip6.stamp import derive_key
from mip6.system import log
from mip6.system.probes import Measured, Prober
from mip6.system.recorder import Recorded, Recorder
from mip6.system.shell import Shell
from mobilenode.config import Configuration
from mobilenode.engine import MobileNode
from mobilenode.operator import Operator
from mobilenode.sampling import sample
from mobilenode.settings import MobileNodeSettings
from mobilenode.volumestore import VolumeStore

ETHERNET_MTU = 1500  # octets; links with more gain nothing, as the path to the home agent seldom carries it


async def run(configuration: Configuration) -> None:
    """Serve until told to stop."""
    settings = configuration.settings
    if settings.insecure:
        log.event("insecure", "warning", meaning="the home agent is not authenticated where no key is configured")
    recorder = Recorder(Path(settings.record), "mobilenode") if settings.record else None
    engine = MobileNode(settings, SystemRandom() if recorder is None else recorder.random())
    measuring = prober(settings) if settings.paths.probe else None
    shell = Shell(
        engine if recorder is None else Recorded(engine, recorder),
        device=settings.device,
        dataplane=settings.dataplane,
        shortcut=settings.shortcut,
        on_exit=settings.on_exit,
        control=settings.control,
        mtu=min([ETHERNET_MTU, *(link.mtu for link in settings.links if link.mtu is not None)]),
        links=[link.name for link in settings.links],
        router=settings.mobile_router,
        ipv4=bool(settings.ipv4_prefixes),
        zero_checksum=settings.udp_zero_checksum,
        prober=measuring,
    )
    operator = Operator(shell, engine, configuration)
    try:
        async with shell:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, lambda: shell.spawn(operator.reload()))
            if metered := [link.name for link in settings.links if link.volume is not None]:
                store = VolumeStore(Path(settings.state), metered, lambda: engine.volumes.found)
                shell.spawn(store.run(shell.handle))
            shell.spawn(
                sample(
                    [link.name for link in settings.links],
                    engine.balances,
                    lambda: {} if measuring is None else measuring.qualities(settings.home_address),
                    shell.handle,
                )
            )
            await shell.serve()
    finally:
        if recorder is not None:
            recorder.close()


def prober(settings: MobileNodeSettings) -> Prober:
    """What measures the paths to the home agent."""
    links = {link.name: link for link in settings.links}
    association = settings.association
    keys = () if association is None else (derive_key(association.key, settings.home_address),)

    def of(tunnel: Tunnel) -> PathSettings:
        link = links.get(tunnel.device or "")
        return settings.paths if link is None else link.paths(settings.paths)

    return Prober(
        Measured(
            own=settings.home_address,
            end=End.MOBILE_NODE,
            device=settings.device,
            keys=lambda home: keys,
            settings=of,
        )
    )
