"""The command `mobilenode`: the mobile node in the foreground, logging to standard error."""

from __future__ import annotations

from mip6.system.command import main_of
from mobilenode import config
from mobilenode.settings import MobileNodeSettings


async def run(settings: MobileNodeSettings) -> None:
    """The daemon, imported only to run it: `--check` needs none of it."""
    from mobilenode import daemon

    await daemon.run(settings)


def main() -> int:
    """Exit status 0: stopped as told; 1: the configuration or the machine does not allow it."""
    return main_of("mobilenode", "mobile node of Mobile IPv6", config.load, run)


if __name__ == "__main__":
    raise SystemExit(main())
