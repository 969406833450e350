"""What the fast path costs: time for a packet by BPF_PROG_TEST_RUN, time to load 100,000 nodes and to change one,
and the kernel's memory for a node.

In a network namespace of its own, where the programs know a neighbour; no packet leaves it.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from labs.bench_network import CARE_OF, HOME_ADDRESS, HOME_AGENT, MOBILE_NETWORK
from labs.bench_tables import missed_rules, other_nodes
from mip6.dataplane import choose
from mip6.dataplane.libbpf import Map, Object
from mip6.dataplane.maps import Devices, FastPathMaps, load
from mip6.forwarding import End, FlowRule, ForwardingTable, Node, Tunnel
from mip6.nodes import Nodes
from mip6.selectors import IPv6Selector, TrafficSelector

SOURCE = Path(__file__).with_suffix(".bpf.c")
NODES, RULES = 100_000, 32
RUNS, REPEATS, CHANGES = 200_000, 7, 500
RESULTS = {"renew_alone": 0, "grow_and_shrink": 0, "encap_and_shrink": 7, "encap_and_decap": 0}  # TC_ACT_*
COMMANDS = (
    "link set lo up",
    "link add eth0 address 02:00:00:00:00:01 type veth peer far0",
    "link set eth0 up",
    "link set far0 up",
    f"address add {HOME_AGENT}/64 dev eth0 nodad",
    f"neighbour add {CARE_OF} lladdr 02:00:00:00:00:02 dev eth0",
    f"route add {CARE_OF}/128 dev eth0",
)


def _row(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "ratio_to_plain": None}


@contextmanager
def _object() -> Iterator[Object]:
    """The programs that can be measured, compiled here: they are not part of the product."""
    compile_fastpath: Callable[[Path, Path], None] = runpy.run_path("setup.py", run_name="build")["compile_fastpath"]
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "bench.bpf.o"
        compile_fastpath(SOURCE, output)
        loaded = Object(output)
    try:
        yield loaded
    finally:
        loaded.close()


def _ipv6(source: str, destination: str, next_header: int, body: bytes) -> bytes:
    start = (6 << 28).to_bytes(4, "big") + len(body).to_bytes(2, "big") + bytes((next_header, 64))
    return start + IPv6Address(source).packed + IPv6Address(destination).packed + body


def _per_packet() -> list[dict[str, Any]]:
    """Nanoseconds to encapsulate and to decapsulate a packet of 64 octets: without rules, with rules of which the last
    matches, with a rule that shares, and where duplicates are looked for.

    The second program decapsulates what the first encapsulated, so the inner packet goes from the home agent to the
    mobile router and is read as one from there: both ends of the tunnel and of the inner packet are the same two.
    """
    any_packet = IPv6Selector()
    late = (*missed_rules(RULES - 1), FlowRule(RULES, RULES, any_packet, (1,)))
    share = (FlowRule(1, 1, any_packet, (1, 2), weights=(1, 1)),)
    with _object() as loaded:
        maps = FastPathMaps(loaded.maps)
        maps.set_devices(Devices(tunnel=0))
        plain_out, plain_in = _measure(loaded, maps)
        late_out, _ = _measure(loaded, maps, late)
        share_out, _ = _measure(loaded, maps, share)
        _, dedup_in = _measure(loaded, maps, copied=(any_packet,))
    return [
        _row("ebpf_encap_ns", plain_out, "ns"),
        _row("ebpf_decap_ns", plain_in, "ns"),
        _row("ebpf_encap_32_rules_ns", late_out, "ns"),
        _row("ebpf_share_encap_ns", share_out, "ns"),
        _row("ebpf_dedup_decap_ns", dedup_in, "ns"),
    ]


def _measure(
    loaded: Object, maps: FastPathMaps, rules: tuple[FlowRule, ...] = (), copied: tuple[TrafficSelector, ...] = ()
) -> tuple[float, float]:
    """Medians, for encapsulation and decapsulation with such rules. Each packet has a content of its own."""
    agent, home = IPv6Address(HOME_AGENT), IPv6Address(HOME_ADDRESS)
    there = Tunnel(1, agent, IPv6Address(CARE_OF))
    back = replace(there, bid=2, local=there.remote, remote=there.local, usable=False)  # by it comes in what was sent
    node = Node(home, (IPv6Network(MOBILE_NETWORK),), (there, back), rules, copied)
    maps.set_table(ForwardingTable(End.HOME_AGENT, agent, {home: node}, eliminate_duplicates=bool(copied)))
    frame = bytes.fromhex("02000000000102000000000986dd")
    frame += _ipv6(HOME_ADDRESS, str(home + 1), 17, bytes(24))
    found: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        for name, wanted in RESULTS.items():
            run = loaded.programs[name].run(frame, RUNS, ifindex=socket.if_nametoindex("eth0"))
            found.setdefault(name, []).append(run.nanoseconds)
            if (run.result, len(run.packet)) != (wanted, len(frame)):
                raise RuntimeError(f"{name}: result {run.result}, {len(run.packet)} octets instead of {len(frame)}")
    renew, *rest = (statistics.median(values) for values in found.values())
    room, encap, both = (value - renew for value in rest)
    return encap - room / 2, both - (encap - room / 2)


def _large_table() -> list[dict[str, Any]]:
    loads, used = _loads()
    return [
        _row("ebpf_load_100k_s", statistics.median(loads), "s"),
        _row("ebpf_update_us", statistics.median(_changes()) * 1e6, "us"),
        _row("ebpf_memory_per_node_bytes", used / NODES, "octets"),
    ]


def _loads() -> tuple[list[float], int]:
    """Seconds to fill the maps, and the octets that they take then."""
    table = ForwardingTable(End.HOME_AGENT, IPv6Address(HOME_AGENT), other_nodes(NODES, RULES))
    loads: list[float] = []
    for _ in range(3):
        loaded = load(nodes=2 * NODES)  # the room that the data plane makes for so many
        maps = FastPathMaps(loaded.maps)
        start = time.perf_counter()
        maps.set_table(table)
        loads.append(time.perf_counter() - start)
        used = sum(map(_memory, loaded.maps.values()))
        loaded.close()
    return loads, used


def _changes() -> list[float]:
    """Seconds that the home agent takes for another flow table of one node: the next version of its nodes, handed over
    to the whole data plane."""
    nodes = Nodes(other_nodes(NODES, RULES))
    table = ForwardingTable(End.HOME_AGENT, IPv6Address(HOME_AGENT), nodes)
    plane = choose("ebpf", "mip0", 1500, lambda _: None)
    plane.set_table(table)
    changes = []
    for home in list(nodes)[:: NODES // CHANGES]:
        node = replace(nodes[home], rules=missed_rules(RULES)[::-1])
        start = time.perf_counter()
        nodes = nodes.changed({home: node})
        plane.set_table(replace(table, nodes=nodes))
        changes.append(time.perf_counter() - start)
    return changes


def _memory(one: Map) -> int:
    """Octets that a map takes now, as the kernel accounts for them."""
    lines = Path(f"/proc/self/fdinfo/{one.fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))


def measure() -> list[dict[str, Any]]:
    """All figures, from a process in a namespace of its own. Needs root and clang."""
    name = f"dpf{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        call = ["ip", "netns", "exec", name, sys.executable, "-m", "labs.bench_fastpath"]
        rows: list[dict[str, Any]] = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return rows


if __name__ == "__main__":
    for command in COMMANDS:
        subprocess.run(["ip", *command.split()], check=True)
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")  # else no route is found for the programs
    print(json.dumps(_per_packet() + _large_table()))
