"""`mip6 cleanup`: remove all that an agent which no longer runs has left in this network namespace.

A home agent leaves its data plane behind on purpose (`on_exit = "keep"`), any agent does when it is killed. Everything
of it is known by its marks: programs by their names, routes, rules and proxies by protocol 109, addresses by the tunnel
device that they are on. What has none of the marks stays.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from mip6.dataplane.attachments import Attachments
from mip6.status import RUN_DIRECTORY
from mip6.system.control import ControlError, request
from mip6.system.interfaces import interface_index
from mip6.system.netlink import Item, KernelApplier
from mip6.system.sockets import Guard, GuardError
from mip6.system.sysctl import restore_noted
from mip6.system.tun import Tun, TunError


def add_parser(commands: Any) -> None:
    """The arguments of the command."""
    about = "remove what an agent that no longer runs has left in the kernel"
    parser = commands.add_parser("cleanup", help=about, description=__doc__)
    parser.add_argument("--device", default="mip0", help="tunnel device of the agent (default: mip0)")
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="settings of the home link to give back, noted beside the control socket (default: those in /run/mip6)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 while the agent runs, or when something could not be removed."""
    count = 0
    try:
        if os.geteuid():
            raise PermissionError("needs root")
        for count, what in enumerate(remove(arguments.device, arguments.settings), 1):  # noqa: B007
            print(f"removed {what}")
    except (TunError, GuardError, OSError, ValueError) as error:
        print(f"mip6 cleanup: {error}", file=sys.stderr)
        return 1
    if not count:
        print(f"nothing of an agent with device {arguments.device} is left")
    return 0


def remove(device: str, settings: Path | None = None) -> Iterator[str]:
    """Remove it all, and tell in words what it was. TunError while an agent has the device."""
    tun = _take(device)
    attachments = Attachments(device)
    yield from attachments.remove_all()
    attachments.close()
    applier = KernelApplier(device)
    yield from map(_in_words, applier.remove_all())
    applier.close()
    guard = Guard(device)
    if guard.is_installed():
        guard.remove()
        yield f"nftables table ip6 {guard.table}"
    for memory in _noted() if settings is None else [settings]:
        yield from (f"setting, which is again {one}" for one in restore_noted(memory))
    if tun is not None:
        tun.remove()
        yield f"device {device}"


def _noted() -> list[Path]:
    """Files of settings whose agent does not answer."""
    found = []
    for memory in sorted(RUN_DIRECTORY.glob("*.settings")):
        try:
            request(memory.with_suffix(".sock"), {"command": "status"})
        except ControlError:
            found.append(memory)
    return found


def _take(device: str) -> Tun | None:
    """The tunnel device, so that no agent can start meanwhile; None when there is none."""
    try:
        interface_index(device)
    except OSError:
        return None
    try:
        return Tun(device, None)
    except TunError as error:
        raise TunError(f"{error}; end the agent first") from error


def _in_words(item: Item) -> str:
    """An address, route, rule or proxy with its fields."""
    said = (f"{field.name} {value}" for field in fields(item) if (value := getattr(item, field.name)) is not None)
    return f"{type(item).__name__}: {', '.join(said)}"
