"""`mip6 revoke`: ask the home agent to end bindings of a mobile node (RFC 5846 §7.3)."""

from __future__ import annotations

import argparse
import sys
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from mip6.status import find_socket
from mip6.system.control import ControlError, request


def add_parser(commands: Any) -> None:
    """The arguments of the command."""
    parser = commands.add_parser("revoke", help="end bindings of a mobile node at the home agent")
    parser.add_argument("home_address", type=IPv6Address, metavar="HOME_ADDRESS")
    parser.add_argument("--bid", type=int, action="append", default=[], help="only this binding; may be repeated")
    parser.add_argument("--control", type=Path, metavar="PATH", help="control socket (default: the one in /run/mip6)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when the home agent refuses or does not answer."""
    message = {"command": "revoke", "home_address": str(arguments.home_address), "bids": arguments.bid}
    try:
        answer = request(arguments.control or find_socket("homeagent"), message)
    except ControlError as error:
        print(f"mip6 revoke: {error}", file=sys.stderr)
        return 1
    if not answer.get("ok"):
        print(f"mip6 revoke: {answer.get('error')}", file=sys.stderr)
        return 1
    print(f"revoking bindings of {arguments.home_address}")
    return 0
