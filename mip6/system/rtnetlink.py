"""A synchronous netlink transport: pyroute2 reads and writes rtnetlink's messages, a plain socket carries them.

What pyroute2 does not know goes as octets: the `raw` methods, with `attribute` and `parse_attributes` beside them.

The kernel answers a request within the system call, so there is nothing to await; and what asks (the watcher, the
applier) runs inside the daemons' event loop, where pyroute2's own synchronous sockets cannot.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mip6.forwarding import IPAddress

# linux/rtnetlink.h: NEW, DEL and GET of each kind of object follow one another.
LINK, ADDRESS, ROUTE, NEIGHBOUR, RULE = 16, 20, 24, 28, 32
_NEW, _DELETE, _GET = 0, 1, 2
_MESSAGES = {LINK: ifinfmsg, ADDRESS: ifaddrmsg, ROUTE: rtmsg, NEIGHBOUR: ndmsg, RULE: fibmsg}

GET_LINK, GET_ADDRESS, GET_ROUTE = LINK + _GET, ADDRESS + _GET, ROUTE + _GET

GROUP_LINK, GROUP_TC, GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE, GROUP_IPV6_RULE = 1, 4, 9, 11, 19  # enum rtnetlink_groups
GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV4_RULE = 5, 7, 8

_REQUEST, _ACK, _DUMP, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400  # linux/netlink.h, nlmsg_flags
_DUMP_INTERRUPTED = 0x10
_ACK_TLVS = 0x200
_KIND = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_ERROR, _DONE = 2, 3  # nlmsg_type
_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 1, 10, 11, 12
_RECEIVE_FORCE = 33  # SO_RCVBUFFORCE
_RECEIVE_BUFFER = 4 * 1024 * 1024
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port id
_MAXIMUM_MESSAGE = 256 * 1024
_DUMP_ATTEMPTS = 10

Attributes = Iterable[tuple[str, object]]

OWN_PROTOCOL = 109  # marks what the agent owns: rtm_protocol, FRA_PROTOCOL, IFA_PROTO, NDA_PROTOCOL
DEFAULT_METRIC = 1024  # what the kernel makes of an IPv6 route without a metric
UNSPECIFIED: dict[int, IPAddress] = {socket.AF_INET: IPv4Address(0), socket.AF_INET6: IPv6Address(0)}
INET: dict[str, object] = {"family": socket.AF_INET}
INET6: dict[str, object] = {"family": socket.AF_INET6}
FAMILIES = (INET6, INET)
UNIVERSE, ON_LINK, UNICAST = 0, 253, 1  # RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RTN_UNICAST
CLONED = 0x200  # RTM_F_CLONED: a cached exception (path MTU), not a route


def _socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    sock.bind((0, 0))
    return sock


def attributes(message: Any) -> dict[str, Any]:
    """The attributes of a decoded message or next hop by name."""
    return {item[0]: item[1] for item in message["attrs"]}


def next_hops(attrs: dict[str, Any]) -> Iterator[tuple[int, IPAddress | None]]:
    """Interface index and gateway (None: on-link) of each next hop of a route."""
    hops = [(hop["oif"], attributes(hop)) for hop in attrs.get("RTA_MULTIPATH", ())]
    if "RTA_OIF" in attrs:
        hops.append((attrs["RTA_OIF"], attrs))
    for index, hop in hops:
        yield index, ip_address(hop["RTA_GATEWAY"]) if "RTA_GATEWAY" in hop else None


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute (struct nlattr) with its padding."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """The attributes that `data` consists of, by kind."""
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found[kind & _KIND] = data[at + 4 : at + length]
        at += max(length, 4) + 3 & ~3
    return found


class Requests:
    """Asks and changes. Errors of the kernel are raised as OSError with its explanation, where it gives one."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = _socket(protocol)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self.port: int = self._socket.getsockname()[0]
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def dump(self, kind: int, fields: Mapping[str, object], attrs: Attributes = ()) -> list[Any]:
        """All objects of a kind; the kernel filters by `fields` and `attrs` where it can (strict checking)."""
        for _ in range(_DUMP_ATTEMPTS):
            found: list[Any] = []
            self._send(kind, _GET, _REQUEST | _DUMP, fields, attrs)
            if self._collect(_MESSAGES[kind], found):
                return found
        raise OSError(errno.EAGAIN, f"netlink: {_DUMP_ATTEMPTS} dumps in a row were interrupted by changes")

    def raw_dump(self, type_: int, body: bytes) -> list[bytes]:
        """All answers to a message of this type and content, each without its netlink header."""
        for _ in range(_DUMP_ATTEMPTS):
            found: list[bytes] = []
            self._send_octets(type_, _REQUEST | _DUMP, body)
            if self._collect(None, found):
                return found
        raise OSError(errno.EAGAIN, f"netlink: {_DUMP_ATTEMPTS} dumps in a row were interrupted by changes")

    def raw_change(self, type_: int, body: bytes, *, create: bool = False, exclusive: bool = False) -> None:
        """One change. `create`: of what is not there; `exclusive`: EEXIST when it is, else it is replaced."""
        flags = _REQUEST | _ACK | _CREATE * create | _EXCLUSIVE * exclusive
        self._send_octets(type_, flags, body)
        self._collect(None, [])

    def add(self, kind: int, fields: Mapping[str, object], attrs: Attributes) -> None:
        """Create an object; EEXIST when there is one."""
        self._send(kind, _NEW, _REQUEST | _ACK | _CREATE | _EXCLUSIVE, fields, attrs)
        self._collect(None, [])

    def delete(self, kind: int, fields: Mapping[str, object], attrs: Attributes) -> None:
        self._send(kind, _DELETE, _REQUEST | _ACK, fields, attrs)
        self._collect(None, [])

    def _send(self, kind: int, verb: int, flags: int, fields: Mapping[str, object], attrs: Attributes) -> None:
        message = _MESSAGES[kind]()
        for name, value in fields.items():
            message[name] = value
        message["attrs"] = list(attrs)
        self._sequence += 1
        header = message["header"]
        header["type"], header["flags"], header["sequence_number"] = kind + verb, flags, self._sequence
        message.encode()
        self._socket.send(message.data)

    def _send_octets(self, type_: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), type_, flags, self._sequence, 0) + body)

    def _collect(self, message_type: Callable[[bytes], Any] | None, found: list[Any]) -> bool:
        """Read one whole answer into `found`: whether it is untouched by concurrent changes. Octets without a type."""
        whole = True
        while True:
            data = self._socket.recv(_MAXIMUM_MESSAGE)
            offset = 0
            while offset < len(data):
                length, type_, flags, sequence, _ = _HEADER.unpack_from(data, offset)
                if sequence == self._sequence:
                    whole = whole and not flags & _DUMP_INTERRUPTED
                    if type_ in (_ERROR, _DONE):
                        _raise_error(data[offset : offset + length], flags)
                        return whole
                    if message_type is None:
                        found.append(data[offset + _HEADER.size : offset + length])
                    else:
                        message = message_type(data[offset : offset + length])
                        message.decode()
                        found.append(message)
                offset += length + 3 & ~3


