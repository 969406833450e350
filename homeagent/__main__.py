"""The command `homeagent`: the home agent in the foreground, logging to standard error."""

from __future__ import annotations

from homeagent import config
from homeagent.settings import HomeAgentSettings
from mip6.system.command import main_of


async def run(settings: HomeAgentSettings) -> None:
    """The daemon, imported only to run it: `--check` needs none of it."""
    from homeagent import daemon

    await daemon.run(settings)


def main() -> int:
    """Exit status 0: stopped as told; 1: the configuration or the machine does not allow it."""
    return main_of("homeagent", "home agent of Mobile IPv6", config.load, run)


if __name__ == "__main__":
    raise SystemExit(main())
