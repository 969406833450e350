"""`mip6 flow`: rules of the running mobile node, changed at both ends in one Binding Update or not at all."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mip6.status import find_socket, table
from mip6.system.control import ControlError, request

DEFAULT_LIMIT = 5.0  # seconds until a change is given up
PATIENCE = 5.0  # seconds beyond it until the daemon must have answered
LASTS = "until the mobile node restarts or reloads; write it into the configuration file to keep it"
CONDITIONS = {
    "app": "a named set of traffic: voip, web, bulk, ...",
    "proto": "protocol: name or number",
    "source": "the correspondent's address, prefix or range",
    "destination": "the address, prefix or range at this side",
    "source-port": "the correspondent's port or range",
    "destination-port": "the port or range at this side",
    "dscp": 'value, range or name like "EF"',
    "flow-label": "IPv6 flow label or range",
    "spi": "SPI of ESP or AH, or range",
    "from": "time of day from which it holds, with --to",
    "to": "time of day until which it holds",
    "days": "days on which it begins: mon,tue,...",
    "last-resort": "default, drop or unreachable, when none of its links works",
}


def add_parser(commands: Any) -> None:
    """The arguments of the command and its verbs."""
    parser = commands.add_parser("flow", help="change the flow rules of a running mobile node, at both ends")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    shown = verbs.add_parser("list", help="show the rules and where they go now")
    shown.add_argument("--json", action="store_true", help="as one JSON object")
    add = verbs.add_parser("add", help="one more rule", description=f"The rule lasts {LASTS}.")
    add.add_argument("name")
    _add_way(add)
    for name, about in CONDITIONS.items():
        add.add_argument(f"--{name}", dest=f"rule_{name.replace('-', '_')}", metavar="VALUE", help=about)
    add.add_argument(
        "--priority", type=int, dest="rule_priority", metavar="N", help="FID-PRI, lower is looked at first"
    )
    add.add_argument("--before", metavar="NAME", help="in front of this rule (default: behind all)")
    move = verbs.add_parser("move", help="a rule takes other links", description=f"The change lasts {LASTS}.")
    move.add_argument("name")
    move.add_argument("links", nargs="*", metavar="LINK", help="in order of preference; or one of the options")
    _add_way(move)
    delete = verbs.add_parser("del", help="a rule less", description=f"It stays away {LASTS}.")
    delete.add_argument("name")
    for verb in (add, move, delete):
        verb.add_argument("--limit", type=float, default=DEFAULT_LIMIT, metavar="SECONDS", help="for the home agent")
    for verb in (shown, add, move, delete):
        verb.add_argument("--control", type=Path, metavar="PATH", help="control socket (default: the one in /run/mip6)")
    parser.set_defaults(run=run)


def _add_way(parser: argparse.ArgumentParser) -> None:
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--via", type=_names, metavar="LINK,...", help="the first of these that works")
    way.add_argument("--copy", type=_names, metavar="LINK,...", help="one copy over each")
    way.add_argument("--share", type=_shares, metavar="LINK=WEIGHT,...", help="each new flow over one of them, or auto")
    way.add_argument("--balance", type=_shares, metavar="LINK,...", help="the same, new flows to the less loaded one")
    way.add_argument("--policy", metavar="NAME", help="as this policy of the configuration says")
    way.add_argument("--drop", action="store_true", default=None, help="discard at this end")
    parser.add_argument("--up", type=_names, metavar="LINK,...", help="from the mobile node only")
    parser.add_argument("--down", type=_names, metavar="LINK,...", help="to the mobile node only")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _shares(text: str) -> object:
    if text == "auto" or "=" not in text:
        return text if text == "auto" else _names(text)
    pairs = (one.partition("=") for one in text.split(","))
    return {name.strip(): int(weight) for name, _, weight in pairs}


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0: both ends have it; 1: nothing was changed, and why."""
    message: dict[str, Any] = {"command": "flow", "verb": {"del": "delete"}.get(arguments.verb, arguments.verb)}
    limit = getattr(arguments, "limit", DEFAULT_LIMIT)
    if arguments.verb != "list":
        message |= {"name": arguments.name, "limit": limit}
    if arguments.verb in ("add", "move"):
        names = ("via", "copy", "share", "balance", "policy", "drop", "up", "down")
        way = {name: value for name in names if (value := getattr(arguments, name)) is not None}
        if arguments.verb == "move":
            if arguments.links:
                way["via"] = arguments.links
            message["way"] = way
        else:
            given = {key.removeprefix("rule_"): value for key, value in vars(arguments).items() if key[:5] == "rule_"}
            conditions = {key: value for key, value in given.items() if value is not None}
            message |= {"rule": {"name": arguments.name, **conditions, **way}, "before": arguments.before}
    try:
        answer = request(arguments.control or find_socket("mobilenode"), message, timeout=limit + PATIENCE)
    except ControlError as error:
        print(f"mip6 flow: {error}", file=sys.stderr)
        return 1
    if not answer.get("ok"):
        print(f"mip6 flow: nothing was changed: {answer.get('error')}", file=sys.stderr)
        return 1
    if arguments.verb == "list":
        print(json.dumps(answer["rules"]) if arguments.json else render(answer["rules"]))
        return 0
    done = {"add": "added", "move": "moved", "del": "deleted"}[arguments.verb]
    where = "at both ends" if "note" not in answer else f"here; {answer['note']}"
    print(f"{arguments.name}: {done} {where}. It lasts {LASTS}.")
    return 0


def render(rules: Iterable[Mapping[str, Any]]) -> str:
    """The rules as a table."""
    rows = [("NAME", "PRI", "DOWN", "UP", "BIDS DOWN", "BIDS UP", "HOLDS", "FROM", "SELECTORS")]
    for one in rules:
        holds = ("yes" if one["holds"] else "no") + (f" ({one['schedule']})" if one["schedule"] else "")
        up = "as down" if one["up"] == one["down"] else one["up"]
        bids = (",".join(map(str, one[key])) or "-" for key in ("down_bids", "up_bids"))
        origin = "command" if one["live"] else "file"
        selectors = "; ".join(one["selectors"])
        rows.append((one["name"], str(one["priority"]), one["down"], up, *bids, holds, origin, selectors))
    return table(rows)
