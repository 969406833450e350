"""Signalling packets in and out.

In: one AF_PACKET socket sees every packet that is meant for this machine, a classic BPF filter picks those of Mobile
IPv6. `Guard` keeps the kernel, which knows nothing of them, from answering with ICMPv6 Parameter Problem. Out: raw
sockets that send whole packets unmodified, each bound to its source address so that rules `from` it apply.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import re
import socket
import struct
import subprocess
from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address

from mip6.actions import SendPacket
from mip6.events import PacketReceived
from mip6.numbers import HOME_ADDRESS_OPTION, ROUTING_TYPE_2, Icmp6Type, Protocol
from mip6.system import log
from mip6.system.firewall import Firewall
from mip6.system.interfaces import interface_index

IPV6_HEADER = 40
ETH_P_ALL, ETH_P_IPV6 = 0x0003, 0x86DD
MAXIMUM_PACKET = 65536
PACKETS_PER_TURN = 64  # then the loop sees to its other work
SOCKETS_KEPT = 64  # sending sockets, one for each source address and interface
RECEIVE_BUFFER = 4 * 1024 * 1024

_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_IPV6_FREEBIND = 78


# --- the filter ------------------------------------------------------------------------------------------------------

# linux/filter.h: classic BPF instructions. The packet begins with the IPv6 header.
LOAD_WORD, _LOAD_HALF, LOAD_OCTET, _LOAD_OCTET_AT_X = 0x20, 0x28, 0x30, 0x50
_SET_X, _X_FROM_A, _STORE, _RECALL = 0x01, 0x07, 0x02, 0x60
_ADD, _SHIFT_LEFT, _ADD_X, RETURN = 0x04, 0x64, 0x0C, 0x06
IF_EQUAL, _IF_GREATER, _IF_AT_LEAST = 0x15, 0x25, 0x35
INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_ANCILLARY = 0xFFFFF000  # SKF_AD_OFF
_EXTENSION_HEADERS = 4  # how many in front of the Mobility Header are looked through


def signalling_filter() -> bytes:
    """A classic BPF program (array of struct sock_filter) that passes incoming signalling packets of Mobile IPv6.

    Passed are packets addressed to this host with a Mobility Header or ICMPv6 144 to 147, behind hop-by-hop options and
    routing headers too, and all with destination options, of which `is_signalling` looks at each.
    """
    program: list[tuple[int, str, str, int]] = []  # code, label if true, label if false, operand
    labels: dict[str, int] = {}

    def emit(code: int, operand: int = 0, true: str = "", false: str = "") -> None:
        program.append((code, true, false, operand))

    emit(_LOAD_HALF, _ANCILLARY + 0)  # SKF_AD_PROTOCOL
    emit(IF_EQUAL, ETH_P_IPV6, false="reject")
    emit(LOAD_WORD, _ANCILLARY + 4)  # SKF_AD_PKTTYPE
    emit(IF_EQUAL, socket.PACKET_HOST, false="reject")
    emit(_SET_X, IPV6_HEADER)
    emit(LOAD_OCTET, 6)  # Next Header
    for depth in range(_EXTENSION_HEADERS + 1):
        emit(IF_EQUAL, Protocol.MOBILITY, true="accept")
        emit(IF_EQUAL, Protocol.DESTINATION_OPTIONS, true="accept")
        emit(IF_EQUAL, Protocol.ICMPV6, true="icmpv6")
        if depth == _EXTENSION_HEADERS:
            break
        emit(IF_EQUAL, Protocol.ROUTING, true=f"skip{depth}")
        emit(IF_EQUAL, Protocol.HOP_BY_HOP, false="reject")
        labels[f"skip{depth}"] = len(program)
        emit(_LOAD_OCTET_AT_X, 0)
        emit(_STORE, 0)
        emit(_LOAD_OCTET_AT_X, 1)
        emit(_ADD, 1)
        emit(_SHIFT_LEFT, 3)
        emit(_ADD_X)
        emit(_X_FROM_A)
        emit(_RECALL, 0)
    labels["reject"] = len(program)
    emit(RETURN, 0)
    labels["icmpv6"] = len(program)
    emit(_LOAD_OCTET_AT_X, 0)
    emit(_IF_AT_LEAST, Icmp6Type.HOME_AGENT_DISCOVERY_REQUEST, false="reject2")
    emit(_IF_GREATER, Icmp6Type.MOBILE_PREFIX_ADVERTISEMENT, true="reject2")
    labels["accept"] = len(program)
    emit(RETURN, MAXIMUM_PACKET)
    labels["reject2"] = len(program)  # jumps go forward only
    emit(RETURN, 0)
    code = b""
    for at, (operation, true, false, operand) in enumerate(program):
        jumps = (labels[name] - at - 1 if name else 0 for name in (true, false))
        code += INSTRUCTION.pack(operation, *jumps, operand)
    return code


def attach_filter(sock: socket.socket, code: bytes) -> None:
    """From now on the kernel queues only what this classic BPF program passes; what waits already stays."""
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // INSTRUCTION.size, ctypes.addressof(held))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def is_signalling(packet: bytes) -> bool:
    """Whether an IPv6 packet has a Mobility Header, a Home Address option or an ICMPv6 message of Mobile IPv6."""
    if len(packet) < IPV6_HEADER:
        return False
    next_header, at = packet[6], IPV6_HEADER
    while next_header in (Protocol.HOP_BY_HOP, Protocol.ROUTING, Protocol.DESTINATION_OPTIONS):
        if at + 2 > len(packet):
            return False
        end = at + 8 * (packet[at + 1] + 1)
        if next_header == Protocol.DESTINATION_OPTIONS and _has_home_address(packet[at + 2 : end]):
            return True
        next_header, at = packet[at], end
    if next_header == Protocol.ICMPV6:
        return (
            at < len(packet)
            and Icmp6Type.HOME_AGENT_DISCOVERY_REQUEST <= packet[at] <= Icmp6Type.MOBILE_PREFIX_ADVERTISEMENT
        )
    return next_header == Protocol.MOBILITY


def _has_home_address(options: bytes) -> bool:
    at = 0
    while at < len(options):
        if options[at] == HOME_ADDRESS_OPTION:
            return True
        at += 1 if options[at] == 0 or at + 1 == len(options) else 2 + options[at + 1]  # 0: Pad1 has no length
    return False


# --- in --------------------------------------------------------------------------------------------------------------


class SignallingTap:
    """Hands every incoming signalling packet to `on_packet`, whole, as it was on the wire, from whichever interface.

    Packets that this machine only routes show too, and firewall rules do not apply: the receiver looks at the
    destination and at the authentication, never at the mere arrival. Fragments are not put together.
    """

    def __init__(self, on_packet: Callable[[PacketReceived], None]) -> None:
        self._on_packet = on_packet
        self._loop: asyncio.AbstractEventLoop | None = None
        # Not ETH_P_IPV6: such a socket would not see what tc ingress takes away. Until the filter is attached it hears
        # everything, so `_readable` looks at each packet once more.
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        attach_filter(self._socket, signalling_filter())

    def start(self) -> None:
        """Inside a running loop: packets that came since the tap was made are handed over in its next turn."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Stop listening; `on_packet` is not called any more."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._loop = None
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(PACKETS_PER_TURN):
            if self._loop is None:  # closed by what `on_packet` did
                return
            try:
                data, (interface, protocol, kind, _, source) = self._socket.recvfrom(MAXIMUM_PACKET)
            except BlockingIOError:
                return
            packet = data[: IPV6_HEADER + int.from_bytes(data[4:6], "big")]  # without the padding of short frames
            if protocol == ETH_P_IPV6 and kind == socket.PACKET_HOST and is_signalling(packet):
                self._on_packet(PacketReceived(packet, interface, source))


