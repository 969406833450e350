"""How fast the data planes are, beside plain forwarding through the same namespaces in the same run.

The data planes run in mr and ha of `labs.bench_network` with a fixed table, without the agents. Values are medians over
rounds, in each of which all ways are measured in turn; ratios are medians of the ratios of each round.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from statistics import median
from types import MappingProxyType
from typing import Any

from labs.bench_network import (
    CARE_OF,
    HOME_AGENT,
    MANY_REPEATS,
    MOBILE_NETWORK,
    SHORT_REPEATS,
    Network,
    Rounds,
    in_turn,
    ratio,
)
from labs.bench_tables import WAYS, Way, table
from mip6.actions import UdpEndpoint
from mip6.dataplane import choose
from mip6.system.udp import UdpSockets

Row = dict[str, Any]
NOTHING: Mapping[str, str] = MappingProxyType({})
COMPARED = ("plain", "srv6", "ebpf", "ebpf_noshortcut", "userspace")
MTU = 1500 - 40  # of the tunnels, in octets
SEGMENTS = {"mr": "2001:db8:a::1:1", "ha": "2001:db8:2::1:1"}  # the kernel's own tunnel: SRv6 with one segment
TUNNEL_ROUTES = (("mr", "2001:db8:c::/64 dev mip0 metric 1"), ("ha", f"{MOBILE_NETWORK} dev mip0 metric 1"))


async def _end(node: str, way: Way) -> None:
    """One end of the tunnels until SIGTERM."""
    access = ("core", "coreb") if node == "mr" else None
    plane = choose(way.dataplane, "mip0", 1500, lambda changed: None, access, way.shortcut)
    plane.start()
    held = table(node, way)
    sockets = UdpSockets(held.address, lambda packet: None, lambda changed: None)
    if way.udp is not None:
        tunnels = (tunnel for one in held.nodes.values() for tunnel in one.tunnels)
        sockets.set_endpoints({UdpEndpoint(tunnel.local, tunnel.local_port) for tunnel in tunnels})
        plane.use_udp(sockets)
    plane.set_table(held)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    plane.stop(remove=True)
    sockets.close()


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


def _tunnel(network: Network, name: str) -> None:
    for node in ("mr", "ha"):
        network.start(node, "labs.bench_dataplane", "end", node, name)
    for node, route in TUNNEL_ROUTES:
        network.run(node, "ip", "-6", "route", "replace", *route.split())


@contextlib.contextmanager
def networks(*names: str) -> Iterator[list[Network]]:
    """One network for each way of forwarding: plain, srv6, and those of `WAYS`."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(Network(name)) for name in names]
        for network in made:
            if network.name == "srv6":
                _segment_routing(network)
            elif network.name in WAYS:
                _tunnel(network, network.name)
        yield made


def _rows(figure: str, unit: str, rounds: Rounds, names: Mapping[str, str] = NOTHING) -> list[Row]:
    """Rows `NAME_FIGURE`, or as `names` has it; those of networks without a plain one among them have no ratio."""
    plain = rounds.get("plain")
    return [
        {
            "name": names.get(name, f"{name}_{figure}"),
            "value": median(values),
            "unit": unit,
            "ratio_to_plain": None if plain is None or name == "plain" else ratio(values, plain),
        }
        for name, values in rounds.items()
    ]


def tcp() -> list[Row]:
    """One TCP connection, each way."""
    with networks(*COMPARED) as made:
        down = in_turn(made, partial(Network.tcp_gbps, down=True))
        up = in_turn(made, partial(Network.tcp_gbps, down=False))
    rows = _rows("tcp_gbps_down", "Gbit/s", down, {"plain": "plain_tcp_gbps", "userspace": "userspace_tcp_gbps"})
    return rows + _rows("tcp_gbps_up", "Gbit/s", up)


def udp() -> list[Row]:
    """One TCP connection towards the vehicle, in tunnels inside UDP: over IPv4, and over IPv6 with checksums."""
    with networks("plain", "ebpf_udp4", "ebpf_udp6") as made:
        return _rows("tcp_gbps", "Gbit/s", in_turn(made, partial(Network.tcp_gbps, down=True)))[1:]


def packets(size: int) -> list[Row]:
    """Packets of `size` octets per second."""
    with networks(*COMPARED) as made:
        return _rows(f"pps_{size}", "packets/s", _packets_per_second(made, size))


def packet_time() -> list[Row]:
    """Processor time for a packet of 64 octets, sending included."""
    with networks(*(name for name in COMPARED if name != "userspace")) as made:
        return _rows("packet_64_ns", "ns", in_turn(made, partial(Network.packet_ns, size=64), MANY_REPEATS))


def delay() -> list[Row]:
    """The 99th percentile of the one-way delay."""
    with networks(*COMPARED) as made:
        return _rows("latency_p99_us", "us", in_turn(made, Network.delay_p99, MANY_REPEATS))


def many_nodes() -> list[Row]:
    """A home agent of 100,000 nodes beside one with a single node."""
    with networks("plain", "ebpf", "ebpf_100k") as made:
        found = _packets_per_second(made)
    row = _rows("pps_64", "packets/s", found, {"ebpf_100k": "ebpf_pps_64_100k"})[2]
    return [row | {"ratio_to_one_node": ratio(found["ebpf_100k"], found["ebpf"])}]


def both_paths() -> list[Row]:
    """Flows shared between two paths; n-casting over both of them, with duplicate elimination and without."""
    with networks("userspace_share", "userspace_dedup", "ebpf_share", "ebpf_dedup") as made:
        rows = _rows("pps_64", "packets/s", _packets_per_second(made))
    with networks("userspace_ncast", "ebpf_ncast") as made:
        return rows + _rows("pps_64", "packets/s", _packets_per_second(made, copies=2))


def _packets_per_second(made: list[Network], size: int = 64, copies: int = 1) -> Rounds:
    return in_turn(made, partial(Network.packets_per_second, size=size, copies=copies), SHORT_REPEATS)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["end", node, name]:
            asyncio.run(_end(node, WAYS[name]))
        case other:
            sys.exit(f"bench_dataplane: no such call: {other}")
