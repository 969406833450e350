"""ForwardingTable: the whole desired state of the data plane.

One table per agent, handed over whole; a data plane finds the difference itself, so a restart is the normal path.
`mip6.forward.forward()` is the reference meaning of a table. Parts of a table that did not change are the same
objects as before, so a data plane can compare by identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType

from mip6.selectors import TrafficSelector
from mip6.values import value

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

IPV6_HEADER = 40
IPV4_HEADER = 20
UDP_HEADER = 8
MINIMUM_MTU = 1280  # RFC 8200 §5
MOST_TUNNELS = 16  # of one node: what the maps of the eBPF data plane hold, and more links than anybody has
DSMIP_PORT = 4191  # RFC 5555 §8


class End(StrEnum):
    """Which end of the tunnels a table is for."""

    HOME_AGENT = "homeagent"
    MOBILE_NODE = "mobilenode"


class Encapsulation(StrEnum):
    """What stands between the outer IP header and the inner packet."""

    NATIVE = "native"  # nothing: next header 41 for IPv6 inside, 4 for IPv4 (RFC 2473, RFC 5555 §4.1)
    UDP = "udp"  # a UDP header; the first nibble behind it tells what is inside (RFC 5555 §4.1)


def overhead(end: IPAddress, encapsulation: Encapsulation) -> int:
    """Octets that a tunnel between addresses of this family puts in front of the inner packet."""
    header = IPV6_HEADER if isinstance(end, IPv6Address) else IPV4_HEADER
    return header + (UDP_HEADER if encapsulation is Encapsulation.UDP else 0)


@value
class Tunnel:
    """One binding as the data plane sees it: outer packets go from `local` to `remote`, both of one family.

    `bid` is 0 for a plain binding (no BID option). `mtu` is the largest inner packet that needs no outer
    fragmentation: path MTU less `overhead`. `device` is the access link to leave by (mobile node); None: the routes
    decide. A tunnel that is not `usable` receives but is not sent over (its link is down or receive-only, its path is
    dead, or the binding is being removed). The ports are those of UDP encapsulation. `expires` is when the binding's
    lifetime ends, in seconds on the engine's clock (CLOCK_BOOTTIME): a data plane that goes on without its daemon stops
    using the tunnel then. None: never. Only such a one looks at it: the engine takes the tunnel out of the table in
    time, and the userspace data plane ends with its engine.
    """

    bid: int
    local: IPAddress
    remote: IPAddress
    mtu: int = 1460
    device: str | None = None
    usable: bool = True
    encapsulation: Encapsulation = Encapsulation.NATIVE
    local_port: int = DSMIP_PORT
    remote_port: int = DSMIP_PORT
    expires: float | None = None

    @property
    def overhead(self) -> int:
        """Octets in front of the inner packet."""
        return overhead(self.local, self.encapsulation)


@value
class FlowRule:
    """Packets that `selector` matches go by every usable tunnel of `bids`: one copy each (RFC 6089 §5.3.6).

    With `weights`, one for each of `bids`, the rule shares instead: each new flow goes to one of the usable tunnels,
    which it keeps as long as that tunnel stays usable; a weight of 0 takes no new flows while another has more.
    A rule none of whose BIDs has a usable tunnel is inactive and skipped. `drop` discards instead (a local rule;
    the RFC has no discard), and with `unreachable` the sender is told. `priority` is the FID-PRI: lower is looked at
    first.
    """

    fid: int
    priority: int
    selector: TrafficSelector
    bids: tuple[int, ...] = ()
    drop: bool = False
    weights: tuple[int, ...] = ()
    unreachable: bool = False

    def __post_init__(self) -> None:
        if self.unreachable and not self.drop:
            raise ValueError(f"flow {self.fid}: unreachable without drop")
        if self.weights and len(self.weights) != len(self.bids):
            raise ValueError(f"flow {self.fid}: {len(self.weights)} weights for {len(self.bids)} BIDs")


@value
class Node:
    """One mobile node or mobile router: the inner addresses it owns, its tunnels and its flow rules.

    `tunnels` stand in the order of BID-PRI: the first usable one takes what no rule matches. `rules` stand in the
    order of FID-PRI. `prefixes` are the registered mobile network prefixes; the home address belongs to it too. An
    IPv4 home address stands among them as a /32. `copied` are the selectors, written as those of `rules`, of what the
    far end may n-cast to here: of that, duplicates are eliminated. Its rules may be others than ours.
    """

    home_address: IPv6Address
    prefixes: tuple[IPNetwork, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    rules: tuple[FlowRule, ...] = ()
    copied: tuple[TrafficSelector, ...] = ()


@dataclass(frozen=True, slots=True)
class ForwardingTable:
    """Everything the data plane does. `address` is this agent's own address, the source of its ICMPv6 errors;
    `ipv4_address`, if it has one, that of its ICMPv4 errors. `zero_checksum`: UDP encapsulation over IPv6 goes without
    a checksum (RFC 6935).

    With `eliminate_duplicates`, of an n-cast packet only the first copy is delivered (`mip6.duplicates`).

    A home agent encapsulates packets whose inner *destination* a node owns and accepts tunnel packets whose inner
    *source* their sender owns. A mobile node has exactly one entry, itself, and does the reverse.

    `provisional`: the engine does not know yet what the far end holds. A data plane that took a table over from an
    earlier run keeps that until it does.
    """

    end: End
    address: IPv6Address
    nodes: Mapping[IPv6Address, Node] = field(default_factory=lambda: MappingProxyType({}))
    eliminate_duplicates: bool = False
    ipv4_address: IPv4Address | None = None
    zero_checksum: bool = False
    provisional: bool = False


class DropReason(StrEnum):
    """Why the data plane discarded a packet; the names stand in `mip6 status`."""

    MALFORMED = "malformed"  # not an IP packet, or cut short
    NO_NODE = "no_node"  # no mobile node owns the inner address
    NO_TUNNEL = "no_tunnel"  # the node has no usable tunnel
    RULE = "rule"  # a local drop rule matched
    SOURCE_NOT_OWNED = "source_not_owned"  # inner source does not belong to the sender (RFC 6275 §10.4.5, 3963 §9)
    DESTINATION_NOT_OWNED = "destination_not_owned"  # mobile node: inner destination is not its own
    UNKNOWN_OUTER_SOURCE = "unknown_outer_source"  # outer source is no registered care-of address / not the home agent
    UNKNOWN_OUTER_DESTINATION = "unknown_outer_destination"
    NOT_FORWARDABLE = "not_forwardable"  # link-local, multicast, loopback or unspecified inner address
    HOP_LIMIT = "hop_limit"  # used up: ICMP time exceeded was answered
    TOO_BIG = "too_big"  # larger than the tunnel MTU: ICMPv6 packet too big, ICMPv4 fragmentation needed was answered
    ECN = "ecn"  # congestion was marked on a packet that cannot carry it (RFC 6040 §4.2)
    LOOP = "loop"  # a tunnel packet to the tunnel's own far end (RFC 2473 §4.1.2)
    INNER_PROTOCOL = "inner_protocol"  # what is inside is neither IPv6 nor IPv4, or not what the outer header says
    DUPLICATE = "duplicate"  # an equal packet came over another tunnel before
    SEND_FAILED = "send_failed"  # the kernel refused the packet
