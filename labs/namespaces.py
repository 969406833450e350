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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

from labs import clock, patience, render
from labs.flows import Flow
from labs.links import Links
from labs.node import NETNS, PREFIX, RUN, LabError, LabNode, NotInTime, ip, missing, namespace
from labs.processes import end_processes, processes_in
from labs.topology import Topology

__all__ = [
    "NETNS",
    "RUN",
    "Lab",
    "LabError",
    "LabNode",
    "NotInTime",
    "labels",
    "missing",
    "namespace",
    "node_names",
    "remove",
]

POLL = 0.02  # seconds between two looks at a condition
DAEMON_LIMIT = 20.0  # seconds until a daemon answers
_LABEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_AS_IT_IS: Mapping[str, Any] = MappingProxyType({})

T = TypeVar("T")


class Lab:
    """A topology, made real under a label; as a context manager it is up inside and gone after it."""

    def __init__(
        self,
        topology: Topology,
        label: str | None = None,
        flows: Iterable[Flow] = (),
        *,
        netem: bool | None = None,
        own_clock: bool = False,
    ) -> None:
        """`label` is what the lab is known by; without one the first free of NAME, NAME-2, NAME-3 and so on is taken.

        `flows` are counted on the access links, beside the totals. `netem`: whether it emulates links; None: if the
        kernel has it. `own_clock`: the daemons' time of day can be set.
        """
        if label is not None and not _LABEL.fullmatch(label):
            raise LabError(f"lab label {label!r}: expected lower case letters and digits, joined by single hyphens")
        self.topology = topology
        self.flows = tuple(flows)
        self.label = ""  # until it is up
        self.nodes: dict[str, LabNode] = {}
        self.links: Links | None = None  # once it is up
        self._wanted = label
        self._netem = netem
        self._own_clock = own_clock
        self._overrides: Mapping[str, object] = {}

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
        self.nodes = {node.name: LabNode(self.label, node) for node in self.topology.nodes}
        (self.directory / "lab.json").write_text(
            json.dumps({"topology": self.topology.name, "nodes": list(self.nodes), "pid": os.getpid()})
        )
        ip(*(f"netns add {node.namespace}" for node in self.nodes.values()))
        self.links = Links(self.topology, self.label, netem=self._netem)
        self.links.make(self.nodes)
        for node in self.nodes.values():
            node.directory.mkdir()
        self.links.start(self.until)
        for node in self.nodes.values():
            node.configure(self.topology, netem=self.links.netem)
        for node in self.nodes.values():
            node.connect()
            if node.node.nftables:
                node.run("nft", "-f", "-", stdin=node.node.nftables)
            if ruleset := render.counters(self.topology, node.node, self.flows):
                node.run("nft", "-f", "-", stdin=ruleset)

    def start_daemons(self, **overrides: object) -> None:
        """Start every daemon, with `overrides` in its own table, and wait until all of them answer."""
        self._overrides = overrides
        for node in self.nodes.values():
            for daemon in node.node.daemons:
                self.start_daemon(node, daemon.program)

    def start_daemon(self, node: LabNode, program: str) -> None:
        """Start one, with the overrides that `start_daemons` was given, and wait until it answers."""
        node.start_daemon(program, self._clock if self._own_clock else None, **self._overrides)
        self.until(partial(node.status, program), DAEMON_LIMIT, f"{program} on {node.name} answers")

    def set_clock(self, time: float) -> None:
        """The daemons' time of day is this, in seconds since 1970, and goes on from there."""
        if not self._own_clock:
            raise LabError(f"lab {self.label} was made without an own clock")
        clock.set_time(self._clock, time)

    @property
    def _clock(self) -> Path:
        return self.directory / "clock"

    def change_link(self, name: str, down: Mapping[str, Any] = _AS_IT_IS, up: Mapping[str, Any] = _AS_IT_IS) -> int:
        """Change figures of an emulated link, each way: fields of `labs.emulation.Quality`; what is not named stays.

        `change_link("WLAN", down={"cut": True})`: nothing comes down any more, and neither end is told. Gives the time
        from which it is so, in nanoseconds of CLOCK_MONOTONIC.
        """
        assert self.links is not None
        return self.links.change(name, down=down, up=up)

    def _running(self) -> Iterator[LabNode]:
        """Everything that may run processes."""
        yield from self.nodes.values()
        if self.links is not None and self.links.relay is not None:
            yield self.links.relay

    def down(self) -> None:
        """Remove the lab. A signal that comes meanwhile waits until that is done."""
        if not self.label:
            return
        with _signals_held():
            remove(self.label)
            for node in self._running():
                end_processes(process.pid for process in node.processes if process.poll() is None)
                for process in node.processes:
                    process.wait()

    def until(self, condition: Callable[[], T | None], limit: float, what: str) -> T:
        """Wait until `condition()` is true and give its value.

        NotInTime after `limit` seconds, saying `what` was awaited; LabError as soon as a process of the lab has ended.
        """
        limit *= patience.FACTOR
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
        for node in self._running():
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
    ip(*(f"netns delete {namespace(label, node)}" for node in present))
    existed = directory.exists() or bool(present)
    shutil.rmtree(directory, ignore_errors=not directory.exists())
    return existed


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


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
