"""What a mobile node is told to do: frozen values, made and checked by `mobilenode.config` (or by a test). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from mip6.auth import SecurityAssociation
from mip6.selectors import IPv6Selector


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """One access link. `bid` is that of its first care-of address, `priority` its BID-PRI: 1..127, lower is better.

    `mtu`, in octets, bounds the path MTU if it is smaller than the link's.
    """

    name: str
    bid: int
    priority: int
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """One flow: packets that `selector` matches go over the first working link of `via`, or copied over all of `copy`,
    or are dropped (a local rule of this end). Exactly one of the three is given. `priority` is the FID-PRI."""

    fid: int
    priority: int
    name: str
    selector: IPv6Selector
    via: tuple[str, ...] = ()
    copy: tuple[str, ...] = ()
    drop: bool = False


@dataclass(frozen=True, slots=True)
class MobileNodeSettings:
    """The mobile node or mobile router. `lifetime` in seconds; care-of addresses get tables from `table_base` on.

    `home_agents` stand in the order of preference; none: they are discovered, at the home agents of `home_prefix`. That
    tells the home link, too; None: this node never is at home. `prefix_mode` is "explicit" or "implicit"
    (RFC 3963 §5.2), `replay` "timestamp" (RFC 4285 §6) or "sequence". Without `association` nothing is authenticated,
    which only an `insecure` home agent accepts.
    """

    home_address: IPv6Address
    home_agents: tuple[IPv6Address, ...] = ()
    home_prefix: IPv6Network | None = None
    identifier: str | None = None
    prefixes: tuple[IPv6Network, ...] = ()
    mobile_router: bool = False
    prefix_mode: str = "explicit"
    lifetime: int = 600
    device: str = "mip0"
    table_base: int = 1000
    metric: int = 64
    replay: str = "timestamp"
    insecure: bool = False
    association: SecurityAssociation | None = None
    links: tuple[LinkSettings, ...] = ()
    flows: tuple[FlowSettings, ...] = ()
    dataplane: str = "auto"
    control: str = "/run/mip6/mobilenode.sock"
    log: str = "info"
    log_format: str = "text"
