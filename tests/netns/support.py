"""The lab `car` with its agents, and how the tests look at it: status, counters, sockets, captures, the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyroute2 import netns

from labs.car import CAR
from labs.namespaces import Lab, LabNode
from labs.runner import wait_for_addresses
from labs.topology import Daemon, Topology
from mip6.decode import read_capture

PORT = 7007
UDP_OVERHEAD = 48  # octets: IPv6 and UDP header
WLAN_BID, CELLULAR_BID = 1, 2
IPV6_MTU_DISCOVER, IPV6_RECVERR, IP_PMTUDISC_DO = 23, 25, 2  # linux/in6.h, linux/in.h; Python has no names for them
OWN_PROTOCOL = "109"  # of the routes and rules of the agents
SIGNALLING = "ip6 proto 135 or ip6 proto 60 or ip6 proto 43"
PARAMETER_PROBLEM = "icmp6 and ip6[40] == 4"  # ICMPv6 type, RFC 4443 §3.4

LIMIT = 30.0  # seconds until what is awaited must have come: no claim, but when a test gives up on a busy machine


@dataclass(frozen=True)
class Traffic:
    """Counters of one binding: inner packets and octets."""

    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(
            self.packets_out - before.packets_out,
            self.bytes_out - before.bytes_out,
            self.packets_in - before.packets_in,
            self.bytes_in - before.bytes_in,
        )


class Car:
    """The lab, both agents, and captures of the signalling on both access links and at the home agent."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.captures: dict[str, Path] = {}

    def __getitem__(self, name: str) -> LabNode:
        return self.lab[name]

    def start(self, **overrides: object) -> None:
        """Capture, start both agents with `overrides` in their settings, and wait until everything is registered."""
        for router, interface in (("ar1", "access"), ("ar2", "access"), ("ha", "eth0")):
            self._capture(self[router], interface)
        wait_for_addresses(self.lab)
        self.lab.start_daemons(**overrides)
        self.until_registered()

    def _capture(self, node: LabNode, interface: str) -> None:
        file = self.captures[node.name] = node.directory / "signalling.pcap"
        wanted = f"{SIGNALLING} or ({PARAMETER_PROBLEM})"
        command = ("tcpdump", "-n", "-U", "--immediate-mode", "-Z", "root", "-i", interface, "-w", file, wanted)
        node.popen(*command, log="tcpdump.log")
        log = node.directory / "tcpdump.log"
        self.lab.until(lambda: "listening on" in log.read_text(), LIMIT, f"a capture on {node.name}")

    def captured(self, name: str) -> list[dict[str, Any]]:
        """The mobility messages seen at a node so far, in their order."""
        return list(read_capture(str(self.captures[name])))

    def parameter_problems(self, name: str) -> list[str]:
        """The ICMPv6 Parameter Problems seen at a node so far, in the words of tcpdump."""
        command = ["tcpdump", "-n", "-r", str(self.captures[name]), PARAMETER_PROBLEM]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    def mobile(self) -> dict[str, Any]:
        """The status of the mobile router."""
        return self._status("mr", "mobilenode")

    def home(self) -> dict[str, Any]:
        """The status of the home agent."""
        return self._status("ha", "homeagent")

    def _status(self, node: str, program: str) -> dict[str, Any]:
        return self.lab.until(lambda: self[node].status(program), LIMIT, f"{program} answers")

    def until_registered(self) -> None:
        self.lab.until(self._registered, LIMIT, "both care-of addresses are registered")

    def _registered(self) -> bool:
        mobile = [one["state"] for one in self.mobile()["bindings"]]
        return mobile == ["registered"] * 2 and [one["state"] for one in home_bindings(self.home())] == ["active"] * 2

    def traffic(self) -> tuple[Traffic, Traffic]:
        """The counters of the binding over WLAN: at the mobile router, at the home agent."""
        return _traffic(self.mobile()["bindings"]), _traffic(home_bindings(self.home()))

    def echo(self, text: bytes) -> bytes:
        """Send a datagram from the vehicle to the correspondent and back, and give what came."""
        with socket_on(self["cn"], PORT) as there, socket_on(self["lfn"], PORT) as here:
            here.sendto(text, (self.address("cn"), PORT))
            data, sender = there.recvfrom(2048)
            there.sendto(data, sender)
            return here.recv(2048)

    def address(self, name: str) -> str:
        """The global address of a node with one interface."""
        [found] = self[name].addresses("eth0")
        return str(found["local"])


