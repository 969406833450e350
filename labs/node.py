"""One node of a lab as it runs: commands and processes in its namespace, its interfaces, counters and daemons."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from labs import render
from labs.inside import inside, set_up
from labs.patience import FACTOR
from labs.processes import end_processes
from labs.topology import Node, Topology, readvertised
from mip6.path import PathSettings
from mip6.system.control import ControlError, request

RUN = Path("/run/mip6-lab")
NETNS = Path("/run/netns")
PREFIX = "mip6"
AGENT_FILES = "/run/mip6"  # where `mip6 status` looks
_SOURCES = Path(__file__).resolve().parent.parent


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


def namespace(label: str, node: str) -> str:
    """The name of a node's network namespace."""
    return f"{PREFIX}-{label}-{node}"


class LabNode:
    """One running node of a lab: its namespace, its directory, and what can be done to it."""

    def __init__(self, label: str, node: Node) -> None:
        self.name = node.name
        self.node = node
        self.namespace = namespace(label, node.name)
        self.directory = RUN / label / node.name
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
                self.command(*command), input=stdin, capture_output=True, text=True, timeout=limit, env=environment()
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
                env=environment(),
            )
        self.processes[process] = self.directory / log
        return process

    def python(self, module: str | Path, *arguments: str | Path, log: str) -> subprocess.Popen[bytes]:
        """`popen` of `python -m MODULE`, with this interpreter and these sources."""
        return self.popen(sys.executable, "-m", module, *arguments, log=log)

    def operate(self, *words: str) -> str:
        """`mip6 WORDS` as the user of this node gives it: the agents' files are where agents have them."""
        script = f'mkdir -p {AGENT_FILES} && mount --bind "$0" {AGENT_FILES} && exec "$@"'
        agent = ["unshare", "--mount", "--", "sh", "-c", script, str(self.directory), sys.executable, "-m", "mip6.cli"]
        return self.run(*agent, *words)

    def process(self, program: str) -> subprocess.Popen[bytes]:
        """The running process whose output is in PROGRAM.log; LabError if there is none."""
        for process, log in self.processes.items():
            if log.stem == program:
                return process
        raise LabError(f"{self.name}: no process {program} was started")

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
        with inside(NETNS / self.namespace):
            asking = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with asking:
            set_up(asking, interface, up)
        if up:
            self._ip_batch(render.route_commands(self.node, interface))

    def addresses(self, interface: str) -> list[dict[str, Any]]:
        """Global addresses of an interface that may be used now, as `ip -j address` has them."""
        found = json.loads(self.run("ip", "-j", "-6", "address", "show", "dev", interface, "scope", "global"))
        infos = [info for link in found for info in link.get("addr_info", ()) if info]
        return [info for info in infos if not info.get("tentative") and not info.get("dadfailed")]

    def counters(self) -> dict[str, tuple[int, int]]:
        """The node's nft counters: (packets, octets) by name (`labs.render.counters`)."""
        listing = json.loads(self.run("nft", "-j", "list", "counters", "table", "inet", render.COUNTER_TABLE))
        entries = [item["counter"] for item in listing["nftables"] if "counter" in item]
        return {entry["name"]: (entry["packets"], entry["bytes"]) for entry in entries}

    def control(self, program: str) -> Path:
        """The control socket of a daemon on this node."""
        return self.directory / f"{program}.sock"

    def status(self, program: str) -> dict[str, Any] | None:
        """What a daemon answers to `status`; None while its control socket does not answer."""
        try:
            return request(self.control(program), {"command": "status"}, timeout=5 * FACTOR)
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

    def configure(self, topology: Topology, *, netem: bool) -> None:
        """Everything inside the namespace but routes, counters and processes."""
        settings = (setting.split("=") for setting in render.sysctls(self.node))
        self.run("sh", "-e", stdin="".join(f"echo {value} > {_sysctl_file(key)}\n" for key, value in settings))
        self._ip_batch(render.interface_commands(self.node))
        if rates := render.rate_commands(topology, self.node, netem=netem):
            self.run("tc", "-batch", "-", stdin="\n".join(rates) + "\n")

    def connect(self) -> None:
        """Routes, and router advertisements if there are any. All links are up by now."""
        self._ip_batch(render.route_commands(self.node))
        if text := render.radvd(self.node):
            config = self.directory / "radvd.conf"
            config.write_text(text)
            pid_file = self.directory / "radvd.pid"
            self.popen("radvd", "-n", "-m", "stderr", "-C", config, "-p", pid_file, log="radvd.log")

    def advertise(self, interface: str, **settings: Any) -> None:
        """Advertise otherwise on an interface from now on: fields of `labs.topology.Advertisement`."""
        self.node = readvertised(self.node, interface, settings)
        (self.directory / "radvd.conf").write_text(render.radvd(self.node))
        self.process("radvd").send_signal(signal.SIGHUP)

    def start_daemon(self, program: str, own_clock: Path | None = None, **overrides: object) -> subprocess.Popen[bytes]:
        """Write a daemon's file (mode 0600: keys are in there) and start it; it may not answer yet.

        `overrides` replace settings in the table named like the program, None leaves one out; `variables` are of its
        environment.
        """
        settings = next(daemon.settings for daemon in self.node.daemons if daemon.program == program)
        own = settings[program]
        assert isinstance(own, Mapping)
        paths = {"control": str(self.control(program))}
        if program == "homeagent":
            paths["state"] = str(self.directory / "homeagent.sqlite")
        config = self.directory / f"{program}.toml"
        config.touch(0o600)
        table = {name: value for name, value in {**own, **paths, **overrides}.items() if value is not None}
        config.write_text(render.toml({**settings, **_patient(settings), program: table}))
        command = [program] if own_clock is None else ["labs.clock", own_clock, program]
        self.daemons[program] = self.python(*command, "--config", config, log=f"{program}.log")
        return self.daemons[program]


def _patient(settings: Mapping[str, Any]) -> dict[str, object]:
    """Probes at a pace that a slow machine can keep: else it finds its own paths silent."""
    if FACTOR == 1:
        return {}
    usual = PathSettings()
    paths = {"interval": usual.interval, "idle_interval": usual.idle_interval, **settings.get("paths", {})}
    return {"paths": {**paths, **{name: paths[name] * FACTOR for name in ("interval", "idle_interval")}}}


def ip(*lines: str) -> None:
    """Run `ip -batch` lines outside of all nodes; LabError if one fails."""
    if lines:
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, env=environment()
        )
        if done.returncode != 0:
            raise LabError(f"ip: {done.stderr.strip()}")


def _sysctl_file(key: str) -> str:
    """Where a setting is: in its name a dot divides and a slash stands for a dot, as sysctl(8) has it."""
    return "/proc/sys/" + key.translate(str.maketrans("./", "/."))


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def environment() -> dict[str, str]:
    """Of every command: administrators' programs and these sources are found."""
    python_path = os.pathsep.join(filter(None, (str(_SOURCES), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PATH": _path(), "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1"}
