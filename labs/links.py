"""The links of a running lab: cables are veths; emulation is netem's where the kernel has it, else the relay's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import monotonic_ns
from typing import Any

from labs import render
from labs.emulation import Quality
from labs.node import NETNS, LabError, LabNode, environment, ip, namespace
from labs.relay import End, LinkSpec, Spec
from labs.topology import RELAY, Link, Node, Topology
from mip6.system.control import ControlError, request

SEED = 1
_OPENS = 10.0  # seconds until the relay answers


class Links:
    """Makes the links of a topology under a label, and changes those that are emulated."""

    def __init__(self, topology: Topology, label: str, *, netem: bool | None = None) -> None:
        """`netem`: whether to use it; None: if the kernel has it."""
        self.netem = has_netem() if netem is None else netem
        self.relay: LabNode | None = None  # its process carries links
        self._topology = topology
        self._label = label
        self._qualities = {name: link.qualities for name, link in topology.access_links.items()}

    def make(self, nodes: Mapping[str, LabNode]) -> None:
        """Create the devices in the namespaces of `nodes`, which are there; nothing is up yet."""
        self._nodes = nodes
        names = {name: node.namespace for name, node in nodes.items()}
        if any(render.relayed(link, netem=self.netem) for link in self._topology.links):
            self.relay = LabNode(self._label, Node(RELAY))
            names[RELAY] = self.relay.namespace
            ip(f"netns add {self.relay.namespace}")
            self.relay.directory.mkdir()
            self.relay.run("sh", "-e", stdin="echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6\n")
        ip(*render.link_commands(self._topology, names, netem=self.netem))
        for node in nodes.values():
            if commands := render.modem_commands(self._topology, node.node):
                node.run("ip", "-batch", "-", stdin="\n".join(commands) + "\n")

    def start(self, until: Callable[[Callable[[], object], float, str], object]) -> None:
        """Start the relay, if one is needed. `until` awaits a condition, as `Lab.until` does."""
        if self.relay is not None:
            spec = self.relay.directory / "links.json"
            spec.write_text(Spec(str(self._control()), SEED, tuple(self._relayed())).dump())
            self.relay.python("labs.relay", spec, log="relay.log")
            until(lambda: self.relay and self.relay.status(RELAY), _OPENS, "the emulated links' relay answers")

    def change(self, name: str, *, down: Mapping[str, Any], up: Mapping[str, Any]) -> int:
        """Change figures of an emulated link (fields of Quality) while packets pass; what is not named stays.

        Gives the time at which they hold, in nanoseconds of CLOCK_MONOTONIC.
        """
        link = self._topology.access_links[name]
        if not link.is_emulated:
            raise LabError(f"link {name} is not emulated: it cannot be changed")
        before = self._qualities[name]
        self._qualities[name] = (replace(before[0], **down), replace(before[1], **up))
        if render.relayed(link, netem=self.netem):
            try:
                answer = request(self._control(), {"command": "set", "link": name, "down": {**down}, "up": {**up}})
            except ControlError as error:
                raise LabError(f"link {name}: {error}") from error
            if not answer["ok"]:
                raise LabError(f"link {name}: {answer['error']}")
            return int(answer["at"])
        self._change_netem(link, before, self._qualities[name])
        return monotonic_ns()

    def _change_netem(self, link: Link, before: Sequence[Quality], after: Sequence[Quality]) -> None:
        for (node, interface), was, becomes in zip(link.ends, before, after, strict=True):
            if was != becomes:
                command = render.netem_command(interface, becomes, link.mtu)
                self._nodes[node].run("tc", "-batch", "-", stdin=command + "\n")

    def _relayed(self) -> list[LinkSpec]:
        found = []
        for number, link in enumerate(self._topology.links):
            if render.relayed(link, netem=self.netem):
                a, b = (
                    End(str(NETNS / namespace(self._label, node)), interface, peer)
                    for (node, interface), peer in zip(link.ends, render.peers(number), strict=True)
                )
                found.append(LinkSpec(link.name or f"{link.a} {link.b}", a, b, *link.qualities, link.modem))
        return found

    def _control(self) -> Path:
        assert self.relay is not None
        return self.relay.control(RELAY)


@cache
def has_netem() -> bool:
    """Whether this kernel has netem: it is tried in a network namespace that ends at once."""
    command = ["unshare", "--net", "--", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1us"]
    return subprocess.run(command, capture_output=True, env=environment()).returncode == 0
