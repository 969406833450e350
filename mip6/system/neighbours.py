"""Neighbour discovery that a home agent does for addresses that are not its own (RFC 6275 §10.4.1).

Before it takes an address over it checks that nobody else has it (RFC 4862 §5.4); then it tells the link. Answering
solicitations afterwards is the kernel's part: proxy neighbours.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from ipaddress import IPv6Address
from pathlib import Path

from mip6.numbers import Icmp6Type, Protocol
from mip6.system import log
from mip6.system.interfaces import interface_index
from mip6.system.sockets import (
    ETH_P_IPV6,
    IF_EQUAL,
    INSTRUCTION,
    IPV6_HEADER,
    LOAD_OCTET,
    LOAD_WORD,
    MAXIMUM_PACKET,
    RETURN,
    attach_filter,
)
from mip6.wire import internet_checksum, pseudo_header

ALL_NODES = IPv6Address("ff02::1")
UNSPECIFIED = IPv6Address("::")
TARGET_LINK_LAYER, NONCE = 2, 14  # options: RFC 4861 §4.6.1, RFC 3971 §5.3.2
ROUTER_FLAG, OVERRIDE_FLAG = 0x80000000, 0x20000000
RETRANS_TIMER = 1.0  # seconds, RFC 4861 §10: how long an answer to a DAD solicitation is waited for
MAX_NEIGHBOR_ADVERTISEMENT = 3  # RFC 4861 §10
HOP_LIMIT = 255
_MESSAGE = struct.Struct("!BBHI16s")  # type, code, checksum, flags or reserved, target

_IF_INET6 = Path("/proc/net/if_inet6")
_TENTATIVE, _DADFAILED = 0x40, 0x08  # IFA_F_*
_LINK_LOCAL_SCOPE = 0x20


async def check_duplicate(address: IPv6Address, interface: str) -> bool:
    """Whether somebody else on `interface` has `address` or is about to take it (RFC 4862 §5.4). Takes a second.

    True as well when the check cannot be made, with an error in the log: an address is not taken over on a guess.
    """
    loop = asyncio.get_running_loop()
    conflict: asyncio.Future[None] = loop.create_future()
    nonce = os.urandom(6)  # tells our own solicitation, looped back by the link, from another's (RFC 7527 §4)
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)
    try:
        with _link_socket(interface) as link, _membership(group, interface):

            def readable() -> None:
                """All that waits: on a busy machine this may be the only turn before the time is over."""
                while not conflict.done():
                    try:
                        data, (_, _, kind, _, _) = link.recvfrom(MAXIMUM_PACKET)
                    except BlockingIOError:
                        return
                    except OSError as error:  # the link went down (ENETDOWN)
                        conflict.set_exception(error)
                        return
                    if kind != socket.PACKET_OUTGOING and _claims(data, address, nonce):
                        conflict.set_result(None)

            attach_filter(link, _about(address))  # else what the link carries fills the queue before an answer comes

            loop.add_reader(link.fileno(), readable)
            try:
                body = bytes((NONCE, 1)) + nonce
                _send(link, interface, UNSPECIFIED, group, Icmp6Type.NEIGHBOR_SOLICITATION, 0, address, body)
                await asyncio.wait((conflict,), timeout=RETRANS_TIMER)
                if conflict.done():
                    conflict.result()
            finally:
                loop.remove_reader(link.fileno())
    except OSError as error:
        fields = {"address": address, "interface": interface, "error": error.strerror}
        log.event("duplicate_address_detection_impossible", "error", **fields)
        return True
    return conflict.done()


async def announce(address: IPv6Address, interface: str, router: bool) -> None:
    """Tell all nodes of `interface` that `address` is to be reached here from now on.

    Three unsolicited advertisements a second apart, O=1, S=0, R as `router` says (RFC 6275 §10.4.1, RFC 3963 §6.2).
    """
    try:
        with _link_socket(interface) as link:
            source, own = _own_address(interface), link.getsockname()[4]
            flags = OVERRIDE_FLAG | (ROUTER_FLAG if router else 0)
            body = bytes((TARGET_LINK_LAYER, 1)) + own
            for count in range(MAX_NEIGHBOR_ADVERTISEMENT):
                if count:
                    await asyncio.sleep(RETRANS_TIMER)
                _send(link, interface, source, ALL_NODES, Icmp6Type.NEIGHBOR_ADVERTISEMENT, flags, address, body)
    except OSError as error:
        fields = {"address": address, "interface": interface, "error": error.strerror}
        log.event("neighbour_not_announced", "warning", **fields)


def _link_socket(interface: str) -> socket.socket:
    """IPv6 packets of one interface. OSError (ENODEV) when there is none."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
    try:
        link.setblocking(False)
        link.bind((interface, ETH_P_IPV6))
    except OSError:
        link.close()
        raise
    return link


