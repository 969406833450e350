"""The userspace data plane: the tunnel device on one side, raw IPv6 sockets on the other.

The verdicts are those of `mip6.forward`, which handles every packet of a new flow and all that is unusual. What it
decided for an ordinary packet is kept per flow, so that the next one only gets its outer header put in front. The
cache holds nothing that a new table could contradict: it is emptied with every table; `Memory` is what stays.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from ipaddress import IPv6Address

from mip6.dataplane.index import Index
from mip6.dataplane.interface import Counters, OnPathMtu, TunnelCounters
from mip6.dataplane.offload import (
    CHECKSUM_AT,
    VIRTIO_HEADER,
    header_length,
    is_unfinished,
    pseudo_sum,
    upper_protocol,
    virtio_header,
)
from mip6.dataplane.receive import TunnelReceiver, outer_fields
from mip6.dataplane.send import Senders
from mip6.duplicates import content_of
from mip6.errors import path_mtu_changed, relayed_too_big
from mip6.forward import Arrival, Dropped, copying_rules, decapsulate, encapsulate, outer_header
from mip6.forwarding import IPV4_HEADER, IPV6_HEADER, DropReason, End, ForwardingTable, Tunnel
from mip6.memory import FLOW_IDLE, Memory, SharedFlow
from mip6.numbers import Icmp6Type, Protocol
from mip6.packet import PORT_PROTOCOLS
from mip6.ratelimit import RateLimit
from mip6.system.tun import Tun

BATCH = 64  # packets per wake-up of the loop, so that signalling is not starved
FLOWS = 65536  # flows remembered
ANSWERS_PER_SECOND = 100  # ICMPv6 errors (RFC 4443 §2.4 (f))
BUFFER = 4 << 20
_ORDINARY = PORT_PROTOCOLS | {Protocol.ESP}  # what a flow rule can look at is in the first 4 octets behind the header
_PORTS, _TCP_HEADER = 4, 20
_PLAIN_IPV4 = 0x45  # the first octet of an IPv4 packet without options
_ICMP6_FILTER = 1


class _Way:
    """One tunnel as the fast path uses it: header parts, socket, counters."""

    __slots__ = ("address", "counters", "head", "socket", "tail", "tunnel")

    def __init__(self, tunnel: Tunnel, packet: bytes, sock: socket.socket, counters: TunnelCounters) -> None:
        self.tunnel, self.socket, self.counters = tunnel, sock, counters
        version, traffic_class = packet[0] >> 4, packet[1]
        if version == 6:
            traffic_class = (packet[0] & 15) << 4 | packet[1] >> 4
        self.head, self.tail = outer_header(tunnel, version, traffic_class)
        self.address = (str(tunnel.remote), 0)


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
        self.behind = slice(VIRTIO_HEADER + start, VIRTIO_HEADER + start + _PORTS)


_Flow = tuple[int, tuple[_Way, ...], SharedFlow | None]
"""What is remembered of a flow that leaves: the smallest MTU among its ways, they, and, if it is shared, its choice."""
_UNKNOWN: _Flow = (-1, (), None)
_LABELS = {  # where an arriving packet has its flow label, if any
    Protocol.IPV6: slice(VIRTIO_HEADER, VIRTIO_HEADER + 4),
    Protocol.IPV4: slice(VIRTIO_HEADER, VIRTIO_HEADER),
}
_IPV4_ORDINARY = IPV4_HEADER + _PORTS


def _flow4(data: bytes) -> bytes:
    """What a decision about an IPv4 packet without options depends on, but for its length and time to live."""
    return data[:2] + data[6:8] + data[9:10] + data[12:24]


def _is_ordinary(data: bytes, behind: int) -> bool:
    """Whether what is decided about a packet holds for its flow: a header that has `behind` octets of an upper layer
    directly behind it, with the rest of what a flow rule can look at."""
    if data[0] >> 4 == 6:
        return len(data) >= IPV6_HEADER + behind and data[6] in _ORDINARY
    return data[0] == _PLAIN_IPV4 and len(data) >= IPV4_HEADER + behind and upper_protocol(data) in _ORDINARY


class UserspaceDataPlane:
    """See `interface.DataPlane`."""

    name = "userspace"

    def __init__(self, tun: Tun, on_path_mtu: OnPathMtu) -> None:
        self._tun, self._on_path_mtu = tun, on_path_mtu
        self._index = Index(End.HOME_AGENT, IPv6Address(0))
        self._tunnels: dict[tuple[IPv6Address, int], TunnelCounters] = {}
        self._drops: dict[DropReason, int] = {}
        self._flows: dict[bytes, _Flow] = {}
        self._arrivals: dict[bytes, _Known] = {}
        self._senders = Senders(on_path_mtu, BUFFER)
        self._memory = Memory()
        self._answers = RateLimit(ANSWERS_PER_SECOND, ANSWERS_PER_SECOND)
        self._identification = int.from_bytes(os.urandom(4), "big")

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the sockets and read; OSError says what is not allowed."""
        self._loop = asyncio.get_running_loop()
        self._receivers = [TunnelReceiver(inside, BUFFER) for inside in (Protocol.IPV6, Protocol.IPV4)]
        self._errors = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        block = bytearray(b"\xff" * 32)  # a set bit blocks that type; words are in host order
        word = struct.unpack_from("=I", block)[0] & ~(1 << Icmp6Type.PACKET_TOO_BIG)
        struct.pack_into("=I", block, 0, word)
        self._errors.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(block))
        self._loop.add_reader(self._tun.fd, self._read_tun)
        for receiver in self._receivers:
            self._loop.add_reader(receiver, self._read_tunnels, receiver)
        self._loop.add_reader(self._errors, self._read_errors)

    def stop(self, *, remove: bool) -> None:
        """Close everything; with `remove` the device disappears."""
        self._loop.remove_reader(self._tun.fd)
        readers: list[TunnelReceiver | socket.socket] = [*self._receivers, self._errors]
        for reader in readers:
            self._loop.remove_reader(reader)
            reader.close()
        self._senders.close()
        if remove:
            self._tun.remove()
        else:
            self._tun.close()

    def set_table(self, table: ForwardingTable) -> None:
        """Take over a table; sockets of addresses and counters of nodes that are gone go too."""
        gone = set(self._index.set_table(table))
        if gone:
            for key in [key for key in self._tunnels if key[0] in gone]:
                del self._tunnels[key]
        self._flows.clear()
        self._arrivals.clear()
        self._senders.keep(self._index.senders())

    def counters(self) -> Counters:
        """The counters, live."""
        return Counters(self._tunnels, self._drops)

    def deliver(self, packet: bytes) -> None:
        """Write a packet to the device, so that the kernel receives it."""
        self._write(packet)

    # --- from the device into tunnels -------------------------------------------------------------------------------

    def _read_tun(self) -> None:
        read, fd, flows, now = os.read, self._tun.fd, self._flows, self._loop.time()
        for _ in range(BATCH):
            try:
                data = read(fd, VIRTIO_HEADER + 65536)[VIRTIO_HEADER:]
            except BlockingIOError:
                return
            size = len(data)
            mtu, ways, shared = flows.get(data[:4] + data[6:7] + data[8:44], _UNKNOWN)
            if size > mtu or not data[7] or size != IPV6_HEADER + (data[4] << 8 | data[5]):
                self._other(data, now)
                continue
            if shared is not None:
                if now - shared.seen > FLOW_IDLE:
                    self._classify(data, now)
                    continue
                shared.seen = now
            length = size.to_bytes(2, "big")
            for way in ways:
                try:
                    way.socket.sendto(way.head + length + way.tail + data, way.address)
                except OSError as error:
                    self._send_failed(way.tunnel, error)
                else:
                    way.counters.packets_out += 1
                    way.counters.bytes_out += size

    def _other(self, data: bytes, now: float) -> None:
        """A packet whose flow is not known; or IPv4, which is looked up here."""
        size = len(data)
        if size < _IPV4_ORDINARY or data[0] != _PLAIN_IPV4:
            self._classify(data, now)
            return
        mtu, ways, shared = self._flows.get(_flow4(data), _UNKNOWN)
        idle = shared is not None and now - shared.seen > FLOW_IDLE
        if size > mtu or not data[8] or size != data[2] << 8 | data[3] or idle:
            self._classify(data, now)
            return
        if shared is not None:
            shared.seen = now
        for way in ways:
            try:
                way.socket.sendto(b"".join((way.head, data[2:4], way.tail, data)), way.address)
            except OSError as error:
                self._send_failed(way.tunnel, error)
            else:
                way.counters.packets_out += 1
                way.counters.bytes_out += size

    def _classify(self, data: bytes, now: float) -> None:
        """The reference decides; an ordinary decision is remembered for its flow."""
        self._identification = self._identification + 1 & 0xFFFFFFFF
        verdict = encapsulate(self._index, data, self._memory, self._identification, now)
        if isinstance(verdict, Dropped):
            self._dropped(verdict)
            return
        ways: list[_Way] = []
        for copy in verdict.copies:
            tunnel = copy.tunnel
            try:
                sock = self._senders.socket(tunnel)
                for outer in copy.packets:
                    sock.sendto(outer, (str(tunnel.remote), 0))
            except OSError as error:
                self._send_failed(tunnel, error)
                continue
            counters = self._count(verdict.node.home_address, tunnel.bid)
            counters.packets_out += 1
            counters.bytes_out += verdict.size
            ways.append(_Way(tunnel, data, sock, counters))
        if len(ways) == len(verdict.copies) and _is_ordinary(data, _PORTS):
            if len(self._flows) >= FLOWS:
                self._flows.clear()
            key = _flow4(data) if data[0] == _PLAIN_IPV4 else data[:4] + data[6:7] + data[8:44]
            self._flows[key] = min(way.tunnel.mtu for way in ways), tuple(ways), verdict.flow

    def _count(self, home_address: IPv6Address, bid: int) -> TunnelCounters:
        return self._tunnels.setdefault((home_address, bid), TunnelCounters())

    def _send_failed(self, tunnel: Tunnel, error: OSError) -> None:
        self._drop(DropReason.SEND_FAILED)
        if self._senders.failed(tunnel, error):
            self._flows.clear()

    # --- from tunnels to the device ---------------------------------------------------------------------------------

    def _read_tunnels(self, receiver: TunnelReceiver) -> None:
        arrivals, write, fd, join = self._arrivals, os.write, self._tun.fd, b"".join
        packets, sources, controls = receiver.packets, receiver.sources, receiver.controls
        protocol, addresses, length, base = receiver.places
        first, low = slice(VIRTIO_HEADER, VIRTIO_HEADER + 2), length + 1
        label = _LABELS[receiver.inside]
        is_duplicate, now = self._memory.duplicates.is_duplicate, self._loop.time()
        for i, size in enumerate(receiver.receive()):
            view = packets[i]
            known = arrivals.get(join((sources[i], controls[i], view[first], view[protocol], view[addresses])))
            if known is None or size != base + (view[length] << 8 | view[low]):
                self._arrived(receiver, i, size)
                continue
            at = known.checksum_at
            if at > VIRTIO_HEADER and is_unfinished(view[at] << 8 | view[at + 1], known.flow_sum, size):
                self._arrived(receiver, i, size)
                continue
            counters, copied = known.counters, False
            if known.copied is not None:
                seen = known.copied.get(join((view[label], view[known.behind])))
                if seen is None:
                    self._arrived(receiver, i, size)
                    continue
                copied = seen
                if copied and is_duplicate(
                    content_of(bytes(view[VIRTIO_HEADER : VIRTIO_HEADER + size])), known.bid, now
                ):
                    self._drop(DropReason.DUPLICATE)
                    counters.packets_duplicate += 1
                    continue
            view[first] = known.head
            try:
                write(fd, view[: VIRTIO_HEADER + size])
            except OSError as error:
                self._refused(error)
            else:
                counters.packets_in += 1
                counters.bytes_in += size
                counters.packets_first += copied

    def _arrived(self, receiver: TunnelReceiver, i: int, size: int) -> None:
        """The reference decides about packet `i` of the batch; an ordinary decision is remembered for its flow."""
        view = receiver.packets[i]
        data = bytes(view[VIRTIO_HEADER : VIRTIO_HEADER + size])
        source, control = bytes(receiver.sources[i]), bytes(receiver.controls[i])
        destination, traffic_class = outer_fields(control)
        outer = Arrival(IPv6Address(source), IPv6Address(destination), traffic_class, receiver.inside)
        verdict = decapsulate(self._index, outer, data, self._memory, self._loop.time())
        if isinstance(verdict, Dropped):
            self._dropped(verdict)
            return
        node, tunnel = verdict.node, verdict.tunnel
        counters = self._count(node.home_address, tunnel.bid)
        if not self._write(verdict.packet):
            return
        counters.packets_in += 1
        counters.bytes_in += len(verdict.packet)
        counters.packets_first += verdict.first
        if not _is_ordinary(data, _TCP_HEADER):
            return
        if data[0] == _PLAIN_IPV4 and data[:2] != verdict.packet[:2]:  # with a new header checksum in each packet
            return
        if len(self._arrivals) >= FLOWS:
            self._arrivals.clear()
        protocol, addresses, *_ = receiver.places
        key = source + control + data[:2] + bytes(view[protocol]) + bytes(view[addresses])
        known = self._arrivals.get(key)
        if known is None:  # but for what is copied, nothing behind the IP header was looked at
            maybe = self._index.table.eliminate_duplicates and copying_rules(node)
            known = _Known(tunnel.bid, counters, verdict.packet, {} if maybe else None)
            self._arrivals[key] = known
        if known.copied is not None:
            if len(known.copied) >= FLOWS:
                known.copied.clear()
            known.copied[bytes(view[_LABELS[receiver.inside]]) + bytes(view[known.behind])] = verdict.first

    def _write(self, packet: bytes) -> bool:
        """Write one packet to the device; whether the kernel took it."""
        try:
            os.write(self._tun.fd, virtio_header(packet, self._tun.mtu) + packet)
        except OSError as error:
            self._refused(error)
            return False
        return True

    def _refused(self, error: OSError) -> None:
        """The kernel did not take a packet from the device (it is down, or out of memory)."""
        self._drop(DropReason.SEND_FAILED)
        if error.errno not in (errno.EIO, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL):
            raise error

    def _drop(self, reason: DropReason) -> None:
        self._drops[reason] = self._drops.get(reason, 0) + 1

    def _dropped(self, verdict: Dropped) -> None:
        self._drop(verdict.reason)
        if verdict.arrived is not None:
            node, tunnel = verdict.arrived
            self._count(node.home_address, tunnel.bid).packets_duplicate += 1
        self._answer(verdict.error)

    def _answer(self, error: bytes | None) -> None:
        """Send an ICMPv6 error to an inner sender, if there is one and not too many have gone."""
        if error is not None and self._answers.allow(self._loop.time()):
            self._write(error)

    def _read_errors(self) -> None:
        """ICMPv6 packet too big about our own tunnel packets."""
        for _ in range(BATCH):
            try:
                message = self._errors.recv(65536)
            except BlockingIOError:
                return
            changed = path_mtu_changed(self._index, message)
            if changed is not None:
                self._answer(relayed_too_big(self._index, message))
                self._on_path_mtu(changed)
