"""A NAT between the mobile node and the Internet: ports of its own, mappings that it forgets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from mip6.forwarding import IPAddress
from mip6.udp import UdpEnds

OUTSIDE = IPv4Address("198.51.100.99")


@dataclass
class Nat:
    """Endpoint-dependent: only the far end that a mapping was made for gets in by it. Idle mappings end."""

    address: IPv4Address = OUTSIDE
    patience: float = 120.0  # seconds, RFC 4787 §4.3
    _port: int = 20000
    _mappings: dict[tuple[IPAddress, int, IPAddress], tuple[int, float]] = field(default_factory=dict)

    def out(self, ends: UdpEnds, now: float) -> UdpEnds:
        """A packet of the inside as the far end sees it: the ends from its point of view."""
        key = ends.local, ends.local_port, ends.remote
        port, used = self._mappings.get(key, (0, 0.0))
        if not port or now > used + self.patience:
            self._port += 1
            port = self._port
        self._mappings[key] = port, now
        return UdpEnds(ends.remote, self.address, ends.remote_port, port)

    def back(self, ends: UdpEnds, now: float) -> UdpEnds | None:
        """A packet of the far end as the inside sees it; None when there is no mapping for it."""
        for (inside, inside_port, far), (port, used) in self._mappings.items():
            fits = port == ends.remote_port and far == ends.local and ends.remote == self.address
            if fits and now <= used + self.patience:
                return UdpEnds(inside, far, inside_port, ends.local_port)
        return None

    def rebind(self, address: IPv4Address | None = None) -> None:
        """Forget everything, as a NAT that restarts does; perhaps with another address."""
        self._mappings.clear()
        self.address = address or self.address


def mirrored(ends: UdpEnds) -> UdpEnds:
    """The same from the other side, without a NAT in between."""
    return replace(ends, local=ends.remote, remote=ends.local, local_port=ends.remote_port, remote_port=ends.local_port)
