"""Makes a topology real: network namespaces, veths, radvd, daemons; and takes all of it away again.

    with Lab(topology) as lab:                 # or: lab = Lab(topology, "mine"); lab.up(); ...; remove("mine")
        lab["mr"].run("ip", "-6", "route", "get", "2001:db8:c::2")
        lab.until(lambda: lab["mr"].addresses("wlan0"), 5, "an address on wlan0")

A lab has a label. Its namespaces are `mip6-LABEL-NODE` and its files are in /run/mip6-lab/LABEL, and these names are
all the state there is: `remove(label)` needs nothing else, so it also clears away what a killed run has left. Whatever
runs inside a lab's namespaces belongs to the lab and is ended, by process id, before the namespaces are removed.
Interface names are as in the topology, since each namespace has its own. Several labs may exist at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from labs import render
from labs.flows import Flow
from labs.processes import end_processes, processes_in
from labs.topology import Node, Topology
from mip6.system.control import ControlError, request

RUN = Path("/run/mip6-lab")
NETNS = Path("/run/netns")
PREFIX = "mip6"
POLL = 0.02  # seconds between two looks at a condition
_SOURCES = Path(__file__).resolve().parent.parent
_LABEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

T = TypeVar("T")


class LabError(Exception):
    """The lab cannot be made or does not behave; the message says what and where."""


class NotInTime(LabError):
    """A condition did not come true within its limit."""


def missing() -> list[str]:
    """What this machine lacks for a lab, one sentence each; empty when all is there."""
    lacks = []
    if os.geteuid() != 0:
        lacks.append("network namespaces need root: run this as root")
    if not Path("/dev/net/tun").exists():
        lacks.append("/dev/net/tun is missing: load the module tun, or give the container this device")
    packages = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "radvd": "radvd", "nsenter": "util-linux"}
    for command, package in packages.items():
        if shutil.which(command, path=_path()) is None:
            lacks.append(f"the command {command} is missing: install the Debian package {package}")
    return lacks


class LabNode:
    """One running node of a lab: its namespace, its directory, and what can be done to it."""

    def __init__(self, lab: Lab, node: Node) -> None:
        self.name = node.name
        self.node = node
        self.namespace = namespace(lab.label, node.name)
        self.directory = lab.directory / node.name
        self.processes: dict[subprocess.Popen[bytes], Path] = {}  # with the file of their output
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` inside this node."""
        return ["nsenter", f"--net={NETNS / self.namespace}", "--", *map(str, command)]

    def run(self, *command: str | Path, stdin: str | None = None, limit: float = 30, check: bool = True) -> str:
        """Run a command to its end and give its standard output.

        LabError, with its standard error, when it fails (unless `check` is False) or runs longer than `limit` seconds.
        """
        try:
            done = subprocess.run(
                self.command(*command), input=stdin, capture_output=True, text=True, timeout=limit, env=_environment()
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: {' '.join(map(str, command))}: not done after {limit} s") from None
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f"{self.name}: {' '.join(map(str, command))}: status {done.returncode}: {said}")
        return done.stdout

    def popen(self, *command: str | Path, log: str) -> subprocess.Popen[bytes]:
        """Start a command that goes on; its output is in the file `log` of the node's directory.

        It is a session of its own, so that Ctrl-C reaches the lab alone, which then ends it.
        """
        with (self.directory / log).open("ab") as output:
            process = subprocess.Popen(
                self.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(),
            )
        self.processes[process] = self.directory / log
        return process

    def python(self, module: str, *arguments: str | Path, log: str) -> subprocess.Popen[bytes]:
        """`popen` of `python -m MODULE`, with this interpreter and these sources."""
        return self.popen(sys.executable, "-m", module, *arguments, log=log)

    def stop(self, process: subprocess.Popen[bytes], *, kill: bool = False) -> int:
        """End a process of `popen` and expect no more of it: SIGTERM (SIGKILL after 3 s), or SIGKILL at once.

        Gives its exit status.
        """
        del self.processes[process]
        if kill:
            process.kill()
        elif process.poll() is None:
            end_processes([process.pid])
        return process.wait()

    def set_link(self, interface: str, *, up: bool) -> None:
        """Take an interface down (its peer loses its carrier) or up again, with the routes it had."""
        self.run("ip", "link", "set", interface, "up" if up else "down")
        if up:
            self._ip_batch(render.route_commands(self.node, interface))

    def addresses(self, interface: str) -> list[dict[str, Any]]:
        """Global addresses of an interface that may be used now, as `ip -j address` has them."""
        found = json.loads(self.run("ip", "-j", "-6", "address", "show", "dev", interface, "scope", "global"))
        infos = [info for link in found for info in link.get("addr_info", ()) if info]
        return [info for info in infos if not info.get("tentative") and not info.get("dadfailed")]

    def counters(self) -> dict[str, tuple[int, int]]:
        """The node's nft counters: (packets, octets) by name (`labs.render.counters`)."""
        listing = json.loads(self.run("nft", "-j", "list", "counters", "table", "ip6", render.COUNTER_TABLE))
        entries = [item["counter"] for item in listing["nftables"] if "counter" in item]
        return {entry["name"]: (entry["packets"], entry["bytes"]) for entry in entries}

    def control(self, program: str) -> Path:
        """The control socket of a daemon on this node."""
        return self.directory / f"{program}.sock"

    def status(self, program: str) -> dict[str, Any] | None:
        """What a daemon answers to `status`; None while its control socket does not answer."""
        try:
            return request(self.control(program), {"command": "status"})
        except ControlError:
            return None

    def say_if_ended(self) -> str | None:
        """What became of a started process that is no longer running, with the end of its output."""
        for process, log in self.processes.items():
            if process.poll() is not None:
                tail = log.read_text(errors="replace").splitlines()[-15:]
                return "\n  ".join([f"{self.name}: {log.stem} ended with status {process.returncode}:", *tail])
        return None

    def _ip_batch(self, lines: Iterable[str]) -> None:
        if text := "\n".join(lines):
            self.run("ip", "-batch", "-", stdin=text + "\n")

    def configure(self, topology: Topology) -> None:
        """Everything inside the namespace but routes, counters and processes."""
        settings = (setting.split("=") for setting in render.sysctls(self.node))
        self.run("sh", "-e", stdin="".join(f"echo {value} > {_sysctl_file(key)}\n" for key, value in settings))
        self._ip_batch(render.interface_commands(self.node))
        if rates := render.rate_commands(topology, self.node):
            self.run("tc", "-batch", "-", stdin="\n".join(rates) + "\n")

    def connect(self) -> None:
        """Routes, and router advertisements if there are any. All links are up by now."""
        self._ip_batch(render.route_commands(self.node))
        if text := render.radvd(self.node):
            config = self.directory / "radvd.conf"
            config.write_text(text)
            pid_file = self.directory / "radvd.pid"
            self.popen("radvd", "-n", "-m", "stderr", "-C", config, "-p", pid_file, log="radvd.log")

    def start_daemon(self, program: str, **overrides: object) -> subprocess.Popen[bytes]:
        """Write a daemon's file (mode 0600: keys are in there) and start it; it may not answer yet.

        `overrides` replace settings in the table named like the program.
        """
        settings = next(daemon.settings for daemon in self.node.daemons if daemon.program == program)
        own = settings[program]
        assert isinstance(own, Mapping)
        paths = {"control": str(self.control(program))}
        if program == "homeagent":
            paths["state"] = str(self.directory / "homeagent.sqlite")
        config = self.directory / f"{program}.toml"
        config.touch(0o600)
        config.write_text(render.toml({**settings, program: {**own, **paths, **overrides}}))
        self.daemons[program] = self.python(program, "--config", config, log=f"{program}.log")
        return self.daemons[program]


