"""The command `mobilenode`: the mobile node in the foreground, logging to standard error."""

from __future__ import annotations

from mip6.system.command import main_of


def main() -> int:
    """Exit status 0: stopped as told; 1: the configuration or the machine does not allow it."""
    from mobilenode import config, daemon

    return main_of("mobilenode", "mobile node of Mobile IPv6", config.load, daemon.run)


if __name__ == "__main__":
    raise SystemExit(main())