class GuardError(Exception):
    """The nft table could not be installed or removed; the text is nft's."""


class Guard:
    """An nft table that drops signalling packets on their way to the kernel's receiver, after the tap has seen them.

    A kernel without Mobile IPv6 answers each with Parameter Problem. The table is named after `device`, so each agent
    of a machine has its own; one that a crash left is replaced in the same transaction.
    """

    def __init__(self, device: str) -> None:
        self.table = re.sub(r"[^A-Za-z0-9_]", "_", device)

    def install(self) -> None:
        """Put the table in place. GuardError when nft is missing or refuses."""
        # nft skips extension headers in front of l4proto. The Home Address option stands at octet 46 of a packet whose
        # first extension header are destination options of the usual layout (RFC 6275 §6.3: alignment 8n+6).
        _nft(f"""
            add table ip6 {self.table}
            delete table ip6 {self.table}
            table ip6 {self.table} {{
                chain input {{
                    type filter hook input priority raw; policy accept;
                    meta l4proto {int(Protocol.MOBILITY)} drop
                    @nh,48,8 {int(Protocol.DESTINATION_OPTIONS)} @nh,368,8 {HOME_ADDRESS_OPTION} drop
                    rt type {ROUTING_TYPE_2} drop
                }}
            }}
        """)

    def is_installed(self) -> bool:
        """Whether a chain of the table is there."""
        firewall = Firewall()
        try:
            return any((one.family, one.table) == ("ip6", self.table) for one in firewall.chains())
        finally:
            firewall.close()

    def remove(self) -> None:
        """Take the table away; it may be gone already."""
        _nft(f"add table ip6 {self.table}\ndelete table ip6 {self.table}\n")


