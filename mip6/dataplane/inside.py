"""The inner side of the userspace data plane: packets for the local stack, errors for inner senders, and counters."""

from __future__ import annotations

import errno
import os
from ipaddress import IPv6Address

from mip6.dataplane.interface import TunnelCounters
from mip6.dataplane.offload import virtio_header
from mip6.forward import Dropped
from mip6.forwarding import DropReason
from mip6.ratelimit import RateLimit
from mip6.system.tun import Tun

ANSWERS_PER_SECOND = 100  # ICMP errors (RFC 4443 §2.4 (f))
_PASSING = (errno.EIO, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL)


class Inside:
    """What both directions share."""

    def __init__(self, tun: Tun) -> None:
        self.tun = tun
        self.tunnels: dict[tuple[IPv6Address, int], TunnelCounters] = {}
        self.drops: dict[DropReason, int] = {}
        self._answers = RateLimit(ANSWERS_PER_SECOND, ANSWERS_PER_SECOND)

    def write(self, packet: bytes) -> bool:
        """Write one packet to the device; whether the kernel took it."""
        try:
            os.write(self.tun.fd, virtio_header(packet, self.tun.mtu) + packet)
        except OSError as error:
            self.refused(error)
            return False
        return True

    def refused(self, error: OSError) -> None:
        """The kernel did not take a packet from the device (it is down, or out of memory)."""
        self.drop(DropReason.SEND_FAILED)
        if error.errno not in _PASSING:
            raise error

    def count(self, home_address: IPv6Address, bid: int) -> TunnelCounters:
        """The counters of one tunnel."""
        return self.tunnels.setdefault((home_address, bid), TunnelCounters())

    def drop(self, reason: DropReason) -> None:
        """Count a packet that goes nowhere."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def dropped(self, verdict: Dropped, now: float) -> None:
        """Count and answer a packet that the reference drops."""
        self.drop(verdict.reason)
        if verdict.duplicate is not None:
            self.count(verdict.duplicate.node.home_address, verdict.duplicate.tunnel.bid).packets_duplicate += 1
        self.answer(verdict.error, now)

    def answer(self, error: bytes | None, now: float) -> None:
        """Send an ICMP error to an inner sender, if there is one and not too many have gone."""
        if error is not None and self._answers.allow(now):
            self.write(error)

    def forget(self, gone: set[IPv6Address]) -> None:
        """Nodes that have left the table."""
        for key in [key for key in self.tunnels if key[0] in gone]:
            del self.tunnels[key]
