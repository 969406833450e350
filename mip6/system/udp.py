"""The UDP sockets of encapsulated packets (RFC 5555 §4.1): one owner for signalling and data, which share a port.

What arrives is told apart by looking inside (`mip6.udp`): signalling goes to the engine with the ends it came between,
all else to the data plane. The kernel looks first and has a socket for each (`mip6.system.udpsignalling`): signalling
goes by asyncio-dgram, data by plain sockets with their control messages, for RFC 6040 needs the traffic class beside
each packet (docs/decisions/udp-encapsulation.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

from mip6.actions import UdpEndpoint
from mip6.events import PacketReceived, PathMtuChanged
from mip6.forwarding import MINIMUM_MTU, IPAddress
from mip6.pathmtu import MINIMUM_IPV4_MTU
from mip6.system import log
from mip6.system.udpsignalling import MAXIMUM_DATAGRAM, SignallingSocket, SignallingStream, steer
from mip6.udp import UdpEnds, is_signalling

DATAGRAMS_PER_TURN = 64  # then the loop sees to its other work
SENDERS = 65536  # remembered for each socket
BUFFER = 4 << 20
_CONTROL_ROOM = 512  # the error queue quotes an address beside the error
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_NO_CHECK = 32, 33, 11
_IP_RECVERR, _IP_MTU_DISCOVER, _IP_RECVTOS, _IP_FREEBIND = 11, 10, 13, 15
_IPV6_RECVERR, _IPV6_MTU_DISCOVER, _IPV6_AUTOFLOWLABEL, _IPV6_FREEBIND = 25, 23, 70, 78
_PMTUDISC_WANT = 1  # don't fragment on the way; what is larger than the known path MTU is fragmented here
_UDP_NO_CHECK6_TX, _UDP_NO_CHECK6_RX = 101, 102  # RFC 6935
_MSG_ERRQUEUE = 0x2000
_ERROR = struct.Struct("=IBBBxII")  # struct sock_extended_err: errno, origin, type, code, info, data

AnySocket = TypeVar("AnySocket", bound=socket.socket)
OnSignalling = Callable[[PacketReceived], None]
OnData = Callable[[UdpEnds, int, bytes], None]
"""A data packet: the ends it came between, the outer traffic class, the inner packet."""
OnTooBig = Callable[[UdpEnds, int, bytes], None]
"""A datagram was larger than its path carries: its ends, the path MTU, as much of the inner packet as is quoted."""
OnPathMtu = Callable[[PathMtuChanged], None]


@dataclass(frozen=True, slots=True)
class _Sockets:
    """What is bound to one end."""

    data: socket.socket
    signalling: SignallingStream


class UdpSockets:
    """The sockets of one agent. `own` is its inner address, which signalling is for.

    `on_data` and `on_too_big` are set by the data plane; without, data is counted and dropped. `counts` has what was
    dropped or could not be sent, by reason. With `zero_checksum` datagrams over IPv6 carry and may carry none
    (RFC 6935).
    """

    def __init__(
        self, own: IPv6Address, on_signalling: OnSignalling, on_path_mtu: OnPathMtu, *, zero_checksum: bool = False
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.on_data: OnData | None = None
        self.on_too_big: OnTooBig | None = None
        self._own, self._on_signalling, self._on_path_mtu = own, on_signalling, on_path_mtu
        self._zero_checksum = zero_checksum
        self._sockets: dict[UdpEndpoint, _Sockets] = {}
        self._by_local: dict[tuple[IPAddress, int], _Sockets] = {}
        self._refused: set[tuple[UdpEndpoint, int]] = set()

    def set_endpoints(self, endpoints: Iterable[UdpEndpoint]) -> None:
        """From now on these sockets are open, and no others. One that cannot be opened is logged and tried again at the
        next call."""
        wanted = set(endpoints)
        for gone in self._sockets.keys() - wanted:
            self._close(gone)
        refused: set[tuple[UdpEndpoint, int]] = set()
        for endpoint in wanted - self._sockets.keys():
            try:
                self._sockets[endpoint] = self._by_local[endpoint.address, endpoint.port] = self._open(endpoint)
            except OSError as error:
                refused.add((endpoint, error.errno or 0))
                if (endpoint, error.errno or 0) not in self._refused:
                    log.event("udp_socket_refused", "warning", what=endpoint, error=error.strerror)
        self._refused = refused

    def send(self, ends: UdpEnds, packet: bytes, traffic_class: int = 0) -> None:
        """Send one packet inside UDP; OSError as sendmsg(2), ENOTCONN when no socket is bound to the local end."""
        UdpPath(self, ends, traffic_class).send(packet)

    def bound(self, ends: UdpEnds) -> socket.socket:
        """The socket for data that is bound to the local end; OSError when there is none."""
        return self._bound(ends).data

    def _bound(self, ends: UdpEnds) -> _Sockets:
        sockets = self._by_local.get((ends.local, ends.local_port))
        if sockets is None:
            raise OSError(errno.ENOTCONN, f"no UDP socket at {ends.local} port {ends.local_port}")
        return sockets

    def send_signalling(self, ends: UdpEnds, packet: bytes) -> None:
        """Send a message of the engine; what the kernel refuses is counted and logged."""
        try:
            self._bound(ends).signalling.send(packet, (str(ends.remote), ends.remote_port))
        except OSError as error:
            self._not_sent(error, ends.local, str(ends.remote), ends.remote_port)

    def _not_sent(self, error: OSError, local: IPAddress, remote: str, port: int) -> None:
        self.counts[f"send_{errno.errorcode.get(error.errno or 0, 'unknown').lower()}"] += 1
        log.event("packet_not_sent", "warning", local=local, remote=remote, port=port, error=error.strerror)

    def close(self) -> None:
        """Close all sockets."""
        for endpoint in list(self._sockets):
            self._close(endpoint)

    # --- sockets ----------------------------------------------------------------------------------------------------

    def _open(self, endpoint: UdpEndpoint) -> _Sockets:
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(self._socket(socket.socket, endpoint))
            steer(data, self._own)
            signalling = stack.enter_context(self._socket(SignallingSocket, endpoint))
            signalling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            signalling.errors = lambda: self.read_errors(signalling, endpoint.address)
            signalling.unsent = lambda error, to: self._not_sent(error, endpoint.address, *to)
            for sock in (data, signalling):
                sock.bind((str(endpoint.address), endpoint.port))
            stack.pop_all()
        senders: dict[Any, UdpEnds] = {}
        asyncio.get_running_loop().add_reader(data, self._readable, data, endpoint, senders)

        def take(inner: bytes, source: tuple[Any, ...]) -> None:
            self._take(endpoint, _ends(endpoint, senders, source), 0, inner)

        return _Sockets(data, SignallingStream(signalling, take))

    def _socket(self, kind: type[AnySocket], endpoint: UdpEndpoint) -> AnySocket:
        """One that is not bound yet."""
        ipv6 = isinstance(endpoint.address, IPv6Address)
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        sock = kind(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
            if ipv6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                for option in (_IPV6_FREEBIND, socket.IPV6_RECVTCLASS, _IPV6_RECVERR):
                    sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_WANT)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_AUTOFLOWLABEL, 0)  # 0, as on all tunnel packets
                if self._zero_checksum:
                    sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_TX, 1)
                    sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)
            else:
                for option in (_IP_FREEBIND, _IP_RECVTOS, _IP_RECVERR):
                    sock.setsockopt(socket.IPPROTO_IP, option, 1)
                sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_WANT)
                sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)  # what is inside has its own checksum
            if endpoint.device is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, endpoint.device.encode())
        except OSError:
            sock.close()
            raise
        return sock

    def _close(self, endpoint: UdpEndpoint) -> None:
        sockets = self._sockets.pop(endpoint)
        if self._by_local.get((endpoint.address, endpoint.port)) is sockets:
            del self._by_local[endpoint.address, endpoint.port]
        sockets.signalling.close()
        asyncio.get_running_loop().remove_reader(sockets.data)
        sockets.data.close()

    # --- in ---------------------------------------------------------------------------------------------------------

    def _readable(self, sock: socket.socket, endpoint: UdpEndpoint, senders: dict[Any, UdpEnds]) -> None:
        """Read a batch."""
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                inner, control, _, source = sock.recvmsg(MAXIMUM_DATAGRAM, _CONTROL_ROOM)
            except BlockingIOError:
                self.read_errors(sock, endpoint.address)
                return
            except OSError as error:  # an ICMP error; where the queue had no room for it, its number is all there is
                if not self.read_errors(sock, endpoint.address):
                    self.counts[f"udp_{errno.errorcode.get(error.errno or 0, 'unknown').lower()}"] += 1
                continue
            ends = _ends(endpoint, senders, source)
            self._take(endpoint, ends, _received_class(control), inner)
            if sock.fileno() < 0:  # closed by what a receiver did
                return

    def _take(self, endpoint: UdpEndpoint, ends: UdpEnds, traffic_class: int, inner: bytes) -> None:
        """Hand over; the kernel may have chosen the other socket while one of them was not bound yet."""
        if is_signalling(inner, self._own):
            self._on_signalling(PacketReceived(inner, endpoint.device or "", outer=ends))
        elif self.on_data is not None:
            self.on_data(ends, traffic_class, inner)
        else:
            self.counts["udp_data_not_taken"] += 1

    def read_errors(self, sock: socket.socket, local: IPAddress) -> bool:
        """Empty the error queue: path MTUs are reported, the rest counted. Whether there was anything.

        The kernel hands on what an ICMP message says, which anybody can send: one that names less than any path has is
        not believed (RFC 8201 §4).
        """
        found = False
        least = MINIMUM_MTU if isinstance(local, IPv6Address) else MINIMUM_IPV4_MTU
        while True:
            try:
                inner, control, _, about = sock.recvmsg(MINIMUM_MTU, _CONTROL_ROOM, _MSG_ERRQUEUE)
            except OSError:
                return found
            found = True
            for level, kind, data in control:
                if (level, kind) not in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    continue
                number, _, _, _, info, _ = _ERROR.unpack_from(data)
                if number == errno.EMSGSIZE and info >= least:
                    remote = ip_address(about[0].partition("%")[0])
                    if self.on_too_big is not None:
                        self.on_too_big(UdpEnds(local, remote, sock.getsockname()[1], about[1]), info, inner)
                    self._on_path_mtu(PathMtuChanged(local, remote, info))
                else:
                    self.counts[f"udp_{errno.errorcode.get(number, 'unknown').lower()}"] += 1


class UdpPath:
    """Datagrams of one traffic class to one far end, many times."""

    def __init__(self, sockets: UdpSockets, ends: UdpEnds, traffic_class: int) -> None:
        self._sockets, self._ends = sockets, ends
        self._control = _traffic_class(ends.local, traffic_class) if traffic_class else []
        self._address = str(ends.remote), ends.remote_port
        self._socket: socket.socket | None = None

    def send(self, packet: bytes) -> None:
        """Send one packet; OSError as `UdpSockets.send`."""
        sock = self._socket
        if sock is None or sock.fileno() < 0:  # the endpoints may have changed
            sock = self._socket = self._sockets.bound(self._ends)
        try:
            sock.sendmsg([packet], self._control, 0, self._address)
        except BlockingIOError:
            raise
        except OSError:  # it may be about an earlier datagram (ICMP), and is reported once
            if not self._sockets.read_errors(sock, self._ends.local):
                raise
            sock.sendmsg([packet], self._control, 0, self._address)


def _ends(endpoint: UdpEndpoint, senders: dict[Any, UdpEnds], source: tuple[Any, ...]) -> UdpEnds:
    """The ends of a datagram from this socket address; `senders` has those that have been met."""
    ends = senders.get(source)
    if ends is None:
        if len(senders) >= SENDERS:
            senders.clear()
        remote = ip_address(source[0].partition("%")[0])
        ends = senders[source] = UdpEnds(endpoint.address, remote, endpoint.port, source[1])
    return ends


def _traffic_class(local: IPAddress, value: int) -> list[tuple[int, int, bytes]]:
    data = struct.pack("=i", value)
    if isinstance(local, IPv4Address):
        return [(socket.IPPROTO_IP, socket.IP_TOS, data)]
    return [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, data)]


def _received_class(control: list[tuple[int, int, bytes]]) -> int:
    """The outer traffic class among control messages: an octet over IPv4, an int over IPv6."""
    for level, kind, data in control:
        if level == socket.IPPROTO_IP and kind == socket.IP_TOS:
            return data[0]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
            return int(struct.unpack("=i", data)[0])
    return 0
