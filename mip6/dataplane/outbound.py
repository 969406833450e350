"""From the tunnel device into tunnels.

The verdicts are those of `mip6.forward`, which handles every packet of a new flow and all that is unusual. What it
decided for an ordinary packet is kept per flow, so that the next one only gets its outer header put in front. The
cache holds nothing that a new table could contradict: it is emptied with every table; `Memory` is what stays.
"""

from __future__ import annotations

import os

from mip6.dataplane.index import Index
from mip6.dataplane.inside import Inside
from mip6.dataplane.offload import VIRTIO_HEADER
from mip6.dataplane.ordinary import FLOWS, PLAIN_IPV4, PORTS, flow4, flow6, is_ordinary
from mip6.dataplane.send import NativeWay, Senders, Way
from mip6.forward import Dropped, encapsulate
from mip6.forwarding import IPV4_HEADER, IPV6_HEADER, DropReason, Tunnel
from mip6.memory import FLOW_IDLE, Memory, SharedFlow

BATCH = 64  # packets per wake-up of the loop, so that signalling is not starved
_Flow = tuple[int, tuple[Way, ...], SharedFlow | None]
"""What is remembered of a flow that leaves: the smallest MTU among its ways, they, and, if it is shared, its choice."""
_UNKNOWN: _Flow = (-1, (), None)
_UNKNOWN6: tuple[int, tuple[NativeWay, ...], SharedFlow | None] = (-1, (), None)


class Outbound:
    """Reads the tunnel device."""

    def __init__(self, index: Index, memory: Memory, inside: Inside, senders: Senders) -> None:
        self._index, self._memory, self._inside, self._senders = index, memory, inside, senders
        self._flows6: dict[bytes, tuple[int, tuple[NativeWay, ...], SharedFlow | None]] = {}  # IPv6 in IPv6 without UDP
        self._flows: dict[bytes, _Flow] = {}  # all others
        self._identification = int.from_bytes(os.urandom(4), "big")

    def forget(self) -> None:
        """Every decision."""
        self._flows6.clear()
        self._flows.clear()

    def read(self, now: float) -> None:
        """As much as there is, but no more than a batch."""
        read, fd, flows = os.read, self._inside.tun.fd, self._flows6
        for _ in range(BATCH):
            try:
                data = read(fd, VIRTIO_HEADER + 65536)[VIRTIO_HEADER:]
            except BlockingIOError:
                return
            size = len(data)
            mtu, ways, shared = flows.get(data[:4] + data[6:7] + data[8:44], _UNKNOWN6)
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
                    self._failed(way.tunnel, error)
                else:
                    way.counters.packets_out += 1
                    way.counters.bytes_out += size

    def _other(self, data: bytes, now: float) -> None:
        """A packet whose flow is not known, or not IPv6 in IPv6 without UDP."""
        size = len(data)
        if data[:1] == b"\x45":
            whole = size >= IPV4_HEADER + PORTS and data[8] and size == data[2] << 8 | data[3]
            mtu, ways, shared = self._flows.get(flow4(data), _UNKNOWN)
        else:
            whole = size >= IPV6_HEADER + PORTS and data[7] and size == IPV6_HEADER + (data[4] << 8 | data[5])
            mtu, ways, shared = self._flows.get(flow6(data), _UNKNOWN)
        if size > mtu or not whole or (shared is not None and now - shared.seen > FLOW_IDLE):
            self._classify(data, now)
            return
        if shared is not None:
            shared.seen = now
        for way in ways:
            try:
                way.send(data)
            except OSError as error:
                self._failed(way.tunnel, error)
            else:
                way.counters.packets_out += 1
                way.counters.bytes_out += size

    def _classify(self, data: bytes, now: float) -> None:
        """The reference decides; an ordinary decision is remembered for its flow."""
        self._identification = self._identification + 1 & 0xFFFFFFFF
        verdict = encapsulate(self._index, data, self._memory, self._identification, now)
        if isinstance(verdict, Dropped):
            self._inside.dropped(verdict, now)
            return
        ways: list[Way] = []
        for copy in verdict.copies:
            counters = self._inside.count(verdict.node.home_address, copy.tunnel.bid)
            try:
                ways.append(self._senders.send(copy, data[: verdict.size], counters))
            except OSError as error:
                self._failed(copy.tunnel, error)
                continue
            counters.packets_out += 1
            counters.bytes_out += verdict.size
        if len(ways) < len(verdict.copies) or not is_ordinary(data, PORTS):
            return
        if len(self._flows) + len(self._flows6) >= FLOWS:
            self.forget()
        mtu = min(way.tunnel.mtu for way in ways)
        native = tuple(way for way in ways if isinstance(way, NativeWay))
        if data[0] == PLAIN_IPV4:
            self._flows[flow4(data)] = mtu, tuple(ways), verdict.flow
        elif len(native) == len(ways):
            self._flows6[flow6(data)] = mtu, native, verdict.flow
        else:
            self._flows[flow6(data)] = mtu, tuple(ways), verdict.flow

    def _failed(self, tunnel: Tunnel, error: OSError) -> None:
        self._inside.drop(DropReason.SEND_FAILED)
        if self._senders.failed(tunnel, error):
            self.forget()