def _membership(group: IPv6Address, interface: str) -> socket.socket:
    """Membership of a multicast group, for as long as the socket is open; network cards and switches filter by it."""
    member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        request = group.packed + struct.pack("@I", interface_index(interface))
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    except OSError:
        member.close()
        raise
    return member


def _send(
    link: socket.socket,
    interface: str,
    source: IPv6Address,
    group: IPv6Address,
    kind: int,
    flags: int,
    target: IPv6Address,
    options: bytes,
) -> None:
    """One neighbour discovery message (RFC 4861 §4.3, §4.4) to a multicast group (on Ethernet: RFC 2464 §7)."""
    message = bytearray(_MESSAGE.pack(kind, 0, 0, flags, target.packed) + options)
    checksum = internet_checksum(pseudo_header(source, group, len(message), Protocol.ICMPV6) + message)
    message[2:4] = checksum.to_bytes(2, "big")
    header = struct.pack("!IHBB", 6 << 28, len(message), Protocol.ICMPV6, HOP_LIMIT) + source.packed + group.packed
    link.sendto(header + message, (interface, ETH_P_IPV6, 0, 0, b"\x33\x33" + group.packed[12:]))


def _about(address: IPv6Address) -> bytes:
    """A classic BPF program that passes solicitations for and advertisements of `address`. The packet begins with the
    IPv6 header; extension headers there are none (RFC 6980)."""
    return b"".join(
        INSTRUCTION.pack(*one)
        for one in (
            (LOAD_OCTET, 0, 0, 6),  # Next Header
            (IF_EQUAL, 0, 6, Protocol.ICMPV6),
            (LOAD_OCTET, 0, 0, IPV6_HEADER),
            (IF_EQUAL, 1, 0, Icmp6Type.NEIGHBOR_SOLICITATION),
            (IF_EQUAL, 0, 3, Icmp6Type.NEIGHBOR_ADVERTISEMENT),
            (LOAD_WORD, 0, 0, IPV6_HEADER + _MESSAGE.size - 4),
            (IF_EQUAL, 0, 1, int(address) & 0xFFFFFFFF),
            (RETURN, 0, 0, MAXIMUM_PACKET),
            (RETURN, 0, 0, 0),
        )
    )


def _claims(packet: bytes, address: IPv6Address, nonce: bytes) -> bool:
    """Whether a packet shows that another node has `address` or tests it for itself (RFC 4862 §5.4.3, §5.4.4)."""
    if len(packet) < IPV6_HEADER + _MESSAGE.size or packet[6] != Protocol.ICMPV6 or packet[7] != HOP_LIMIT:
        return False
    message = packet[IPV6_HEADER : IPV6_HEADER + int.from_bytes(packet[4:6], "big")]
    if len(message) < _MESSAGE.size:
        return False
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    if internet_checksum(pseudo_header(source, destination, len(message), Protocol.ICMPV6) + message):
        return False
    kind, code, _, _, target = _MESSAGE.unpack_from(message)
    if code or target != address.packed:
        return False
    if kind == Icmp6Type.NEIGHBOR_ADVERTISEMENT:
        return True
    return kind == Icmp6Type.NEIGHBOR_SOLICITATION and source == UNSPECIFIED and nonce not in message[_MESSAGE.size :]


def _own_address(interface: str) -> IPv6Address:
    """The source of advertisements: the link-local address of `interface`, or else another that is not tentative."""
    candidates = []
    for line in _IF_INET6.read_text().splitlines():
        digits, _, _, scope, flags, name = line.split()
        if name == interface and not int(flags, 16) & (_TENTATIVE | _DADFAILED):
            candidates.append((int(scope, 16) != _LINK_LOCAL_SCOPE, IPv6Address(bytes.fromhex(digits))))
    if not candidates:
        raise OSError(errno.EADDRNOTAVAIL, f"no address on {interface}")
    return min(candidates)[1]