def _raise_error(message: bytes, flags: int) -> None:
    """OSError if an acknowledgement (struct nlmsgerr) or the end of a dump carries an error."""
    number = -struct.unpack_from("=i", message, _HEADER.size)[0] if len(message) >= _HEADER.size + 4 else 0
    if not number:
        return
    text = os.strerror(number)
    offset = _HEADER.size + 4 + _HEADER.size  # the request's header stands between the number and the attributes
    while flags & _ACK_TLVS and offset + 4 <= len(message):
        length, type_ = struct.unpack_from("=HH", message, offset)
        if type_ == 1:  # NLMSGERR_ATTR_MSG
            text += ": " + message[offset + 4 : offset + length].rstrip(b"\0").decode()
        offset += max(length, 4) + 3 & ~3
    raise OSError(number, text)


class Notifications:
    """Tells that something changed, not what: whoever wants to know asks again."""

    def __init__(self, *groups: int, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = _socket(protocol)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, _RECEIVE_FORCE, _RECEIVE_BUFFER)
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self, own_port: int = 0, types: Container[int] | None = None) -> bool:
        """Read all that is there: True if anybody but `own_port` changed something, or if news were lost. Only
        messages of these `types` count."""
        changed = False
        while True:
            try:
                data = self._socket.recv(_MAXIMUM_MESSAGE)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True
                continue
            offset = 0
            while offset < len(data) and not changed:
                length, type_, _, _, port = _HEADER.unpack_from(data, offset)
                changed = (not own_port or port != own_port) and (types is None or type_ in types)
                offset += length + 3 & ~3
