"""The fast path's programs under BPF_PROG_TEST_RUN: what one does with a packet, and what the reference wants of it."""

from __future__ import annotations

import runpy
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from mip6.dataplane.layout import NUMBER, pack_sending
from mip6.dataplane.libbpf import Object
from mip6.dataplane.maps import Devices, FastPathMaps
from mip6.dataplane.offload import CHECKSUM_AT
from mip6.errors import ipv4_header
from mip6.forward import Arrival, Delivered, Dropped, Encapsulated, decapsulate, encapsulate
from mip6.forwarding import DropReason, End, ForwardingTable
from mip6.lookup import Plain
from mip6.memory import Memory
from mip6.numbers import Protocol
from mip6.packet import parse
from mip6.wire import internet_checksum, pseudo_header

SOURCE = Path(__file__).with_name("fastpath_test.bpf.c")
PASSED, OK, SHOT, REDIRECTED = 0xFFFFFFFF, 0, 2, 7  # TC_ACT_*
MAX_EXTENSIONS = 7  # that are skipped
ANSWERED = {DropReason.NO_NODE, DropReason.HOP_LIMIT, DropReason.TOO_BIG}
"""What userspace has to answer, so that the fast path leaves it alone."""
NOT_SENT = {DropReason.RULE, DropReason.NO_TUNNEL, DropReason.LOOP}
HERE, THERE = "020000000001", "020000000009"


def compile_object(directory: Path, source: Path = SOURCE) -> Path:
    """The object of the sources as they are now; those of the tests have programs and a clock of their own."""
    output = directory / "fastpath_test.bpf.o"
    runpy.run_path(str(SOURCE.parents[2] / "setup.py"), run_name="build")["compile_fastpath"](source, output)
    return output


@dataclass(frozen=True)
class Outcome:
    """What became of a packet: `action` of tc, the packet afterwards without its Ethernet header, what was counted."""

    action: int
    packet: bytes
    counted: tuple[DropReason, ...] = ()

    @classmethod
    def passed(cls, packet: bytes) -> Outcome:
        return cls(PASSED, packet)


class FastPath:
    """Loaded programs with maps that hold a table."""

    def __init__(self, path: Path, device: int) -> None:
        """`device`: index of the interface that packets come in by; HERE is its address."""
        self.loaded = Object(path)
        self.maps = FastPathMaps(self.loaded.maps)
        self.maps.set_devices(Devices(tunnel=0))  # copies fail
        self.device = device
        self.now = 0.0
        self.wait(1e6)
        self._drops = self.drops()

    def wait(self, seconds: float) -> None:
        """By the programs' clock, which stands still otherwise."""
        self.now += seconds
        self.loaded.maps["test_clock"].update(NUMBER.pack(0), int(self.now * 1e9).to_bytes(8, "little"))

    def close(self) -> None:
        self.loaded.close()

    def drops(self) -> Counter[DropReason]:
        values = sorted(self.loaded.maps["drops"].items())
        return Counter(
            {reason: sum(memoryview(value).cast("Q")) for reason, (_, value) in zip(DropReason, values, strict=True)}
        )

    def run(self, program: str, packet: bytes, **context: int) -> Outcome:
        version = packet[0] >> 4 if packet else 0
        kind, least = ("0800", 20) if version == 4 else ("86dd", 40)
        if len(packet) < least:  # the kernel makes no test run with less than a header; only decap_* ask for the type
            kind = "88b5"
        frame = bytes.fromhex(HERE + THERE + kind) + packet
        run = self.loaded.programs[program].run(frame, ifindex=self.device, **context)
        before, self._drops = self._drops, self.drops()
        return Outcome(run.result, run.packet[14:], tuple((self._drops - before).elements()))

    def encapsulate(self, packet: bytes, **context: int) -> Outcome:
        """As on the tunnel device."""
        return self.run("encap_frame", packet, **context)

    def shortcut(self, packet: bytes, **context: int) -> Outcome:
        """As at the served interface."""
        return self.run("encap_ingress", packet, **context)

    def decapsulate(self, outer: Arrival, inner: bytes, **context: int) -> Outcome:
        """As at an access device."""
        return self.run("decap_ingress", outer_packet(outer, inner), **context)


