"""What comes out of an engine: the list that `engine.handle(event, now)` returns, to be carried out in order.

A shell holds back what follows a `StoreNode` until the record is on disk, so that nothing is acknowledged that a
restart could forget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv6Address

from mip6.forwarding import DSMIP_PORT, IPAddress, IPNetwork
from mip6.udp import UdpEnds
from mip6.values import value


@value
class SendPacket:
    """Send one whole IPv6 packet as it is. `interface` pins the link it leaves by; None leaves it to the routes.

    With `link_layer_destination` the packet goes to that neighbour without neighbour discovery. With `outer` it goes
    inside UDP between these ends, by the socket that is bound to the local one (`KernelState.sockets`).
    """

    packet: bytes
    interface: str | None = None
    link_layer_destination: bytes = b""
    outer: UdpEnds | None = None


@dataclass(frozen=True, slots=True)
class DeliverLocally:
    """Give a packet to this machine's own stack (through mip0), as if it had arrived in this form."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class ForwardingChanged:
    """`engine.forwarding_table()` has changed: hand it to the data plane. Several in a row may be taken as one."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route that the agent owns: `destination` through `gateway` (None: on-link) and `device` in `table`. All of one
    family."""

    destination: IPNetwork
    device: str
    gateway: IPAddress | None = None
    table: int = 254
    source: IPAddress | None = None
    metric: int = 1024


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule that the agent owns: packets `from source` use `table`."""

    source: IPAddress
    table: int
    priority: int


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address that the agent owns on a device; assigned without duplicate address detection. An IPv4 address has
    prefix length 32."""

    address: IPAddress
    device: str
    prefix_length: int = 128


@dataclass(frozen=True, slots=True)
class ProxyNeighbour:
    """An address the home agent answers neighbour solicitations, or ARP requests, for on `device`; `router` sets R in
    the answers."""

    address: IPAddress
    device: str
    router: bool = False


@dataclass(frozen=True, slots=True)
class UdpEndpoint:
    """A UDP socket for encapsulated packets, bound to `address`, `port` and, unless None, `device`."""

    address: IPAddress
    port: int = DSMIP_PORT
    device: str | None = None


@dataclass(frozen=True, slots=True)
class KernelState:
    """Everything the agent wants in the kernel. The shell adds what is missing and removes what else is its own."""

    addresses: tuple[LocalAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    proxies: tuple[ProxyNeighbour, ...] = ()
    sockets: tuple[UdpEndpoint, ...] = ()

    def adds_to(self, before: KernelState) -> bool:
        """Whether anything is wanted that was not wanted before."""
        return any(set(getattr(self, one.name)) - set(getattr(before, one.name)) for one in fields(self))


@dataclass(frozen=True, slots=True)
class KernelChanged:
    """`engine.kernel_state()` has changed: make the kernel so. Several in a row may be taken as one."""


@dataclass(frozen=True, slots=True)
class CheckDuplicateAddress:
    """Do duplicate address detection for `address` on `interface`; answer with `events.DuplicateAddressChecked`."""

    address: IPv6Address
    interface: str


@dataclass(frozen=True, slots=True)
class AnnounceNeighbour:
    """Send unsolicited neighbour advertisements (O=1, S=0) for `address` to all nodes of `interface`."""

    address: IPv6Address
    interface: str
    router: bool = False


@value
class StoreNode:
    """Write one mobile node's record to stable storage before anything that follows; None deletes it."""

    home_address: IPv6Address
    record: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Report:
    """One line of the log: `event` in the RFCs' words, with its fields; `level` as in logging ("info", "warning")."""

    event: str
    level: str = "info"
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the `events.OperatorRequest` of this number, for whoever asked at the control socket."""

    number: int
    answer: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ShutdownComplete:
    """All goodbyes are said or given up: the daemon may exit."""


Action = (
    SendPacket
    | DeliverLocally
    | ForwardingChanged
    | KernelChanged
    | CheckDuplicateAddress
    | AnnounceNeighbour
    | StoreNode
    | Report
    | Answer
    | ShutdownComplete
)
