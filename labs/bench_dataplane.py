"""How fast the data planes are, beside plain forwarding through the same namespaces in the same run.

The data planes run in mr and ha of `labs.bench_network` with a fixed table, without the agents. Ratios are of medians
of measurements taken in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from labs.bench_network import (
    CARE_OF,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    MOBILE_NETWORK,
    Network,
    in_turn,
)
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.forwarding import End, FlowRule, ForwardingTable, Node, Tunnel
from mip6.selectors import IPv6Selector
from mip6.system.tun import Tun

Row = dict[str, Any]
MTU = 1500 - 40  # of the tunnels, in octets
SEGMENTS = {"mr": "2001:db8:a::1:1", "ha": "2001:db8:2::1:1"}  # the kernel's own tunnel: SRv6 with one segment
TUNNEL_ROUTES = (("mr", "2001:db8:c::/64 dev mip0 metric 1"), ("ha", f"{MOBILE_NETWORK} dev mip0 metric 1"))


def table(node: str, *, copies: bool) -> ForwardingTable:
    """What the agent of `node` would hand over: one mobile router with two bindings; with `copies` all goes twice."""
    agent, home = IPv6Address(HOME_AGENT), IPv6Address(HOME_ADDRESS)
    care_of = [IPv6Address(CARE_OF), IPv6Address(CARE_OF_B)]
    ends = [(one, agent) if node == "mr" else (agent, one) for one in care_of]
    tunnels = tuple(Tunnel(bid, local, remote) for bid, (local, remote) in enumerate(ends, 1))
    rules = (FlowRule(1, 1, IPv6Selector(), (1, 2)),) if copies else ()
    entry = Node(home, (IPv6Network(MOBILE_NETWORK),), tunnels, rules)
    end = End.MOBILE_NODE if node == "mr" else End.HOME_AGENT
    return ForwardingTable(end, home if node == "mr" else agent, {home: entry})


async def _end(node: str, kind: str, *, copies: bool) -> None:
    """One end of the tunnels until SIGTERM."""
    plane = UserspaceDataPlane(Tun("mip0", MTU), lambda changed: None)
    plane.start()
    plane.set_table(table(node, copies=copies))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    plane.stop(remove=True)


def _segment_routing(network: Network) -> None:
    """IPv6-in-IPv6 as the kernel has it (RFC 8986: H.Encaps.Red with one segment writes no routing header)."""
    for node, device in (("mr", "core"), ("ha", "core")):
        network.run(node, "sysctl", "-qw", "net.ipv6.conf.all.seg6_enabled=1", f"net.ipv6.conf.{device}.seg6_enabled=1")
        local = ("encap", "seg6local", "action", "End.DT6", "table", "main", "dev", device)
        network.run(node, "ip", "-6", "route", "add", SEGMENTS[node], *local)
    for node, inner, far in (("mr", "2001:db8:c::/64", "ha"), ("ha", MOBILE_NETWORK, "mr")):
        encap = ("encap", "seg6", "mode", "encap.red", "segs", SEGMENTS[far])
        network.run(node, "ip", "-6", "route", "add", inner, *encap, "dev", "core", "metric", "1")
    for node, device in (("lfn", "mr"), ("cn", "ha")):  # it answers no Packet Too Big to the inner sender
        network.run(node, "ip", "link", "set", device, "mtu", str(MTU))
    network.run("core", "ip", "-6", "route", "add", SEGMENTS["mr"], "via", CARE_OF)
    network.run("core", "ip", "-6", "route", "add", SEGMENTS["ha"], "via", HOME_AGENT)


def _tunnel(network: Network, kind: str, *, copies: bool = False) -> None:
    for node in ("mr", "ha"):
        network.start(node, "labs.bench_dataplane", "end", node, kind, *(["copies"] if copies else []))
    for node, route in TUNNEL_ROUTES:
        network.run(node, "ip", "-6", "route", "replace", *route.split())


@contextlib.contextmanager
def networks() -> Iterator[Mapping[str, Network]]:
    """One network for each way of forwarding, by name."""
    with contextlib.ExitStack() as stack:
        made = {name: stack.enter_context(Network(name)) for name in ("plain", "srv6", "userspace")}
        _segment_routing(made["srv6"])
        _tunnel(made["userspace"], "userspace")
        yield made


def _rows(figure: str, unit: str, values: Mapping[str, float]) -> list[Row]:
    return [
        {
            "name": f"{name}_{figure}",
            "value": value,
            "unit": unit,
            "ratio_to_plain": None if name == "plain" else value / values["plain"],
        }
        for name, value in values.items()
    ]


def measure() -> list[Row]:
    """All figures; `ratio_to_plain` is None for plain forwarding itself. Needs root and iperf3."""
    rows: list[Row] = []
    with networks() as made:
        for direction, down in (("down", True), ("up", False)):
            found = in_turn(made.values(), partial(Network.tcp_gbps, down=down))
            rows += _rows(f"tcp_gbps_{direction}", "Gbit/s", found)
        for size in (64, 1200):
            found = in_turn(made.values(), partial(Network.packets_per_second, size=size))
            rows += _rows(f"pps_{size}", "packets/s", found)
        rows += _rows("latency_p99_us", "us", in_turn(made.values(), Network.delay_p99))
    return rows


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["end", node, kind, *rest]:
            asyncio.run(_end(node, kind, copies=rest == ["copies"]))
        case _:
            for row in measure():
                print(row)