class Lab:
    """A topology, made real under a label; as a context manager it is up inside and gone after it."""

    def __init__(self, topology: Topology, label: str | None = None, flows: Iterable[Flow] = ()) -> None:
        """`label` is what the lab is known by; without one the first free of NAME, NAME-2, NAME-3 and so on is taken.

        `flows` are counted on the access links, beside the totals.
        """
        if label is not None and not _LABEL.fullmatch(label):
            raise LabError(f"lab label {label!r}: expected lower case letters and digits, joined by single hyphens")
        self.topology = topology
        self.flows = tuple(flows)
        self.label = ""  # until it is up
        self.nodes: dict[str, LabNode] = {}
        self._wanted = label

    def __getitem__(self, name: str) -> LabNode:
        return self.nodes[name]

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    def up(self) -> None:
        """Namespaces, links, addresses, rates, counters, routes and router advertisements; the daemons not yet."""
        with _signals_held():  # what is claimed is known, so that an interrupt from here on removes it
            self.label = _claim(self.topology.name, self._wanted)
        self.directory = RUN / self.label
        self.nodes = {node.name: LabNode(self, node) for node in self.topology.nodes}
        names = {node.name: node.namespace for node in self.nodes.values()}
        (self.directory / "lab.json").write_text(
            json.dumps({"topology": self.topology.name, "nodes": list(self.nodes), "pid": os.getpid()})
        )
        _ip(*(f"netns add {name}" for name in names.values()))
        _ip(*render.link_commands(self.topology, names))
        for node in self.nodes.values():
            node.directory.mkdir()
            node.configure(self.topology)
        for node in self.nodes.values():
            node.connect()
            if ruleset := render.counters(self.topology, node.node, self.flows):
                node.run("nft", "-f", "-", stdin=ruleset)

    def start_daemons(self, **overrides: object) -> None:
        """Start every daemon, with `overrides` in its own table, and wait until all of them answer."""
        for node in self.nodes.values():
            for daemon in node.node.daemons:
                node.start_daemon(daemon.program, **overrides)
                self.until(partial(node.status, daemon.program), 10, f"{daemon.program} on {node.name} answers")

    def down(self) -> None:
        """Remove the lab. A signal that comes meanwhile waits until that is done."""
        if not self.label:
            return
        with _signals_held():
            remove(self.label)
            for node in self.nodes.values():
                end_processes(process.pid for process in node.processes if process.poll() is None)
                for process in node.processes:
                    process.wait()

    def until(self, condition: Callable[[], T | None], limit: float, what: str) -> T:
        """Wait until `condition()` is true and give its value.

        NotInTime after `limit` seconds, saying `what` was awaited; LabError as soon as a process of the lab has ended.
        """
        deadline = time.monotonic() + limit
        while True:
            if value := condition():
                return value
            self.check_processes()
            if time.monotonic() > deadline:
                raise NotInTime(f"lab {self.label}: waited {limit:g} s in vain: {what}")
            time.sleep(POLL)

    def check_processes(self) -> None:
        """LabError if a process that was started, and not stopped, has ended."""
        for node in self.nodes.values():
            if said := node.say_if_ended():
                raise LabError(said)


