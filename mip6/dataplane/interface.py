"""What a data plane offers to the daemons, whichever way it moves packets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv6Address
from typing import Protocol

from mip6.events import PathMtuChanged
from mip6.forwarding import DropReason, ForwardingTable
from mip6.system.udp import UdpSockets

OnPathMtu = Callable[[PathMtuChanged], None]
"""Told that the path between the ends of a tunnel carries less than the table says."""


class DataPlaneError(Exception):
    """The data plane asked for is not to be had."""


@dataclass(slots=True)
class TunnelCounters:
    """Inner packets and octets: `out` over the tunnel to its far end, `in` from there, without duplicates.

    Where duplicates are eliminated: packets of which this tunnel brought the `first` copy (`in` counts them too), and
    the duplicates that it brought after another.
    """

    packets_out: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    bytes_in: int = 0
    packets_first: int = 0
    packets_duplicate: int = 0


@dataclass(slots=True)
class Counters:
    """Per tunnel (home address, BID) and per reason of a drop."""

    tunnels: Mapping[tuple[IPv6Address, int], TunnelCounters] = field(default_factory=dict)
    drops: Mapping[DropReason, int] = field(default_factory=dict)

    def tunnel(self, home_address: IPv6Address, bid: int) -> dict[str, int]:
        """The counters of one tunnel by name; zeros when nothing has passed."""
        return asdict(self.tunnels.get((home_address, bid), TunnelCounters()))


class DataPlane(Protocol):
    """Carries out a forwarding table."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    @property
    def outlives(self) -> bool:
        """Whether it goes on forwarding without its process, until the lifetimes in the table end."""

    def start(self) -> None:
        """Begin to move packets, inside the running event loop."""

    def set_table(self, table: ForwardingTable) -> None:
        """From now on this table holds."""

    def use_udp(self, sockets: UdpSockets) -> None:
        """Send and receive what is encapsulated in UDP by these sockets, which signalling has as well."""

    def deliver(self, packet: bytes) -> None:
        """Hand a packet to the local stack, as if it had come out of a tunnel."""

    def counters(self) -> Counters:
        """The counters as they stand."""

    def status(self) -> Mapping[str, object]:
        """What `mip6 status` shows of it besides its name and counters."""

    def stop(self, *, remove: bool) -> None:
        """Let go; `remove`: the tunnel device goes too, and whatever else is in the kernel."""
