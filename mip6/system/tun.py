"""The tunnel device: a persistent TUN, so that routes and addresses on it outlive a crash of the agent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_UP = 0x0001, 0x1000, 0x4000, 0x0001
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8913, 0x8914, 0x8922, 0x8943
_NAME_LENGTH = 15
_FLAGS = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
_QUEUE = 4096  # packets that wait for the reader: a tenth of a second of it being held up at full rate


class TunError(Exception):
    """The device cannot be had; the message says which and why."""


class Tun:
    """Creates the device `name`, or adopts one that an earlier run left, and sets its MTU and takes it up.

    A virtio_net_hdr stands in front of each packet: read, it says nothing (no offload is asked for); written, it says
    what is left to do (`mip6.dataplane.offload`). TunError when the name does not do, /dev/net/tun is missing, rights
    are missing, or another process has the device.
    """

    def __init__(self, name: str, mtu: int | None) -> None:
        """`mtu` None: only take the device, as it is, to remove it."""
        if not name or len(name.encode()) > _NAME_LENGTH:
            raise TunError(f"device name {name!r}: expected 1 to {_NAME_LENGTH} octets")
        self.name, self.mtu = name, mtu or 0
        with contextlib.ExitStack() as undo:
            try:
                self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                undo.callback(os.close, self.fd)
                fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _FLAGS))
                if mtu is not None:
                    self._prepare(mtu)
            except OSError as error:
                hint = " (in use by another process)" if error.errno == errno.EBUSY else ""
                raise TunError(f"tunnel device {name}: {error.strerror}{hint}") from error
            undo.pop_all()

    def _prepare(self, mtu: int) -> None:
        name = self.name
        fcntl.ioctl(self.fd, _TUNSETPERSIST, 1)
        # no link-local address, so no multicast of the kernel's own that every tunnel would have to refuse
        Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode").write_text("1")
        # packets with any inner source come out of it, which the data plane has checked, and the agent's own
        # ICMP errors: neither is a martian
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("2")
        Path(f"/proc/sys/net/ipv4/conf/{name}/accept_local").write_text("1")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))
            fcntl.ioctl(control, _SIOCSIFTXQLEN, struct.pack("16si20x", name.encode(), _QUEUE))
            answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
            flags = struct.unpack("16sH22x", answer)[1] | _IFF_UP
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags))

    def close(self) -> None:
        """Let go of the device; it stays, without carrier."""
        os.close(self.fd)

    def remove(self) -> None:
        """Remove the device and what stands on it."""
        fcntl.ioctl(self.fd, _TUNSETPERSIST, 0)
        self.close()