def _nft(rules: str) -> None:
    try:
        done = subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False, timeout=30)
    except FileNotFoundError as error:
        raise GuardError("the command nft is missing (Debian package nftables)") from error
    if done.returncode:
        raise GuardError(f"nft: {done.stderr.strip()}")


# --- out -------------------------------------------------------------------------------------------------------------


class PacketSender:
    """Sends whole IPv6 packets. What the kernel refuses is logged and counted in `failures` by errno name."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self._sockets: OrderedDict[tuple[IPv6Address, str | None, int], socket.socket] = OrderedDict()
        self._link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
        self._link.setblocking(False)

    def send(self, action: SendPacket) -> None:
        """Send `action.packet` as it is. ValueError when it is no IPv6 packet: that is the caller's bug."""
        packet = action.packet
        if len(packet) < IPV6_HEADER or packet[0] >> 4 != 6:
            raise ValueError(f"not an IPv6 packet: {packet[:IPV6_HEADER].hex()}")
        source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        try:
            if action.interface is not None and action.link_layer_destination:
                address = (action.interface, ETH_P_IPV6, 0, 0, action.link_layer_destination)
                self._link.sendto(packet, address)
            else:
                self._route(packet, source, destination, action.interface)
        except OSError as error:
            self.failures[errno.errorcode.get(error.errno or 0, "UNKNOWN")] += 1
            fields = {"source": source, "destination": destination, "interface": action.interface}
            log.event("packet_not_sent", "warning", **fields, octets=len(packet), error=error.strerror)

    def close(self) -> None:
        self._link.close()
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _route(self, packet: bytes, source: IPv6Address, destination: IPv6Address, interface: str | None) -> None:
        scope = interface_index(interface) if interface else 0
        key = source, interface, scope  # a device that was plugged in again is another one, of the same name
        if key not in self._sockets:
            self._sockets[key] = _raw_socket(source, interface, scope)
        self._sockets.move_to_end(key)
        while len(self._sockets) > SOCKETS_KEPT:
            self._sockets.popitem(last=False)[1].close()
        try:
            self._sockets[key].sendto(packet, (str(destination), 0, 0, scope))
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENXIO):
                raise
            self._sockets.pop(key).close()  # bound to an interface of that name that is gone
            self._sockets[key] = _raw_socket(source, interface, scope)
            self._sockets[key].sendto(packet, (str(destination), 0, 0, scope))


def _raw_socket(source: IPv6Address, interface: str | None, scope: int) -> socket.socket:
    """A socket that sends whole packets by the routes and rules for `source`, which need not be local."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind((str(source), 0, 0, scope))
    except OSError:
        sock.close()
        raise
    return sock
