"""What a packet costs the userspace data plane, in processor time of its thread, system calls included: so the figures
hold on a busy machine too. For packets of 64 octets of flows that are known.

    tunnel device mip0 <- Outbound, Inbound -> eth0 ---- far0, where nobody takes anything

All in a network namespace of its own.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from mip6.dataplane.inbound import Inbound
from mip6.dataplane.index import Index
from mip6.dataplane.inside import Inside
from mip6.dataplane.outbound import BATCH, Outbound
from mip6.dataplane.receive import TunnelReceiver
from mip6.dataplane.send import Senders
from mip6.forwarding import End, FlowRule, ForwardingTable, Node, Tunnel
from mip6.memory import Memory
from mip6.numbers import Protocol
from mip6.selectors import IPv6Selector
from mip6.system.tun import Tun

AGENT, HOME, PEER = IPv6Address("2001:db8:2::1"), IPv6Address("2001:db8:f00::1"), IPv6Address("2001:db8:c::2")
CARE_OF = IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:1::2")
BATCHES, REPEATS = 100, 5
BUFFER = 4 << 20
ETH_P_IPV6 = 0x86DD
COMMANDS = (
    "link set lo up",
    "link add eth0 address 02:00:00:00:00:01 type veth peer far0",
    "link set eth0 up",
    "link set far0 up",
    f"address add {AGENT}/64 dev eth0 nodad",
    *(f"neighbour add {one} lladdr 02:00:00:00:00:02 dev eth0" for one in CARE_OF),
    "route add 2001:db8:1::/64 dev eth0",
)


class Bench:
    """The two directions of a data plane and what stands around them."""

    def __init__(self) -> None:
        for command in COMMANDS:
            subprocess.run(["ip", *command.split()], check=True)
        Path("/proc/sys/net/ipv6/conf/far0/disable_ipv6").write_text("1")
        self.tun = Tun("mip0", 1460)
        self.device, self.far = (_packet_socket(name) for name in ("mip0", "far0"))
        self.receiver = TunnelReceiver(Protocol.IPV6, BUFFER)
        self.senders = Senders(lambda _: None, BUFFER)
        self.number = 0

    def table(self, rules: tuple[FlowRule, ...] = (), *, copied: bool = False) -> ForwardingTable:
        tunnels = tuple(Tunnel(bid, AGENT, remote) for bid, remote in enumerate(CARE_OF, 1))
        node = Node(HOME, (), tunnels, rules, (IPv6Selector(),) if copied else ())
        return ForwardingTable(End.HOME_AGENT, AGENT, {HOME: node}, eliminate_duplicates=copied)

    def packet(self, source: IPv6Address, destination: IPv6Address) -> bytes:
        """Of one flow, each with another content."""
        self.number += 1
        header = (6 << 28).to_bytes(4, "big") + b"\0\x18\x11\x40" + source.packed + destination.packed
        return header + b"\x03\xe8\x00\x09\x00\x18\x12\x34" + self.number.to_bytes(16, "big")

    def out(self, table: ForwardingTable) -> float:
        """Nanoseconds for a packet that goes into a tunnel."""
        outbound = Outbound(self._index(table), Memory(), Inside(self.tun), self.senders)

        def offer() -> None:
            for _ in range(BATCH):
                self.device.sendto(self.packet(PEER, HOME), ("mip0", ETH_P_IPV6))

        return _cost(offer, lambda: outbound.read(time.monotonic()))

    def arrive(self, table: ForwardingTable, *, copies: bool = False) -> float:
        """Nanoseconds for a packet that comes out of a tunnel; of `copies`, only for the second ones."""
        inbound = Inbound(self._index(table), Memory(), Inside(self.tun))
        waiting: list[bytes] = []

        def over(care_of: IPv6Address) -> None:
            for packet in waiting:
                outer = (6 << 28).to_bytes(4, "big") + b"\0\x40\x29\x40" + care_of.packed + AGENT.packed
                self.far.sendto(outer + packet, ("far0", ETH_P_IPV6, 0, 0, b"\x02\0\0\0\0\x01"))

        def offer() -> None:
            waiting[:] = [self.packet(HOME, PEER) for _ in range(BATCH)]
            over(CARE_OF[0])
            if copies:
                inbound.read(self.receiver, time.monotonic())
                over(CARE_OF[1])

        return _cost(offer, lambda: inbound.read(self.receiver, time.monotonic()))

    def _index(self, table: ForwardingTable) -> Index:
        index = Index(table.end, table.address)
        index.set_table(table)
        return index


def _packet_socket(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    sock.bind((device, 0))
    return sock


def _cost(offer: Callable[[], None], take: Callable[[], None]) -> float:
    """The median of several runs, per packet; the first batch makes the flow known."""
    offer()
    take()
    found = []
    for _ in range(REPEATS):
        spent = 0
        for _ in range(BATCHES):
            offer()
            before = time.thread_time_ns()
            take()
            spent += time.thread_time_ns() - before
        found.append(spent / (BATCHES * BATCH))
    return statistics.median(found)


def figures() -> dict[str, float]:
    """In this network namespace."""
    bench = Bench()
    plain = bench.table()
    share = bench.table((FlowRule(1, 1, IPv6Selector(), (1, 2), weights=(1, 1)),))
    copied = bench.table(copied=True)
    return {
        "userspace_out_ns": bench.out(plain),
        "userspace_share_out_ns": bench.out(share),
        "userspace_in_ns": bench.arrive(plain),
        "userspace_dedup_first_ns": bench.arrive(copied),
        "userspace_dedup_copy_ns": bench.arrive(copied, copies=True),
    }


def measure() -> list[dict[str, Any]]:
    """The rows of `labs.bench`. Needs root."""
    command = ["unshare", "--net", sys.executable, "-m", "labs.bench_userspace", "here"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    return [{"name": name, "value": value, "unit": "ns", "ratio_to_plain": None} for name, value in found.items()]


if __name__ == "__main__":
    print(json.dumps(figures() if sys.argv[1:] == ["here"] else measure(), indent=1))