def outer_packet(outer: Arrival, inner: bytes) -> bytes:
    """As the far end sends it; inside UDP over IPv6 with a checksum."""
    payload = inner
    if outer.ports is not None:
        length = 8 + len(inner)
        payload = b"".join(one.to_bytes(2, "big") for one in (*outer.ports, length, 0)) + inner
        if isinstance(outer.source, IPv6Address) and isinstance(outer.destination, IPv6Address):
            start = pseudo_header(outer.source, outer.destination, length, Protocol.UDP)
            payload = payload[:6] + (internet_checksum(start + payload) or 0xFFFF).to_bytes(2, "big") + inner
    if isinstance(outer.source, IPv4Address) and isinstance(outer.destination, IPv4Address):
        tos = outer.traffic_class
        return ipv4_header(outer.source, outer.destination, outer.protocol, len(payload), tos=tos) + payload
    start = (6 << 28 | outer.traffic_class << 20).to_bytes(4, "big") + len(payload).to_bytes(2, "big")
    return start + bytes((outer.protocol, 64)) + outer.source.packed + outer.destination.packed + payload


def wanted_out(table: ForwardingTable, packet: bytes, memory: Memory) -> Outcome:
    """What the reference says of a packet on the tunnel device, or that it is one to be passed on. `memory` is that of
    what the programs decide."""
    if _is_unclear(table, packet):
        verdict = encapsulate(Plain(table), packet, Memory(), 0, 0)
        if isinstance(verdict, Encapsulated) or verdict.reason in NOT_SENT:
            return Outcome.passed(packet)
    else:
        verdict = encapsulate(Plain(table), packet, memory, 0, 0)
    if isinstance(verdict, Dropped):
        answered = verdict.reason in ANSWERED or (verdict.reason is DropReason.LOOP and _unclear(table, packet))
        return Outcome.passed(packet) if answered else Outcome(SHOT, packet, (verdict.reason,))
    if any(len(copy.packets) > 1 for copy in verdict.copies):
        return Outcome.passed(packet)  # in outer fragments
    failed = (DropReason.SEND_FAILED,) * (len(verdict.copies) - 1)
    return Outcome(REDIRECTED, verdict.copies[-1].packets[0], failed)


def _is_unclear(table: ForwardingTable, packet: bytes) -> bool:
    """Whether the rule may be that of the first fragment, or nothing is known of the ports: userspace is asked."""
    parsed = parse(packet)
    if parsed is None or not _is_opaque(packet):
        return False
    node = Plain(table).owner(parsed.source if table.end is End.MOBILE_NODE else parsed.destination)
    return node is not None and bool(pack_sending(node).rules)


def _unclear(table: ForwardingTable, packet: bytes) -> bool:
    """Whether a packet of a loop has another trait that userspace is asked about first."""
    small = any(tunnel.mtu < len(packet) for node in table.nodes.values() for tunnel in node.tunnels)
    return small or packet[7 if packet[0] >> 4 == 6 else 8] == 0


def _extensions(packet: bytes) -> int:
    """How many extension headers stand before the upper-layer header."""
    count, protocol, at = 0, packet[6], 40
    while packet[0] >> 4 == 6 and protocol in (0, 43, 51, 60) and at + 8 <= len(packet):
        size = 4 * (packet[at + 1] + 2) if protocol == Protocol.AH else 8 * (packet[at + 1] + 1)
        if at + size > len(packet):
            break
        count, protocol, at = count + 1, packet[at], at + size
    return count


