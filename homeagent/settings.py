"""What a home agent is told to do: frozen values, made and checked by `homeagent.config` (or by a test). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mip6.auth import SecurityAssociation
from mip6.flowextension import DEFAULT_ENTERPRISE
from mip6.forwarding import IPAddress
from mip6.path import NOT_MEASURED, PathSettings
from mip6.selectors import TrafficSelector


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """One mobile node that may register: who it is, what it owns, how it proves itself.

    `prefixes` is its row of the prefix table (RFC 3963 §6.1). `replay` is "timestamp" (RFC 4285 §6, `timestamp_window`
    in seconds) or "sequence". `drops` are the local rules: packets to this node that are discarded. Without an
    `ipv4_home_address` it gets one from the pool, if there is one.
    """

    home_address: IPv6Address
    identifier: str | None = None
    mobile_router: bool = False
    prefixes: tuple[IPv6Network, ...] = ()
    replay: str = "timestamp"
    timestamp_window: float = 7.0
    associations: tuple[SecurityAssociation, ...] = ()
    drops: tuple[TrafficSelector, ...] = ()
    ipv4_home_address: IPv4Address | None = None
    ipv4_prefixes: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True)
class HomeAgentSettings:
    """The home agent itself. Lifetimes in seconds, `mtu` in octets; `refresh_advice` 0 gives none.

    Without `home_link` the home prefixes are routed to this machine. `enterprise` marks the options of
    `mip6.flowextension`; the three switches below it refuse what they name with status 166, 168 (RFC 5648 §6.2) and
    flow status 128 (RFC 6089 §4.2). `ipv4_address` is where mobile nodes in IPv4 networks reach it.
    `udp_encapsulation` says what it thinks of UDP encapsulation that no NAT makes necessary: "allow" it on request,
    "force" or "refuse" it; `nat_refresh` is the advice of RFC 5555 §4.3, in seconds. `preference` (higher is better)
    and `other_home_agents`, which come after this one in their order, are for mobile nodes that ask for home agents.
    `paths` says how paths are measured. What stands behind it is for the daemon, not for the engine.
    """

    address: IPv6Address
    home_prefixes: tuple[IPv6Network, ...]
    home_link: str | None = None
    max_lifetime: int = 3600
    refresh_advice: int = 0
    device: str = "mip0"
    mtu: int = 1500
    insecure: bool = False
    enterprise: int = DEFAULT_ENTERPRISE
    multiple_bindings: bool = True
    bulk_registration: bool = True
    flow_bindings: bool = True
    eliminate_duplicates: bool = True
    ipv4_address: IPv4Address | None = None
    ipv4_home_pool: IPv4Network | None = None
    udp_encapsulation: str = "allow"
    nat_refresh: int = 110
    preference: int = 0
    other_home_agents: tuple[IPv6Address, ...] = ()
    nodes: tuple[NodeSettings, ...] = ()
    paths: PathSettings = NOT_MEASURED
    dataplane: str = "auto"
    shortcut: str = "auto"
    on_exit: str = "keep"
    state: str = "/var/lib/mip6/homeagent.sqlite"
    control: str = "/run/mip6/homeagent.sock"
    log: str = "info"
    log_format: str = "text"
    record: str | None = None
    udp_zero_checksum: bool = False

    def local(self, remote: IPAddress) -> IPAddress:
        """This end of whatever goes to `remote`; ValueError where there is none of its family."""
        if isinstance(remote, IPv6Address):
            return self.address
        if self.ipv4_address is None:
            raise ValueError(f"no IPv4 address to reach {remote} from")
        return self.ipv4_address
