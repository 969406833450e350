"""What a mobile node is told to do: frozen values, made and checked by `mobilenode.config` (or by a test). Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mip6.auth import SecurityAssociation
from mip6.flowextension import DEFAULT_ENTERPRISE
from mip6.forwarding import IPAddress
from mip6.path import NOT_MEASURED, PathSettings
from mip6.schedule import Schedule
from mip6.selectors import TrafficSelector


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """One access link. `bid` is that of its first care-of address, `priority` its BID-PRI: 1..127, lower is better.

    `mtu`, in octets, bounds the path MTU if it is smaller than the link's. `metered`: what it carries costs money.
    `max_rate` is what it can carry, in bit/s. With `volume`, in octets, it is a last resort for the rest of the month
    that begins on `volume_day`, once it has carried so much. Nothing is sent over a `receive_only` link, though it is
    registered. `family` is "auto", "ipv6" or "ipv4", `encapsulation` "auto", "native" or "udp": see
    `mobilenode.access`. `keepalive` is how often a NAT's mapping is refreshed, in seconds; None: as the home agent
    advises. Its path is not measured without `probe`; `probe_interval`, in seconds, is instead of that of [paths].
    """

    name: str
    bid: int
    priority: int
    mtu: int | None = None
    metered: bool = False
    max_rate: int | None = None
    volume: int | None = None
    volume_day: int = 1
    receive_only: bool = False
    family: str = "auto"
    encapsulation: str = "auto"
    keepalive: int | None = None
    probe: bool = True
    probe_interval: float | None = None

    def paths(self, general: PathSettings) -> PathSettings:
        """How its paths are measured, where `general` says how others are."""
        interval = general.interval if self.probe_interval is None else self.probe_interval
        return replace(
            general,
            probe=general.probe and self.probe,
            interval=interval,
            idle_interval=max(interval, general.idle_interval),
            metered=self.metered,
        )


class LastResort(StrEnum):
    """What becomes of the packets of a rule none of whose links works."""

    DEFAULT = "default"  # the rules behind it decide, in the end the best link
    DROP = "drop"
    UNREACHABLE = "unreachable"  # dropped, and the sender is told


@dataclass(frozen=True, slots=True)
class Member:
    """A link within a choice. Links of one tier share by `weight`."""

    link: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """Which links packets take: those of the first of `tiers` that has a working one; of several, each new flow is
    given one by weight, or, with `copy`, every packet goes over all (n-casting, RFC 6089 §5.3.6). With `balance` the
    weights follow what the links carry and how well (`mobilenode.balance`). With `stay` running flows stay where they
    are when a link of a better tier comes back: only new ones take it.

    No tiers and DROP: a drop rule.
    """

    tiers: tuple[tuple[Member, ...], ...] = ()
    copy: bool = False
    balance: bool = False
    stay: bool = False
    last_resort: LastResort = LastResort.DEFAULT

    def describe(self) -> str:
        """For people: `wlan0:3 + eth0:1, else wwan0, else drop`."""
        if not self.tiers:
            return str(self.last_resort)
        single = not any(len(tier) > 1 for tier in self.tiers)
        tiers = []
        for tier in self.tiers:
            named = (one.link if self.copy or len(tier) == 1 else f"{one.link}:{one.weight}" for one in tier)
            tiers.append((" and " if self.copy else " + ").join(named))
        words = "copy to " if self.copy else "" if single else "balance " if self.balance else "share "
        resort = [] if self.last_resort is LastResort.DEFAULT else [str(self.last_resort)]
        return words + ", else ".join([*tiers, *resort]) + (" (running flows stay)" if self.stay else "")

    def links(self) -> tuple[str, ...]:
        """All links it names, best first."""
        return tuple(member.link for tier in self.tiers for member in tier)


DROP = Choice(last_resort=LastResort.DROP)


def via(*links: str) -> Choice:
    """The first that works."""
    return Choice(tuple((Member(link),) for link in links))


def copy(*links: str) -> Choice:
    """One copy over each."""
    return Choice((tuple(Member(link) for link in links),), copy=True)


def share(**weights: int) -> Choice:
    """Each new flow over one of them, by weight."""
    return Choice((tuple(Member(link, weight) for link, weight in weights.items()),))


def balance(**weights: int) -> Choice:
    """Each new flow over one of them, by weight, load and quality."""
    return Choice((tuple(Member(link, weight) for link, weight in weights.items()),), balance=True)


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """One flow binding: where the packets go that `selector` matches. `priority` is the FID-PRI.

    A rule of several selectors is several of these with one `name`. `down` is for packets to the mobile node, `up` for
    those from it (None: the same). With `schedule` it exists only while that holds. A drop rule is of this end alone.
    """

    fid: int
    priority: int
    name: str
    selector: TrafficSelector
    down: Choice
    up: Choice | None = None
    schedule: Schedule | None = None

    @property
    def uplink(self) -> Choice:
        """Where packets from the mobile node go."""
        return self.down if self.up is None else self.up


@dataclass(frozen=True, slots=True)
class MobileNodeSettings:
    """The mobile node or mobile router. `lifetime` in seconds; care-of addresses get tables from `table_base` on.

    `home_agents` stand in the order of preference; none: they are discovered, at the home agents of `home_prefix`. That
    tells the home link, too; None: this node never is at home. `prefix_mode` is "explicit" or "implicit"
    (RFC 3963 §5.2), `replay` "timestamp" (RFC 4285 §6) or "sequence". Without `association` nothing is authenticated,
    which only an `insecure` home agent accepts. Schedules and months go by the clocks of `zone`. `enterprise` marks the
    options of `mip6.flowextension`.
    `home_agents_ipv4` are the IPv4 addresses of the same home agents; without them there is no way through IPv4
    networks. An `ipv4_home_address` of 0.0.0.0 asks the home agent for one, None does without.
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
    zone: tzinfo = UTC
    state: str = "/var/lib/mip6/mobilenode.json"
    enterprise: int = DEFAULT_ENTERPRISE
    eliminate_duplicates: bool = True
    home_agents_ipv4: tuple[IPv4Address, ...] = ()
    ipv4_home_address: IPv4Address | None = None
    ipv4_prefixes: tuple[IPv4Network, ...] = ()
    paths: PathSettings = NOT_MEASURED
    dataplane: str = "auto"
    shortcut: str = "auto"
    on_exit: str = "clean"
    control: str = "/run/mip6/mobilenode.sock"
    log: str = "info"
    log_format: str = "text"
    record: str | None = None
    udp_zero_checksum: bool = False

    def sends(self, link: str) -> bool:
        """Whether anything may be sent over this link, which may be receive-only."""
        return not any(one.receive_only for one in self.links if one.name == link)

    def addresses_of(self, home_agent: IPv6Address) -> tuple[IPAddress, ...]:
        """Where a home agent is reached: by its IPv6 address and, if it has one, an IPv4 address."""
        known = dict(zip(self.home_agents, self.home_agents_ipv4, strict=False))
        return (home_agent, known[home_agent]) if home_agent in known else (home_agent,)

    def far_end(self, home_agent: IPv6Address, local: IPAddress) -> IPAddress:
        """The address of a home agent for whatever leaves from `local`; ValueError where it has none of that family."""
        for one in self.addresses_of(home_agent):
            if isinstance(one, IPv6Address) == isinstance(local, IPv6Address):
                return one
        raise ValueError(f"{home_agent} has no IPv4 address, nothing goes there from {local}")
