"""What a home agent is told to do: frozen values, made and checked by `homeagent.config` (or by a test). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from mip6.auth import SecurityAssociation
from mip6.selectors import TrafficSelector


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """One mobile node that may register: who it is, what it owns, how it proves itself.

    `prefixes` is its row of the prefix table (RFC 3963 §6.1). `replay` is "timestamp" (RFC 4285 §6, `timestamp_window`
    in seconds) or "sequence". `drops` are the local rules: packets to this node that are discarded.
    """

    home_address: IPv6Address
    identifier: str | None = None
    mobile_router: bool = False
    prefixes: tuple[IPv6Network, ...] = ()
    replay: str = "timestamp"
    timestamp_window: float = 7.0
    associations: tuple[SecurityAssociation, ...] = ()
    drops: tuple[TrafficSelector, ...] = ()


@dataclass(frozen=True, slots=True)
class HomeAgentSettings:
    """The home agent itself. Lifetimes in seconds, `mtu` in octets; `refresh_advice` 0 gives none.

    Without `home_link` the home prefixes are routed to this machine. The three switches below `insecure` refuse what
    they name with status 166, 168 (RFC 5648 §6.2) and flow status 128 (RFC 6089 §4.2). What stands behind `nodes`
    is for the daemon, not for the engine.
    """

    address: IPv6Address
    home_prefixes: tuple[IPv6Network, ...]
    home_link: str | None = None
    max_lifetime: int = 3600
    refresh_advice: int = 0
    device: str = "mip0"
    mtu: int = 1500
    insecure: bool = False
    multiple_bindings: bool = True
    bulk_registration: bool = True
    flow_bindings: bool = True
    nodes: tuple[NodeSettings, ...] = ()
    dataplane: str = "auto"
    state: str = "/var/lib/mip6/homeagent.sqlite"
    control: str = "/run/mip6/homeagent.sock"
    log: str = "info"
    log_format: str = "text"
