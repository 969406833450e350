"""From tunnels to the tunnel device. As in the other direction: `mip6.forward` decides about every new flow, and what
it decided for an ordinary packet is kept until the next table."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address

from mip6.dataplane.index import Index
from mip6.dataplane.inside import Inside
from mip6.dataplane.interface import TunnelCounters
from mip6.dataplane.offload import CHECKSUM_AT, VIRTIO_HEADER, header_length, is_unfinished, pseudo_sum, upper_protocol
from mip6.dataplane.ordinary import FLOWS, PLAIN_IPV4, PORTS, TCP_HEADER, is_ordinary
from mip6.dataplane.receive import TunnelReceiver, outer_fields
from mip6.duplicates import content_of
from mip6.forward import Arrival, Delivered, Dropped, decapsulate
from mip6.forwarding import DropReason
from mip6.memory import Memory
from mip6.numbers import Protocol
from mip6.udp import UdpEnds

BATCH = 64  # packets per wake-up of the loop
_LABELS = {  # where an arriving packet has its flow label, if any
    Protocol.IPV6: slice(VIRTIO_HEADER, VIRTIO_HEADER + 4),
    Protocol.IPV4: slice(VIRTIO_HEADER, VIRTIO_HEADER),
}


class _Known:
    """What is known of packets that arrive between two inner addresses over one tunnel: its BID and counters, the
    octets that they are to start with, and how to see that a checksum is not finished.

    `copied`: where the far end may n-cast to here, which of them it does, by what else a flow rule can look at.
    """

    __slots__ = ("behind", "bid", "checksum_at", "copied", "counters", "flow_sum", "head")

    def __init__(self, bid: int, counters: TunnelCounters, packet: bytes, copied: dict[bytes, bool] | None) -> None:
        self.bid, self.counters, self.head, self.copied = bid, counters, packet[:2], copied
        start = header_length(packet)
        self.checksum_at = VIRTIO_HEADER + start + CHECKSUM_AT.get(upper_protocol(packet), -start)
        self.flow_sum = pseudo_sum(packet)
        self.behind = slice(VIRTIO_HEADER + start, VIRTIO_HEADER + start + PORTS)


class Inbound:
    """Reads what arrives, by IPv6, by IPv4 and by UDP, and writes the tunnel device."""

    def __init__(self, index: Index, memory: Memory, inside: Inside) -> None:
        self._index, self._memory, self._inside = index, memory, inside
        self._arrivals: dict[bytes, _Known] = {}

    def forget(self) -> None:
        """Every decision."""
        self._arrivals.clear()

    def read(self, receiver: TunnelReceiver, now: float) -> None:
        """A batch of what came in IPv6."""
        arrivals, write, fd, join = self._arrivals, os.write, self._inside.tun.fd, b"".join
        packets, sources, controls = receiver.packets, receiver.sources, receiver.controls
        protocol, addresses, length, base = receiver.places
        first, low = slice(VIRTIO_HEADER, VIRTIO_HEADER + 2), length + 1
        label, is_duplicate = _LABELS[receiver.inside], self._memory.duplicates.is_duplicate
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
                seen = known.copied.get(join((view[label], view[known.behind])))
                if seen is None:
                    self._arrived(receiver, i, size, now)
                    continue
                copied = seen
                if copied:
                    content = content_of(bytes(view[VIRTIO_HEADER : VIRTIO_HEADER + size]))
                    if is_duplicate(content, known.bid, now):
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
            source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
            self._decide(Arrival(source, destination, data[1], data[9]), data[header_length(data) :], now)

    def take_datagram(self, ends: UdpEnds, traffic_class: int, inner: bytes, now: float) -> None:
        """A packet that came inside UDP."""
        ports = ends.remote_port, ends.local_port
        self._decide(Arrival(ends.remote, ends.local, traffic_class, Protocol.UDP, ports), inner, now)

    def _arrived(self, receiver: TunnelReceiver, i: int, size: int, now: float) -> None:
        """The reference decides about packet `i` of the batch; an ordinary decision is remembered for its flow."""
        view = receiver.packets[i]
        data = bytes(view[VIRTIO_HEADER : VIRTIO_HEADER + size])
        source, control = bytes(receiver.sources[i]), bytes(receiver.controls[i])
        destination, traffic_class = outer_fields(control)
        outer = Arrival(IPv6Address(source), IPv6Address(destination), traffic_class, receiver.inside)
        verdict = self._decide(outer, data, now)
        if verdict is None or not is_ordinary(data, TCP_HEADER):
            return
        if data[0] == PLAIN_IPV4 and data[:2] != verdict.packet[:2]:  # with a new header checksum in each packet
            return
        if len(self._arrivals) >= FLOWS:
            self._arrivals.clear()
        protocol, addresses, *_ = receiver.places
        key = source + control + data[:2] + bytes(view[protocol]) + bytes(view[addresses])
        known = self._arrivals.get(key)
        if known is None:  # but for what is copied, nothing behind the IP header was looked at
            counters = self._inside.count(verdict.node.home_address, verdict.tunnel.bid)
            maybe = self._index.table.eliminate_duplicates and verdict.node.copied
            known = _Known(verdict.tunnel.bid, counters, verdict.packet, {} if maybe else None)
            self._arrivals[key] = known
        if known.copied is not None:
            if len(known.copied) >= FLOWS:
                known.copied.clear()
            known.copied[bytes(view[_LABELS[receiver.inside]]) + bytes(view[known.behind])] = verdict.first

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
