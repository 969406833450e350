"""What goes into an engine. Frozen values of plain types, so that a run can be recorded and replayed.

`engine.handle(event, now)` takes one of these; `now` is seconds on a clock that never jumps (CLOCK_BOOTTIME in the
daemons). The time of day, which RFC 4285 timestamps and stored lifetimes need, is `now + WallClockSet.offset`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from mip6.forwarding import IPAddress
from mip6.path import PathState
from mip6.udp import UdpEnds


@dataclass(frozen=True, slots=True)
class PacketReceived:
    """A signalling packet as it came: the whole IPv6 packet, extension headers included, from its version octet on.

    `interface` is where it arrived, `link_layer_source` the sender's link-layer address (empty where there is none).
    `outer` is the UDP encapsulation it came in (RFC 5555 §4.1), None: it came as it is.
    """

    packet: bytes
    interface: str
    link_layer_source: bytes = b""
    outer: UdpEnds | None = None


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """The deadline that `next_deadline()` named has come."""


@dataclass(frozen=True, slots=True)
class WallClockSet:
    """The time of day is `now + offset` seconds since 1970 (UTC). The first event of every run; again when it jumps."""

    offset: float


@dataclass(frozen=True, slots=True)
class AddressState:
    """One address of a link as the kernel holds it. `valid_lifetime` in seconds from now, None is for ever.

    An IPv4 address is never tentative, deprecated or temporary. `advertised_by`: the routers that were heard to
    advertise its prefix (which the kernel does not tell)."""

    address: IPAddress
    prefix_length: int
    tentative: bool = False
    deprecated: bool = False
    temporary: bool = False
    dad_failed: bool = False
    valid_lifetime: float | None = None
    advertised_by: tuple[IPv6Address, ...] = ()


@dataclass(frozen=True, slots=True)
class RouterState:
    """A default router of a link, of either family. `preference` as RFC 4191: 1 high, 0 medium, -1 low."""

    address: IPAddress
    preference: int = 0


@dataclass(frozen=True, slots=True)
class LinkState:
    """One access link as the kernel holds it now. `up` is administrative state and carrier together."""

    name: str
    index: int
    up: bool
    mtu: int
    link_layer_address: bytes = b""
    addresses: tuple[AddressState, ...] = ()
    routers: tuple[RouterState, ...] = ()


@dataclass(frozen=True, slots=True)
class LinksObserved:
    """The whole present state of the configured links. A link that does not exist is left out.

    Whole state, not increments: a lost netlink message costs nothing, the next snapshot says it all.
    """

    links: tuple[LinkState, ...]


@dataclass(frozen=True, slots=True)
class DuplicateAddressChecked:
    """Answer to `actions.CheckDuplicateAddress`: `duplicate` is True when somebody else holds the address."""

    address: IPv6Address
    duplicate: bool


@dataclass(frozen=True, slots=True)
class PathMtuChanged:
    """The path to a tunnel's far end carries outer packets of at most `mtu` octets (ICMPv6 Packet Too Big)."""

    local: IPAddress
    remote: IPAddress
    mtu: int


@dataclass(frozen=True, slots=True)
class RouterAdvertised:
    """A router advertisement on a link: the whole ICMPv6 message, its checksum and hop limit are right."""

    interface: str
    source: IPv6Address
    message: bytes


@dataclass(frozen=True, slots=True)
class PathChanged:
    """A path of a mobile node, named by its BID, is in another state now; `mip6.paths` says what the states mean."""

    home_address: IPv6Address
    bid: int
    state: PathState


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """The octets that a link has sent and received since it exists, whoever they were for, by the kernel's count."""

    name: str
    octets_out: int
    octets_in: int


@dataclass(frozen=True, slots=True)
class PathMeasured:
    """What the probes say of the path of a BID: shares of lost packets and seconds of queue (`mip6.measurement`)."""

    bid: int
    loss_out: float
    loss_in: float
    queue_out: float
    queue_in: float


@dataclass(frozen=True, slots=True)
class LoadMeasured:
    """What load balancing needs to know, taken at one time: the links that exist, and the paths that are measured."""

    links: tuple[LinkMeasured, ...]
    paths: tuple[PathMeasured, ...]


@dataclass(frozen=True, slots=True)
class LinkCounted:
    """The octets that a metered link has carried both ways since it exists, as the kernel counts them."""

    name: str
    octets: int


@dataclass(frozen=True, slots=True)
class VolumeRestored:
    """What an earlier run knew of a metered link: since when (seconds since 1970) it has carried `used` octets, and the
    kernel's count then."""

    name: str
    begun: float
    used: int
    octets: int


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """A command of the control socket that changes something. With a `number` it is answered by `actions.Answer`."""

    command: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True, slots=True)
class ShuttingDown:
    """The daemon was told to stop: the engine says its goodbyes (a mobile node deregisters)."""


Event = (
    PacketReceived
    | TimerExpired
    | WallClockSet
    | LinksObserved
    | DuplicateAddressChecked
    | PathMtuChanged
    | RouterAdvertised
    | PathChanged
    | LinkCounted
    | LoadMeasured
    | VolumeRestored
    | OperatorRequest
    | ShuttingDown
)
