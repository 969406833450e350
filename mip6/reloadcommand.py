"""`mip6 reload`: a running agent reads its configuration file again: a mobile node the rules and policies in it, a home
agent its nodes and limits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mip6.flowcommand import DEFAULT_LIMIT, PATIENCE
from mip6.status import find_socket
from mip6.system.control import ControlError, request


def add_parser(commands: Any) -> None:
    """The arguments of the command."""
    parser = commands.add_parser("reload", help="make a running agent read its configuration file again")
    parser.add_argument("--control", type=Path, metavar="PATH", help="control socket (default: the one in /run/mip6)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when nothing was changed, with every mistake of the file."""
    try:
        path = arguments.control or find_socket()
        answer = request(path, {"command": "reload"}, timeout=DEFAULT_LIMIT + PATIENCE)
    except ControlError as error:
        print(f"mip6 reload: {error}", file=sys.stderr)
        return 1
    if not answer.get("ok"):
        print(f"mip6 reload: nothing was changed: {answer.get('error')}", file=sys.stderr)
        return 1
    print(answer.get("done", "the rules of the file hold") + (f"; {answer['note']}" if "note" in answer else ""))
    return 0
