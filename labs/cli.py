"""`mip6 lab`: run a scenario, or bring its network up and look around in it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from labs.html import page
from labs.namespaces import NETNS, RUN, Lab, LabError, labels, missing, namespace, node_names, remove
from labs.node import AGENT_FILES
from labs.result import Report
from labs.runner import Runner, wait_for_addresses
from labs.scenario import Scenario
from labs.scenarios import SCENARIOS
from labs.view import View

FORMS = ("json", "html", "png")


def add_parser(commands: Any) -> None:
    """The arguments of the command."""
    parser = commands.add_parser("lab", help="run scenarios in network namespaces", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, handler: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(name, help=about, description=about)
        added.set_defaults(run=lambda arguments: _run(handler, arguments))
        return added

    action("list", _list, "the scenarios there are, and the labs that are up")
    play = action("run", _play, "play a scenario and check it; exit status 0 when every check passed")
    play.add_argument("name", choices=SCENARIOS)
    for form, what in (("json", "the checks"), ("html", "a report with plots"), ("png", "the same as a picture")):
        play.add_argument(f"--{form}", type=Path, metavar="FILE", help=f"write {what} there too")
    every = action("all", _all, "play all scenarios, one table; exit status 0 when every check of all passed")
    every.add_argument(
        "--directory", type=Path, default=Path("build/labs"), help="for the reports; default: %(default)s"
    )
    up = action("up", _up, "bring up a scenario's network and agents, and leave them running")
    up.add_argument("name", choices=SCENARIOS)
    for chosen in (play, up):
        chosen.add_argument(
            "--label", help="what the lab is known by; default: NAME, or NAME-2 and so on beside others"
        )
    for chosen in (play, every, up):
        chosen.add_argument("--dataplane", choices=("userspace", "ebpf", "auto"), default="auto")
    shell = action("shell", _shell, "a shell, or the command after --, in a node of a lab that is up")
    shell.add_argument("name", help="the lab, as `mip6 lab list` shows it")
    shell.add_argument("node")
    shell.add_argument("words", nargs="*", metavar="-- COMMAND", help="default: the user's shell")
    down = action("down", _down, "remove a lab, or what a killed run has left of it")
    down.add_argument("name", help="the lab, as `mip6 lab list` shows it")


def _run(handler: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    try:
        with _termination_raises():
            return handler(arguments)
    except LabError as error:
        print(f"mip6 lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmip6 lab: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


@contextmanager
def _termination_raises() -> Iterator[None]:
    """SIGTERM and the loss of the terminal end the command in order, as Ctrl-C does, so that the lab is removed."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _list(_: argparse.Namespace) -> int:
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:<10} {scenario.title}")
    for label in labels():
        print(f"up: {label}  ({' '.join(node_names(label))})")
    return 0


def _play(arguments: argparse.Namespace) -> int:
    files = {form: getattr(arguments, form) for form in FORMS if getattr(arguments, form) is not None}
    for form, file in files.items():
        if not file.absolute().parent.is_dir():
            raise LabError(f"--{form} {file}: there is no such directory")
    _demand_everything(files)
    return 0 if _played(SCENARIOS[arguments.name], arguments.dataplane, files, arguments.label).passed else 1


def _all(arguments: argparse.Namespace) -> int:
    arguments.directory.mkdir(parents=True, exist_ok=True)
    _demand_everything(FORMS)
    reports = []
    for name, scenario in SCENARIOS.items():
        files = {form: arguments.directory / f"{name}.{form}" for form in FORMS}
        reports.append(_played(scenario, arguments.dataplane, files))
        print()
    View(sys.stdout).summary(reports)
    print(f"reports: {arguments.directory}/NAME.html, .png, .json")
    return 0 if all(report.passed for report in reports) else 1


def _played(scenario: Scenario, dataplane: str, files: Mapping[str, Path], label: str | None = None) -> Report:
    """Play a scenario, show it, and write its report in every form asked for."""
    view = View(sys.stdout)
    report = Runner(scenario, view, label).run(dataplane=dataplane)
    view.report(report)
    for form, file in files.items():
        file.write_bytes(_written(form, scenario, report))
    return report


def _written(form: str, scenario: Scenario, report: Report) -> bytes:
    if form == "json":
        return report.as_json().encode()
    from labs import plots  # matplotlib takes a second to load, and is only there with the extra `labs`

    if form == "png":
        return plots.png(report, scenario.title)
    return page(scenario, report, plots.svg(report)).encode()


def _up(arguments: argparse.Namespace) -> int:
    _demand_everything()
    scenario = SCENARIOS[arguments.name]
    lab = Lab(scenario.topology, arguments.label, scenario.flows)
    try:
        lab.up()
        wait_for_addresses(lab)
        lab.start_daemons(dataplane=arguments.dataplane)
    except BaseException:
        lab.down()
        raise
    print(f"Lab {lab.label} is up. Its nodes: {', '.join(lab.nodes)}; their files: {RUN / lab.label}.")
    for node in lab.nodes.values():
        for program in node.daemons:
            print(f"  mip6 lab shell {lab.label} {node.name} -- mip6 status    # what the {program} does")
    print(f"  mip6 lab down {lab.label}    # removes it")
    return 0


def _shell(arguments: argparse.Namespace) -> int:
    """Become the command: inside the node's network, and with the files of its agents where agents have them."""
    nodes = node_names(arguments.name)
    if not nodes:
        raise LabError(f"no lab {arguments.name} is up; `mip6 lab list` shows which are")
    if arguments.node not in nodes:
        raise LabError(f"lab {arguments.name} has no node {arguments.node}; it has {', '.join(nodes)}")
    words = arguments.words or [os.environ.get("SHELL", "/bin/sh")]
    files = RUN / arguments.name / arguments.node
    prepare = f'mkdir -p {AGENT_FILES} && mount --bind "$0" {AGENT_FILES} && exec "$@"'
    command = ["nsenter", f"--net={NETNS / namespace(arguments.name, arguments.node)}", "--"]
    command += ["unshare", "--mount", "--", "sh", "-c", prepare, str(files), *words]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    program = shutil.which(command[0])
    if program is None:
        raise LabError("; ".join(missing()))
    os.execve(program, command, {**os.environ, "PATH": path})


def _down(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise LabError("network namespaces need root: run this as root")
    if not remove(arguments.name):
        raise LabError(f"there is no lab {arguments.name}; `mip6 lab list` shows which there are")
    print(f"Lab {arguments.name} is removed.")
    return 0


def _demand_everything(forms: Iterable[str] = ()) -> None:
    lacks = missing()
    if set(forms) & {"html", "png"} and find_spec("matplotlib") is None:
        lacks.append("reports with plots need matplotlib: pip install 'mip6[labs]'")
    if lacks:
        raise LabError("; ".join(lacks))
