"""The command `homeagent`: the home agent in the foreground, logging to standard error."""

from __future__ import annotations

from homeagent import config
from homeagent.config import Configuration
from mip6.system.command import main_of


async def run(configuration: Configuration) -> None:
    """The daemon, imported only to run it: `--check` needs none of it."""
    from homeagent import daemon

    await daemon.run(configuration)


def main() -> int:
    """Exit status 0: stopped as told; 1: the configuration or the machine does not allow it."""
    return main_of("homeagent", "home agent of Mobile IPv6", config.read, run)


if __name__ == "__main__":
    raise SystemExit(main())
