"""Small questions about one network interface that need no netlink."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct

_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0x0A
_SIOCGIFHWADDR = 0x8927
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772


def interface_index(name: str) -> int:
    """Its number; OSError with ENODEV, which Python's own error lacks, when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise OSError(errno.ENODEV, f"no interface {name}") from error


def interface_name(index: int) -> str | None:
    """Its name, None if it went away meanwhile."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None


def has_link_header(name: str) -> bool:
    """Whether its packets have an Ethernet header; raw-IP modems, PPP, TUN have none. OSError (ENODEV): no such one."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
    return struct.unpack_from("=16xH", answer)[0] in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK)


def carrier(sock: socket.socket, name: str) -> bool | None:
    """Whether the interface has carrier at this moment; None when it is missing or its driver cannot tell.

    Asking makes the kernel send the notification that it would otherwise hold back for up to a second (linkwatch).
    """
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GLINK, 0), 8)
    try:
        fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(value)))
    except OSError as error:
        if error.errno in (errno.EBADF, errno.EFAULT, errno.ENOTTY):  # ours
            raise
        return None  # missing (ENODEV), not able to tell (EOPNOTSUPP), asleep or hung (whatever its driver says)
    return bool(struct.unpack("=II", value.raw)[1])
