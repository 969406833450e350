"""`mip6 status`: what a running agent does, from its control socket, as tables for people or JSON for machines."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Never

from mip6.system.control import ControlError, request

RUN_DIRECTORY = Path("/run/mip6")
WATCH_INTERVAL = 1.0  # seconds
HOME, CLEAR_LINE, CLEAR_BELOW, NO_WRAP, WRAP = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[?7l", "\x1b[?7h"
PATH = ["PATH", "RTT MS", "VARIATION MS", "LOSS %"]
TRAFFIC = ("packets_out", "bytes_out", "packets_in", "bytes_in")


def add_parser(commands: Any) -> None:
    """The arguments of the command."""
    parser = commands.add_parser("status", help="show what a running home agent or mobile node does")
    parser.add_argument("--control", type=Path, metavar="PATH", help="control socket (default: the one in /run/mip6)")
    parser.add_argument("--json", action="store_true", help="the whole answer as one JSON object")
    parser.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when nobody answers."""
    try:
        path = arguments.control or find_socket()
        text = _text(path, arguments.json)
        if arguments.watch and not arguments.json and sys.stdout.isatty():
            _watch(path, text)
        while arguments.watch:
            print(text, flush=True)
            time.sleep(WATCH_INTERVAL)
            text = _text(path, arguments.json)
        print(text)
        return 0
    except ControlError as error:
        print(f"mip6 status: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _text(path: Path, as_json: bool) -> str:
    answer = request(path, {"command": "status"})
    return json.dumps(answer) if as_json else render(answer)


def _watch(path: Path, text: str) -> Never:
    """Redraw in place until Ctrl-C. A daemon that does not answer may be restarting: that is shown, and asked again."""
    sys.stdout.write(NO_WRAP)
    try:
        while True:
            sys.stdout.write(screen(text, shutil.get_terminal_size().lines))
            sys.stdout.flush()
            time.sleep(WATCH_INTERVAL)
            try:
                text = _text(path, False)
            except ControlError as error:
                text = f"mip6 status: {error}"
    finally:
        sys.stdout.write(WRAP)
        sys.stdout.flush()


def screen(text: str, height: int) -> str:
    """What to write to a terminal that cuts long lines: each over the old one, the last row for what is left out."""
    lines = text.splitlines()
    if len(lines) >= height:
        left = len(lines) - (height - 2)
        lines = [*lines[: height - 2], f"... {left} more lines: a taller window, or mip6 status without --watch"]
    return HOME + "".join(line + CLEAR_LINE + "\n" for line in lines) + CLEAR_BELOW


def find_socket(role: str | None = None, directory: Path = RUN_DIRECTORY) -> Path:
    """The one control socket on this machine (of the agent `role`); ControlError when there is none or several."""
    found: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        found = sorted(path for path in directory.iterdir() if path.is_socket())
    if role is not None:
        found = [path for path in found if path.name.startswith(role)] or found
    if not found:
        raise ControlError(f"no control socket in {directory}; is the daemon running? Else name it with --control")
    if len(found) > 1:
        raise ControlError(f"several control sockets, choose with --control: {', '.join(map(str, found))}")
    return found[0]


def render(status: Mapping[str, Any]) -> str:
    """The status as aligned text."""
    parts = [_head(status)]
    if status["role"] == "homeagent":
        for node in status["nodes"]:
            router = "mobile router" if node.get("mobile_router") else "mobile node"
            identifier = f" ({node['identifier']})" if node.get("identifier") else ""
            parts += [f"{router} {node['home_address']}{identifier}", *_node(node)]
    else:
        parts += _node(status)
    for title in ("drops", "signalling", "probes"):
        if counts := status.get(title):
            parts.append(f"{title}:\n" + table((name, str(count)) for name, count in sorted(counts.items())))
    return "\n\n".join(parts)


def _head(status: Mapping[str, Any]) -> str:
    shortcut = f" (short cut {status['shortcut']}: {status['shortcut_reason']})" if "shortcut" in status else ""
    about = f"device {status['device']}, data plane {status['dataplane']}{shortcut}, up {_duration(status['uptime'])}"
    if status["role"] == "homeagent":
        return f"home agent {status['address']}: {about}"
    agent = f"home agent {status['home_agent']}" if status["home_agent"] else "no home agent yet"
    return f"mobile node {status['home_address']}, {agent}: {status['state']}, {about}"


def _node(node: Mapping[str, Any]) -> list[str]:
    parts = []
    if node["prefixes"]:
        parts.append("prefixes: " + ", ".join(node["prefixes"]))
    if node["bindings"]:
        parts.append("bindings:\n" + _bindings(node["bindings"]))
    else:
        parts.append("no bindings")
    if any(one.get("packets_first") or one.get("packets_duplicate") for one in node["bindings"]):
        parts.append("n-cast packets received:\n" + _copies(node["bindings"]))
    if any(one.get("load") for one in node["bindings"]):
        parts.append("load:\n" + _load(node["bindings"]))
    if node["flows"]:
        parts.append("flows:\n" + _flows(node["flows"]))
    return parts


def _copies(bindings: Sequence[Mapping[str, Any]]) -> str:
    """What came from where first, and what was eliminated as it came after another copy."""
    linked = any("link" in one for one in bindings)
    rows = [["BID", *(["LINK"] if linked else []), "FIRST", "DUPLICATE", "FIRST %"]]
    total = sum(one.get("packets_first", 0) for one in bindings)
    for one in bindings:
        first, again = one.get("packets_first", 0), one.get("packets_duplicate", 0)
        share = f"{100 * first / total:.1f}" if total else "-"
        rows.append([str(one["bid"]), *([str(one.get("link", "-"))] if linked else []), str(first), str(again), share])
    return table(rows)


def _load(bindings: Sequence[Mapping[str, Any]]) -> str:
    """What load balancing goes by, each link once: its factor of the weights, and why."""
    rows = [("LINK", "WAY", "FACTOR", "MBIT/S", "CAPACITY", "QUEUE MS", "LOST %")]
    for link, load in {one["link"]: one["load"] for one in bindings if one.get("load")}.items():
        for way, about in load.items():
            if about is None:
                rows.append((link, way, "-", "-", "-", "-", "-"))
                continue
            full = f"{about['queue_ms']:.0f}{' (full)' if about['full'] else ''}"
            rates = (f"{about[key] / 1e6:.1f}" for key in ("rate", "capacity"))
            rows.append((link, way, _number(about["factor"]), *rates, full, _number(about["loss_percent"])))
    return table(rows)


def _bindings(bindings: Sequence[Mapping[str, Any]]) -> str:
    linked = any("link" in one for one in bindings)
    measured = any(one.get("path") for one in bindings)
    head = ["BID", *(["LINK"] if linked else []), "CARE-OF ADDRESS", "PRI", "LEFT", "STATE"]
    head += PATH if measured else []
    rows = [[*head, "PACKETS OUT", "BYTES OUT", "PACKETS IN", "BYTES IN"]]
    for one in bindings:
        link = [str(one.get("link", "-"))] if linked else []
        left = one.get("lifetime_left")
        shown = [str(one["care_of_address"]), str(one["priority"]), "-" if left is None else _duration(left)]
        path = _path(one.get("path")) if measured else []
        traffic = (str(one.get(name, "-")) for name in TRAFFIC)
        rows.append([str(one["bid"]), *link, *shown, str(one["state"]), *path, *traffic])
    return table(rows)


def _path(path: Mapping[str, Any] | None) -> list[str]:
    """State and since when; round-trip time; of both directions, out and in, delay variation and recent loss."""
    if path is None:
        return ["-"] * len(PATH)
    variation = f"{_number(path['variation_out_ms'])}/{_number(path['variation_in_ms'])}"
    loss = f"{_number(path['loss_out_percent'])}/{_number(path['loss_in_percent'])}"
    return [f"{path['state']} {_duration(path['since'])}", _number(path["rtt_ms"]), variation, loss]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _flows(flows: Sequence[Mapping[str, Any]]) -> str:
    rows = [("FID", "PRI", "NAME", "BIDS", "ACTIVE", "SELECTOR")]
    for one in flows:
        bids = "drop" if one.get("drop") else _weighted(one["bids"], one.get("weights", ()))
        down = _weighted(one["down_bids"], one.get("down_weights", ())) if "down_bids" in one else bids
        if down != bids:
            bids = f"up {bids} down {down}"
        active = "yes" if one["active"] else "no"
        rows.append(
            (str(one["fid"]), str(one["priority"]), str(one.get("name", "-")), bids, active, str(one["selector"]))
        )
    return table(rows)


def _weighted(bids: Sequence[int], weights: Sequence[int]) -> str:
    """BIDs with their weights, where new flows are shared."""
    if weights:
        return ",".join(f"{bid}:{weight}" for bid, weight in zip(bids, weights, strict=True))
    return ",".join(map(str, bids)) or "-"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two blanks apart; columns of numbers to the right."""
    cells = [list(row) for row in rows]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell.isdigit() or cell == "-" for cell in column[1:]) and len(column) > 1 for column in columns]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        for row in cells
    )
    return "\n".join("  " + line.rstrip() for line in lines)


def _duration(seconds: float) -> str:
    """Two units at most: 59s, 9m31s, 3h05m, 2d04h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
