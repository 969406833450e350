"""`mip6 explain`: which rule a packet meets at a running agent, which links it takes now, and why not the others."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mip6.status import find_socket, table
from mip6.system.control import ControlError, request


def add_parser(commands: Any) -> None:
    """The arguments of the command."""
    parser = commands.add_parser(
        "explain",
        help="say which rule a packet meets and which links it takes, and why",
        description="Works at either end. Each end decides about what it sends: ask the mobile node about packets from "
        "it, the home agent about packets to it.",
    )
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("destination", metavar="DST")
    parser.add_argument("protocol", metavar="PROTO", help="name or number")
    parser.add_argument("source_port", metavar="SPORT", nargs="?")
    parser.add_argument("destination_port", metavar="DPORT", nargs="?")
    parser.add_argument("--dscp", help="a number")
    parser.add_argument("--flow-label", help="a number")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--control", type=Path, metavar="PATH", help="control socket (default: the one in /run/mip6)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when the question is wrong or nobody answers."""
    names = ("source", "destination", "protocol", "source_port", "destination_port", "dscp", "flow_label")
    message = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    try:
        answer = request(arguments.control or find_socket(), {"command": "explain", **message})
    except ControlError as error:
        print(f"mip6 explain: {error}", file=sys.stderr)
        return 1
    if not answer.get("ok"):
        print(f"mip6 explain: {answer.get('error')}", file=sys.stderr)
        return 1
    print(json.dumps(answer) if arguments.json else render(answer))
    return 0


def render(answer: Mapping[str, Any]) -> str:
    """The answer as text."""
    if answer["node"] is None:
        return str(answer["outcome"])
    lines = [f"{answer['direction']} {answer['node']}; the {answer['decides']} decides"]
    for rule in answer["rules"]:
        way = f": {rule['way']}" if rule["way"] else ""
        lines.append(f"rule {rule['name']} (FID {rule['fid']}; {rule['selector']}) {rule['verdict']}{way}")
    lines.append(str(answer["outcome"]))
    if answer["bindings"]:
        rows: list[tuple[str, ...]] = [("BID", "LINK", "CARE-OF ADDRESS", "USED", "WEIGHT", "WHY")]
        for one in answer["bindings"]:
            shown = (one["link"], one["care_of_address"], "yes" if one["used"] else "no", one["weight"], one["why"])
            rows.append((str(one["bid"]), *("-" if value is None else str(value) for value in shown)))
        lines.append(table(rows))
    return "\n".join(lines)