@contextlib.contextmanager
def car_lab(topology: Topology = CAR, **tables: Mapping[str, object]) -> Iterator[Car]:
    """The lab up, its agents not yet started; `topology` has the same nodes.

    `tables` stand in the files of both agents, `paths` for example.
    """
    nodes = (
        replace(node, daemons=tuple(Daemon(one.program, {**one.settings, **tables}) for one in node.daemons))
        for node in topology.nodes
    )
    with Lab(replace(topology, nodes=tuple(nodes)), f"n{uuid.uuid4().hex[:6]}") as lab:
        yield Car(lab)


def home_bindings(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The bindings of the one mobile router, from the home agent's status."""
    return [binding for node in status["nodes"] for binding in node["bindings"]]


def care_of_addresses(bindings: list[dict[str, Any]]) -> dict[int, str]:
    return {one["bid"]: one["care_of_address"] for one in bindings}


def _traffic(bindings: list[dict[str, Any]]) -> Traffic:
    [one] = [one for one in bindings if one["bid"] == WLAN_BID]
    return Traffic(*(one[name] for name in ("packets_out", "bytes_out", "packets_in", "bytes_in")))


@contextlib.contextmanager
def socket_on(node: LabNode, port: int = 0, address: str = "::") -> Iterator[socket.socket]:
    """A UDP socket inside the node's namespace, bound."""
    with _socket_in(node, socket.SOCK_DGRAM) as made:
        made.bind((address, port))
        yield made


@contextlib.contextmanager
def stream_socket_on(node: LabNode) -> Iterator[socket.socket]:
    """A TCP socket inside the node's namespace."""
    with _socket_in(node, socket.SOCK_STREAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield made


def _socket_in(node: LabNode, kind: socket.SocketKind) -> socket.socket:
    """Made there; this thread is back in its own namespace when the socket is there."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        netns.setns(node.namespace)
        made = socket.socket(socket.AF_INET6, kind)
    finally:
        netns.setns(own)
        os.close(own)
    made.settimeout(LIMIT)
    return made


def kernel_rules(node: LabNode) -> list[str]:
    """The IPv6 rules, one line each."""
    return node.run("ip", "-6", "rule", "show").splitlines()


def kernel_state(node: LabNode) -> dict[str, list[str]]:
    """Rules, routes of all tables and names of the interfaces: what is to be the same again after an agent has gone.

    Without what changes by itself: time left, carrier, and the multicast and anycast entries of the kernel.
    """
    routes = node.run("ip", "-6", "route", "show", "table", "all", "type", "unicast").splitlines()
    links = json.loads(node.run("ip", "-j", "link", "show"))
    return {
        "rules": sorted(kernel_rules(node)),
        "routes": sorted(re.sub(r" expires \d+sec| linkdown", "", line).strip() for line in routes),
        "links": sorted(link["ifname"] for link in links),
    }


def own_routes(node: LabNode) -> list[str]:
    """The routes of the agent in all tables."""
    found = node.run("ip", "-6", "route", "show", "table", "all", "proto", OWN_PROTOCOL).splitlines()
    return sorted(line.strip() for line in found)


def interface_index(node: LabNode, name: str = "mip0") -> int:
    """The index of an interface: a new one when it was made anew."""
    [link] = json.loads(node.run("ip", "-j", "link", "show", "dev", name))
    return int(link["ifindex"])


def programs(node: LabNode) -> dict[str, int]:
    """Device and direction of each program of ours, with its number in the kernel."""
    found: dict[str, int] = {}
    for link in json.loads(node.run("ip", "-j", "link", "show")):
        for hook in ("ingress", "egress"):
            for one in json.loads(node.run("tc", "-j", "filter", "show", "dev", link["ifname"], hook) or "[]"):
                name = one.get("options", {}).get("bpf_name", "")
                if name.startswith("mip6:"):
                    found[f"{link['ifname']} {hook} {name}"] = one["options"]["prog"]["id"]
    return found
