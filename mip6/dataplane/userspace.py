"""The userspace data plane: the tunnel device on one side, raw IPv6 sockets on the other.

The verdicts are those of `mip6.forward`, which handles every packet of a new flow and all that is unusual. What it
decided for an ordinary packet is kept per flow, so that the next one only gets its outer header put in front. The
cache holds nothing that a new table could contradict: it is emptied with every table.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from ipaddress import IPv6Address

from mip6.dataplane.interface import Counters, PathMtuCallback, TunnelCounters
from mip6.forward import FragmentMemory, Verdict, decapsulate, encapsulate, path_mtu
from mip6.forwarding import IPV6_HEADER, MINIMUM_MTU, DropReason, End, ForwardingTable, Node, Tunnel
from mip6.numbers import Protocol
from mip6.ratelimit import RateLimit
from mip6.system import log
from mip6.system.tun import Tun

BATCH = 64  # packets per wake-up of the loop, so that signalling is not starved
FLOWS = 65536  # flows remembered
ANSWERS_PER_SECOND = 100  # ICMPv6 errors (RFC 4443 §2.4 (f))
BUFFER = 4 << 20
_ORDINARY = frozenset((Protocol.TCP, Protocol.UDP, Protocol.ICMPV6, Protocol.ESP))
_ICMP6_FILTER = 1
_PACKET_TOO_BIG = 2


class _Way:
    """One tunnel as the fast path uses it: header parts, socket, counters."""

    __slots__ = ("address", "counters", "head", "socket", "tail", "tunnel")

    def __init__(self, tunnel: Tunnel, head: bytes, sock: socket.socket, counters: TunnelCounters) -> None:
        self.tunnel, self.head, self.socket, self.counters = tunnel, head, sock, counters
        self.tail = bytes((Protocol.IPV6, 64)) + tunnel.local.packed + tunnel.remote.packed
        self.address = (str(tunnel.remote), 0)


_UNKNOWN: tuple[int, tuple[_Way, ...]] = (-1, ())


class UserspaceDataPlane:
    """See `interface.DataPlane`."""

    name = "userspace"

    def __init__(self, device: str, mtu: int, on_path_mtu: PathMtuCallback) -> None:
        self._device, self._mtu, self._on_path_mtu = device, mtu, on_path_mtu
        self._table = ForwardingTable(End.HOME_AGENT, IPv6Address(0))
        self._counters = Counters()
        self._flows: dict[bytes, tuple[int, tuple[_Way, ...]]] = {}  # the smallest MTU among the ways, and they
        self._arrivals: dict[tuple[str, bytes, int, bytes], TunnelCounters] = {}
        self._by_remote: dict[IPv6Address, ForwardingTable] = {}
        self._owners: dict[int, dict[int, Node]] = {}
        self._senders: dict[tuple[IPv6Address, str | None], socket.socket] = {}
        self._memory = FragmentMemory()
        self._answers = RateLimit(ANSWERS_PER_SECOND, ANSWERS_PER_SECOND)
        self._identification = int.from_bytes(os.urandom(4), "big")
        self._complained: set[tuple[IPv6Address, int]] = set()

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Create or adopt the device and open the sockets; OSError says what is not allowed or missing."""
        self._loop = asyncio.get_running_loop()
        self._tun = Tun(self._device, self._mtu - IPV6_HEADER)
        self._receiver = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, Protocol.IPV6)
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        self._receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._errors = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        block = bytearray(b"\xff" * 32)  # a set bit blocks that type; words are in host order
        word = struct.unpack_from("=I", block)[0] & ~(1 << _PACKET_TOO_BIG)
        struct.pack_into("=I", block, 0, word)
        self._errors.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(block))
        self._loop.add_reader(self._tun.fd, self._read_tun)
        self._loop.add_reader(self._receiver, self._read_tunnels)
        self._loop.add_reader(self._errors, self._read_errors)

    def stop(self, *, remove: bool) -> None:
        """Close everything; with `remove` the device disappears."""
        self._loop.remove_reader(self._tun.fd)
        for sock in (self._receiver, self._errors):
            self._loop.remove_reader(sock)
            sock.close()
        for sock in self._senders.values():
            sock.close()
        self._senders.clear()
        self._tun.close(remove=remove)

    def set_table(self, table: ForwardingTable) -> None:
        """Take over a table: the indexes are made anew, sockets of addresses that are gone are closed."""
        self._table = table
        self._flows.clear()
        self._arrivals.clear()
        self._complained.clear()
        by_remote: dict[IPv6Address, dict[IPv6Address, Node]] = {}
        owners: dict[int, dict[int, Node]] = {128: {}}
        wanted = set()
        for home, node in table.nodes.items():
            owners[128][int(home)] = node
            for prefix in node.prefixes:
                shift = 128 - prefix.prefixlen
                owners.setdefault(prefix.prefixlen, {})[int(prefix.network_address) >> shift] = node
            for tunnel in node.tunnels:
                by_remote.setdefault(tunnel.remote, {})[home] = node
                wanted.add((tunnel.local, tunnel.device))
        self._owners = dict(sorted(owners.items(), reverse=True))
        self._by_remote = {
            remote: ForwardingTable(table.end, table.address, nodes) for remote, nodes in by_remote.items()
        }
        for key in self._senders.keys() - wanted:
            self._senders.pop(key).close()

    def counters(self) -> Counters:
        """The counters, live."""
        return self._counters

    def deliver(self, packet: bytes) -> None:
        """Write a packet to the device, so that the kernel receives it."""
        try:
            os.write(self._tun.fd, packet)
        except OSError as error:
            self._refused(error)

    # --- from the device into tunnels -------------------------------------------------------------------------------

    def _read_tun(self) -> None:
        read, fd, flows = os.read, self._tun.fd, self._flows
        for _ in range(BATCH):
            try:
                data = read(fd, 65536)
            except BlockingIOError:
                return
            size = len(data)
            mtu, ways = flows.get(data[:4] + data[6:7] + data[8:44], _UNKNOWN)
            if size > mtu:
                self._classify(data)
                continue
            length = size.to_bytes(2, "big")
            for way in ways:
                try:
                    way.socket.sendto(way.head + length + way.tail + data, way.address)
                except OSError as error:
                    self._send_failed(way.tunnel, error)
                else:
                    way.counters.packets_out += 1
                    way.counters.bytes_out += size

    def _classify(self, data: bytes) -> None:
        """The reference decides; an ordinary decision is remembered for its flow."""
        self._identification = self._identification + 1 & 0xFFFFFFFF
        table = self._narrow(data)
        verdict = encapsulate(table, data, self._memory, self._identification)
        if verdict.drop is not None:
            self._dropped(verdict)
            return
        assert verdict.node is not None
        home = verdict.node.home_address
        whole: list[_Way] = []
        sent: set[int] = set()
        for tunnel, outer in verdict.sent:
            sock = self._sender(tunnel)
            counters = self._counters.tunnels.setdefault((home, tunnel.bid), TunnelCounters())
            try:
                if sock is None:
                    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
                sock.sendto(outer, (str(tunnel.remote), 0))
            except OSError as error:
                self._send_failed(tunnel, error)
                continue
            if tunnel.bid not in sent:  # fragments of one packet count once
                sent.add(tunnel.bid)
                counters.packets_out += 1
                counters.bytes_out += len(data)
            whole.append(_Way(tunnel, outer[:4], sock, counters))
        if whole and data[6] in _ORDINARY and len(whole) == len(sent) == len({id(t) for t, _ in verdict.sent}):
            if len(self._flows) >= FLOWS:
                self._flows.clear()
            mtu = min(way.tunnel.mtu for way in whole)
            self._flows[data[:4] + data[6:7] + data[8:44]] = mtu, tuple(whole)

    def _narrow(self, data: bytes) -> ForwardingTable:
        """The part of the table that can concern this packet: its owner by longest prefix, found by hashing."""
        if self._table.end is End.MOBILE_NODE or len(data) < IPV6_HEADER:
            return self._table
        destination = int.from_bytes(data[24:40], "big")
        for length, owners in self._owners.items():
            node = owners.get(destination >> 128 - length)
            if node is not None:
                return ForwardingTable(self._table.end, self._table.address, {node.home_address: node})
        return ForwardingTable(self._table.end, self._table.address)

    def _sender(self, tunnel: Tunnel) -> socket.socket | None:
        """The socket that is bound to the tunnel's local address, so that `from` rules apply, and to its device."""
        key = tunnel.local, tunnel.device
        sock = self._senders.get(key)
        if sock is not None:
            return sock
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            if tunnel.device is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tunnel.device.encode())
            sock.bind((str(tunnel.local), 0))
        except OSError as error:
            sock.close()
            self._complain(tunnel, error)
            return None
        self._senders[key] = sock
        return sock

    def _send_failed(self, tunnel: Tunnel, error: OSError) -> None:
        """What the kernel refused is counted; a message that is too long teaches the path MTU."""
        self._counters.drops[DropReason.SEND_FAILED] += 1
        if error.errno == errno.EMSGSIZE and tunnel.mtu + IPV6_HEADER > MINIMUM_MTU:
            self._on_path_mtu(tunnel.local, tunnel.remote, MINIMUM_MTU)
        elif error.errno in (errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL, errno.EINVAL):
            stale = self._senders.pop((tunnel.local, tunnel.device), None)  # the address or device is another one now
            if stale is not None:
                stale.close()
            self._flows.clear()
        self._complain(tunnel, error)

    def _complain(self, tunnel: Tunnel, error: OSError) -> None:
        """One log line per tunnel and kind of error, until the table changes."""
        key = tunnel.remote, error.errno or 0
        if error.errno not in (errno.EAGAIN, errno.ENOBUFS) and key not in self._complained:
            self._complained.add(key)
            log.event(
                "tunnel_send_failed",
                "warning",
                local=str(tunnel.local),
                remote=str(tunnel.remote),
                error=os.strerror(error.errno or 0),
            )

    # --- from tunnels to the device ---------------------------------------------------------------------------------

    def _read_tunnels(self) -> None:
        receive, write, fd = self._receiver.recvmsg, os.write, self._tun.fd
        arrivals = self._arrivals
        ancillary = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
        for _ in range(BATCH):
            try:
                data, control, _, sender = receive(65536, ancillary)
            except BlockingIOError:
                return
            destination, traffic_class = b"", 0
            for _, kind, value in control:
                if kind == socket.IPV6_PKTINFO:
                    destination = value[:16]
                elif kind == socket.IPV6_TCLASS:
                    traffic_class = value[0]
            # the flow of this packet was found to be right before: only ECN and length remain to be looked at
            counters = arrivals.get((sender[0], destination, traffic_class & 3, data[:2] + data[8:40]))
            if counters is None or len(data) != IPV6_HEADER + (data[4] << 8 | data[5]):
                self._arrived(sender[0], destination, traffic_class, data)
                continue
            try:
                write(fd, data)
            except OSError as error:
                self._refused(error)
            else:
                counters.packets_in += 1
                counters.bytes_in += len(data)

    def _arrived(self, sender: str, destination: bytes, traffic_class: int, data: bytes) -> None:
        source = IPv6Address(sender.partition("%")[0])
        known = self._by_remote.get(source) or ForwardingTable(self._table.end, self._table.address)
        verdict = decapsulate(known, source, IPv6Address(destination), traffic_class, data)
        if verdict.delivered is None:
            self._dropped(verdict)
            return
        assert verdict.node is not None and verdict.bid is not None
        counters = self._counters.tunnels.setdefault((verdict.node.home_address, verdict.bid), TunnelCounters())
        try:
            os.write(self._tun.fd, verdict.delivered)
        except OSError as error:
            self._refused(error)
            return
        counters.packets_in += 1
        counters.bytes_in += len(verdict.delivered)
        if verdict.delivered == data:
            if len(self._arrivals) >= FLOWS:
                self._arrivals.clear()
            self._arrivals[sender, destination, traffic_class & 3, data[:2] + data[8:40]] = counters

    def _refused(self, error: OSError) -> None:
        """The kernel did not take a packet from the device (it is down, or out of memory)."""
        self._counters.drops[DropReason.SEND_FAILED] += 1
        if error.errno not in (errno.EIO, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL):
            raise error

    def _dropped(self, verdict: Verdict) -> None:
        assert verdict.drop is not None
        self._counters.drops[verdict.drop] += 1
        if verdict.answer is not None and self._answers.allow(self._loop.time()):
            self.deliver(verdict.answer)

    def _read_errors(self) -> None:
        """ICMPv6 Packet Too Big about our own tunnel packets."""
        for _ in range(BATCH):
            try:
                data = self._errors.recv(65536)
            except BlockingIOError:
                return
            if len(data) >= 8 and data[0] == _PACKET_TOO_BIG:
                changed = path_mtu(self._table, int.from_bytes(data[4:8], "big"), data[8:])
                if changed is not None:
                    self._on_path_mtu(changed.local, changed.remote, changed.mtu)