def wanted_shortcut(table: ForwardingTable, packet: bytes, memory: Memory) -> Outcome:
    """The same at the served interface: what is not sent goes on to the stack as it is."""
    parsed = parse(packet)
    if parsed is None or parsed.hop_limit <= 1:
        return Outcome.passed(packet)
    if (packet[0] >> 4 == 6 and packet[6] == Protocol.HOP_BY_HOP) or (packet[0] >> 4 == 4 and packet[0] & 15 > 5):
        return Outcome.passed(packet)  # a router looks at these
    wanted = wanted_out(table, one_hop_less(packet), memory)
    return wanted if wanted.action == REDIRECTED else Outcome.passed(packet)


def wanted_in(table: ForwardingTable, outer: Arrival, inner: bytes, memory: Memory) -> Outcome:
    """What the reference says of a tunnel packet; `memory` is that of what the programs decide."""
    whole = outer_packet(outer, inner)
    ends = Plain(table).between(outer.destination, outer.source, outer.ports and (outer.ports[1], outer.ports[0]))
    parsed = parse(inner)
    if outer.ports is not None and ends and parsed is not None and inner[6] == Protocol.MOBILITY and inner[0] >> 4 == 6:
        return Outcome.passed(whole)  # perhaps for the agent itself
    if table.eliminate_duplicates and _is_opaque(inner):
        verdict = decapsulate(Plain(table), outer, inner, Memory(), 0)
        if isinstance(verdict, Delivered) and pack_sending(verdict.node).copied:
            return Outcome.passed(whole)  # perhaps a duplicate
    else:
        verdict = decapsulate(Plain(table), outer, inner, memory, 0)
    if isinstance(verdict, Delivered):
        return Outcome(OK, verdict.packet)
    others = verdict.reason is DropReason.UNKNOWN_OUTER_DESTINATION
    if verdict.reason is DropReason.UNKNOWN_OUTER_SOURCE:  # another tunnel of this machine; signalling
        others = outer.ports is not None or isinstance(outer.source, IPv4Address)
    if others:
        return Outcome.passed(whole)
    return Outcome(SHOT, whole, (verdict.reason,))


def forwarded(outcome: Outcome, mtu: int) -> Outcome:
    """What the short cut makes of a delivered packet that is routed to a neighbour by a route of this MTU."""
    packet = outcome.packet
    parsed = parse(packet)
    if parsed is None or parsed.hop_limit <= 1 or len(packet) > mtu:
        return outcome
    if packet[0] >> 4 == 6:
        answered = packet[6] == Protocol.HOP_BY_HOP
    else:
        answered = packet[0] & 15 > 5 or internet_checksum(packet[:20]) != 0
    return outcome if answered else Outcome(REDIRECTED, one_hop_less(packet), outcome.counted)


def is_unfinished(packet: bytes) -> bool:
    """Whether the checksum of TCP or UDP may be one that is left to the device, also by chance: what stands in front of
    the packet inside UDP is then made for the one that the device would make of it."""
    parsed = parse(packet)
    if parsed is None or parsed.protocol not in CHECKSUM_AT:
        return False
    ends, length = parsed.source.packed + parsed.destination.packed, parsed.length - parsed.upper
    at = parsed.upper + CHECKSUM_AT[parsed.protocol]
    total = int.from_bytes(ends, "big") + length + parsed.protocol
    return (total - int.from_bytes(packet[at : at + 2], "big")) % 0xFFFF == 0


def _is_opaque(packet: bytes) -> bool:
    """Whether the programs cannot tell the ports: a fragment, or behind too many extension headers."""
    parsed = parse(packet)
    return parsed is not None and (parsed.fragment is not None or _extensions(packet) > MAX_EXTENSIONS)


def one_hop_less(packet: bytes) -> bytes:
    """As a router leaves it (RFC 8200 §3; RFC 1624 §3 for the checksum of IPv4)."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes((packet[7] - 1,)) + packet[8:]
    checksum = (int.from_bytes(packet[10:12], "big") + 0x100) % 0xFFFF
    return packet[:8] + bytes((packet[8] - 1, packet[9])) + checksum.to_bytes(2, "big") + packet[12:]