def labels() -> list[str]:
    """The labs that exist, or of which something is left."""
    found = {path.name for path in RUN.iterdir()} if RUN.exists() else set()
    return sorted(found | {_split(name)[0] for name in _namespaces()})


def node_names(label: str) -> list[str]:
    """The nodes of a lab that have a namespace now."""
    return sorted(node for owner, node in map(_split, _namespaces()) if owner == label)


def remove(label: str) -> bool:
    """Remove a lab, or what is left of it: processes, namespaces, files. False when there was nothing."""
    directory = RUN / label
    present = node_names(label)
    started: list[str] = []
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # a run killed very early has written nothing
        started = json.loads((directory / "lab.json").read_text())["nodes"]
    # In reverse order, so that a mobile node can say goodbye while its home agent is still there.
    for node in sorted(present, key=lambda name: started.index(name) if name in started else -1, reverse=True):
        end_processes(processes_in(NETNS / namespace(label, node)))
    _ip(*(f"netns delete {namespace(label, node)}" for node in present))
    existed = directory.exists() or bool(present)
    shutil.rmtree(directory, ignore_errors=not directory.exists())
    return existed


def namespace(label: str, node: str) -> str:
    """The name of a node's network namespace."""
    return f"{PREFIX}-{label}-{node}"


def _split(namespace: str) -> tuple[str, str]:
    """(label, node). Node names have no hyphen, so the last one divides."""
    label, _, node = namespace.removeprefix(f"{PREFIX}-").rpartition("-")
    return label, node


def _namespaces() -> list[str]:
    if not NETNS.exists():
        return []
    return [path.name for path in NETNS.iterdir() if re.fullmatch(rf"{PREFIX}-.+-[a-z][a-z0-9]*", path.name)]


def _claim(name: str, label: str | None) -> str:
    """Take a label that nobody has: making its directory is atomic."""
    if lacks := missing():
        raise LabError("; ".join(lacks))
    RUN.mkdir(parents=True, exist_ok=True)
    taken = labels()
    for candidate in [label] if label is not None else _candidates(name):
        if candidate not in taken:
            with contextlib.suppress(FileExistsError):
                (RUN / candidate).mkdir(0o700)
                return candidate
    raise LabError(f"lab {label} exists already; `mip6 lab down {label}` removes it")


def _candidates(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _ip(*lines: str) -> None:
    if lines:
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, env=_environment()
        )
        if done.returncode != 0:
            raise LabError(f"ip: {done.stderr.strip()}")


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sysctl_file(key: str) -> str:
    """Where a setting is: in its name a dot divides and a slash stands for a dot, as sysctl(8) has it."""
    return "/proc/sys/" + key.translate(str.maketrans("./", "/."))


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def _environment() -> dict[str, str]:
    python_path = os.pathsep.join(filter(None, (str(_SOURCES), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PATH": _path(), "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}
