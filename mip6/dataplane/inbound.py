"""From tunnels to the tunnel device. As in the other direction: `mip6.forward` decides about every new flow, and what
it decided for an ordinary packet is kept until the next table."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address

from mip6.dataplane.index import Index
from mip6.dataplane.inside import Inside
from mip6.dataplane.interface import TunnelCounters
from mip6.dataplane.offload import (
    CHECKSUM_AT,
    NOTHING,
    VIRTIO_HEADER,
    header_length,
    is_unfinished,
    pseudo_sum,
    upper_protocol,
)
from mip6.dataplane.ordinary import FLOWS, PLAIN_IPV4, PORTS, TCP_HEADER, is_ordinary
from mip6.dataplane.receive import TunnelReceiver, outer_fields
from mip6.forward import Arrival, Delivered, Dropped, decapsulate
from mip6.forwarding import IPV6_HEADER, DropReason
from mip6.memory import Memory
from mip6.numbers import Protocol
from mip6.udp import UdpEnds

BATCH = 64  # packets per wake-up of the loop
_Key = bytes | tuple[object, ...]


class _Known:
    """What is known of packets that arrive between two inner addresses over one tunnel: its BID and counters, the
    octets that they are to start with, and how to see that a checksum is not finished.

    `copied`: where the far end may n-cast to here, which of them it does, by what else a flow rule can look at.
    """

    __slots__ = ("behind", "bid", "checksum_at", "copied", "counters", "ends", "flow_sum", "head", "label")

    def __init__(self, delivered: Delivered, counters: TunnelCounters, copied: bool, ends: UdpEnds | None) -> None:
        packet = delivered.packet
        self.bid, self.counters, self.head, self.ends = delivered.tunnel.bid, counters, packet[:2], ends
        self.copied: dict[bytes, bool] | None = {} if copied else None
        start = header_length(packet)
        self.checksum_at = VIRTIO_HEADER + start + CHECKSUM_AT.get(upper_protocol(packet), -start)
        self.flow_sum = pseudo_sum(packet)
        self.label = slice(VIRTIO_HEADER, VIRTIO_HEADER + (4 if packet[0] >> 4 == 6 else 0))  # IPv4 has none
        self.behind = slice(VIRTIO_HEADER + start, VIRTIO_HEADER + start + PORTS)


class Inbound:
    """Reads what arrives, by IPv6, by IPv4 and by UDP, and writes the tunnel device."""

    def __init__(self, index: Index, memory: Memory, inside: Inside) -> None:
        self._index, self._memory, self._inside = index, memory, inside
        self._arrivals: dict[_Key, _Known] = {}

    def forget(self) -> None:
        """Every decision."""
        self._arrivals.clear()

    def read(self, receiver: TunnelReceiver, now: float) -> None:
        """A batch of what came in IPv6."""
        arrivals, write, fd, join = self._arrivals, os.write, self._inside.tun.fd, b"".join
        packets, sources, controls = receiver.packets, receiver.sources, receiver.controls
        protocol, addresses, length, base = receiver.places
        first, low = slice(VIRTIO_HEADER, VIRTIO_HEADER + 2), length + 1
        is_duplicate = self._memory.is_duplicate
        for i, size in enumerate(receiver.receive()):
            view = packets[i]
            known = arrivals.get(join((sources[i], controls[i], view[first], view[protocol], view[addresses])))
            if known is None or size != base + (view[length] << 8 | view[low]):
                self._arrived(receiver, i, size, now)
                continue
            at = known.checksum_at
            if at > VIRTIO_HEADER and is_unfinished(view[at] << 8 | view[at + 1], known.flow_sum, size):
                self._arrived(receiver, i, size, now)
                continue
            counters, copied = known.counters, False
            if known.copied is not None:
                seen = known.copied.get(join((view[known.label], view[known.behind])))
                if seen is None:
                    self._arrived(receiver, i, size, now)
                    continue
                copied = seen
                if copied and is_duplicate(bytes(view[VIRTIO_HEADER : VIRTIO_HEADER + size]), known.bid, now):
                    self._inside.drop(DropReason.DUPLICATE)
                    counters.packets_duplicate += 1
                    continue
            view[first] = known.head
            try:
                write(fd, view[: VIRTIO_HEADER + size])
            except OSError as error:
                self._inside.refused(error)
            else:
                counters.packets_in += 1
                counters.bytes_in += size
                counters.packets_first += copied

    def read_ipv4(self, sock: socket.socket, now: float) -> None:
        """A batch of what came in IPv4: a raw socket hands over its header too."""
        for _ in range(BATCH):
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                return
            inner = data[header_length(data) :]
            key = data[1:2], data[9:10], data[12:20], _flow(inner)
            if not self._take(key, inner, now):
                outer = Arrival(IPv4Address(data[12:16]), IPv4Address(data[16:20]), data[1], data[9])
                self._remember(key, inner, self._decide(outer, inner, now))

    def take_datagram(self, ends: UdpEnds, traffic_class: int, inner: bytes, now: float) -> None:
        """A packet that came inside UDP."""
        key = id(ends), traffic_class, _flow(inner)  # much faster than its hash; `_Known.ends` keeps it alive
        if not self._take(key, inner, now):
            ports = ends.remote_port, ends.local_port
            outer = Arrival(ends.remote, ends.local, traffic_class, Protocol.UDP, ports)
            self._remember(key, inner, self._decide(outer, inner, now), ends)

    def _take(self, key: _Key, inner: bytes, now: float) -> bool:
        """Deliver or drop a packet as it was decided for its flow, if it was."""
        known, size = self._arrivals.get(key), len(inner)
        if known is None or size != _whole(inner):
            return False
        packet = NOTHING + inner
        at = known.checksum_at
        if at > VIRTIO_HEADER and is_unfinished(packet[at] << 8 | packet[at + 1], known.flow_sum, size):
            return False
        counters, copied = known.counters, False
        if known.copied is not None:
            seen = known.copied.get(packet[known.label] + packet[known.behind])
            if seen is None:
                return False
            copied = seen
            if copied and self._memory.is_duplicate(inner, known.bid, now):
                self._inside.drop(DropReason.DUPLICATE)
                counters.packets_duplicate += 1
                return True
        if inner[:2] != known.head:
            packet = NOTHING + known.head + inner[2:]
        try:
            os.write(self._inside.tun.fd, packet)
        except OSError as error:
            self._inside.refused(error)
        else:
            counters.packets_in += 1
            counters.bytes_in += size
            counters.packets_first += copied
        return True

    def _remember(self, key: _Key, inner: bytes, delivered: Delivered | None, ends: UdpEnds | None = None) -> None:
        """What was decided for an ordinary packet: but for what is copied, nothing behind the IP header matters."""
        if delivered is None or not is_ordinary(inner, TCP_HEADER):
            return
        if inner[0] == PLAIN_IPV4 and inner[:2] != delivered.packet[:2]:  # with a new header checksum in each packet
            return
        known = self._arrivals.get(key)
        if known is None:
            if len(self._arrivals) >= FLOWS:
                self._arrivals.clear()
            counters = self._inside.count(delivered.node.home_address, delivered.tunnel.bid)
            copied = bool(self._index.table.eliminate_duplicates and delivered.node.copied)
            known = self._arrivals[key] = _Known(delivered, counters, copied, ends)
        if known.copied is not None:
            if len(known.copied) >= FLOWS:
                known.copied.clear()
            packet = NOTHING + inner
            known.copied[packet[known.label] + packet[known.behind]] = delivered.first

    def _arrived(self, receiver: TunnelReceiver, i: int, size: int, now: float) -> None:
        """The reference decides about packet `i` of the batch; an ordinary decision is remembered for its flow."""
        view = receiver.packets[i]
        data = bytes(view[VIRTIO_HEADER : VIRTIO_HEADER + size])
        source, control = bytes(receiver.sources[i]), bytes(receiver.controls[i])
        destination, traffic_class = outer_fields(control)
        outer = Arrival(IPv6Address(source), IPv6Address(destination), traffic_class, receiver.inside)
        protocol, addresses, *_ = receiver.places
        key = source + control + data[:2] + bytes(view[protocol]) + bytes(view[addresses])
        self._remember(key, data, self._decide(outer, data, now))

    def _decide(self, outer: Arrival, inner: bytes, now: float) -> Delivered | None:
        """Deliver or drop as the reference says; what was delivered, or would have been but for a copy before."""
        verdict = decapsulate(self._index, outer, inner, self._memory, now)
        if isinstance(verdict, Dropped):
            self._inside.dropped(verdict, now)
            return verdict.duplicate
        if not self._inside.write(verdict.packet):
            return None
        counters = self._inside.count(verdict.node.home_address, verdict.tunnel.bid)
        counters.packets_in += 1
        counters.bytes_in += len(verdict.packet)
        counters.packets_first += verdict.first
        return verdict


def _flow(inner: bytes) -> bytes:
    """What a decision about an ordinary packet depends on, but for its length and time to live."""
    if inner[:1] >= b"\x60":
        return inner[:2] + inner[6:7] + inner[8:40]
    return inner[:2] + inner[6:10] + inner[12:20]


def _whole(inner: bytes) -> int:
    """The size that an ordinary packet says it has."""
    return IPV6_HEADER + (inner[4] << 8 | inner[5]) if inner[0] >> 4 == 6 else inner[2] << 8 | inner[3]
