"""`mip6 lab`: list, run, up, shell and down; also `python -m labs.cli`.

`run` plays a scenario and takes its lab away again, also after Ctrl-C or SIGTERM. `up` leaves lab and daemons running
until `down`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from labs.car import CAR_SCENARIO
from labs.namespaces import NETNS, Lab, LabError, labels, missing, node_names, remove
from labs.plain import PLAIN
from labs.runner import Runner, wait_for_addresses
from labs.scenario import Scenario
from labs.view import View

SCENARIOS = {scenario.name: scenario for scenario in (CAR_SCENARIO, PLAIN)}
_INTERRUPTED = 128  # exit status after a signal: this and its number, as shells have it


def add_parser(commands: Any) -> None:
    """The arguments of the command."""
    _arguments(commands.add_parser("lab", help="run scenarios in network namespaces"))


def _arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, about: str, do: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=about, description=about)
        added.set_defaults(run=_guarded(do))
        return added

    action("list", "scenarios, and the labs that exist now", _list)
    run = action("run", "play a scenario and check it", _run)
    up = action("up", "make a scenario's network, with its daemons, and leave it running", _up)
    for starts in (run, up):
        starts.add_argument("name", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
        starts.add_argument("--dataplane", choices=("userspace", "auto"), default="auto")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the checks to this file")
    shell = action("shell", "a shell, or one command, inside a node of a lab", _shell)
    shell.add_argument("name", metavar="NAME")
    shell.add_argument("node", metavar="NODE")
    shell.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD")
    down = action("down", "remove a lab, or what a killed run has left of it", _down)
    down.add_argument("name", metavar="NAME")


def _guarded(do: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """`do` with faults of the lab as a sentence, and with signals that unwind the stack, so that labs are removed."""

    def guarded(arguments: argparse.Namespace) -> int:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)
        try:
            return do(arguments)
        except LabError as error:
            print(f"mip6 lab: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("mip6 lab: interrupted", file=sys.stderr)
            return _INTERRUPTED + signal.SIGINT

    return guarded


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(_INTERRUPTED + number)


def _require_means() -> None:
    if lacks := missing():
        raise LabError("; ".join(lacks))


def _list(_: argparse.Namespace) -> int:
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:<10}{scenario.title}")
    for label in labels():
        print(f"exists: {label} ({', '.join(node_names(label)) or 'no namespaces'})")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    _require_means()
    scenario = SCENARIOS[arguments.name]
    view = View(sys.stdout)
    report = Runner(scenario, view).run(**_overrides(arguments))
    if arguments.json is not None:
        arguments.json.write_text(report.as_json())
    view.report(report)
    return 0 if report.passed else 1


def _up(arguments: argparse.Namespace) -> int:
    _require_means()
    scenario: Scenario = SCENARIOS[arguments.name]
    lab = Lab(scenario.topology, flows=scenario.flows)
    try:
        lab.up()
        wait_for_addresses(lab)
        lab.start_daemons(**_overrides(arguments))
    except BaseException:
        lab.down()
        raise
    print(f"lab {lab.label} is up: {', '.join(lab.nodes)}; files in {lab.directory}")
    print(f"look inside: mip6 lab shell {lab.label} NODE; remove it: mip6 lab down {lab.label}")
    return 0


def _overrides(arguments: argparse.Namespace) -> dict[str, object]:
    return {"dataplane": arguments.dataplane}


def _shell(arguments: argparse.Namespace) -> int:
    _require_means()
    nodes = node_names(arguments.name)
    if arguments.node not in nodes:
        there = f"it has {', '.join(nodes)}" if nodes else "no such lab; `mip6 lab up NAME` makes one"
        raise LabError(f"lab {arguments.name} has no node {arguments.node}: {there}")
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    namespace = NETNS / f"mip6-{arguments.name}-{arguments.node}"
    os.execvp("nsenter", ["nsenter", f"--net={namespace}", "--", *(words or [os.environ.get("SHELL", "/bin/sh")])])


def _down(arguments: argparse.Namespace) -> int:
    _require_means()
    if arguments.name not in labels():
        raise LabError(f"lab {arguments.name} does not exist")
    remove(arguments.name)
    print(f"lab {arguments.name} is removed")
    return 0


def main() -> int:
    """The exit status of `python -m labs.cli`."""
    parser = argparse.ArgumentParser(prog="mip6 lab", description=__doc__)
    _arguments(parser)
    arguments = parser.parse_args()
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
