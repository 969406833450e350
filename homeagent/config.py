"""The home agent's configuration file, as docs/architecture.md has it, to `HomeAgentSettings`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6 import config, configfile
from mip6.configfile import Mistakes
from mip6.flowextension import DEFAULT_ENTERPRISE
from mip6.forwarding import IPNetwork
from mip6.pathtable import read_paths
from mip6.selectortable import SelectorTable


class HomeAgentTable(config.Table):
    """[homeagent]"""

    address: config.Address
    home_prefixes: list[config.Prefix]
    home_link: config.Interface | None = None
    ipv4_address: config.Ipv4Address | None = None
    ipv4_home_pool: config.Ipv4Prefix | None = None
    udp_encapsulation: Annotated[str, config.choice("allow", "force", "refuse")] = "allow"
    udp_zero_checksum: config.Boolean = False
    nat_refresh: Annotated[int, config.integer(1, 86400)] = 110  # NATKATIMEOUT, RFC 5555 §6
    max_lifetime: config.Lifetime = 3600
    refresh_advice: config.LifetimeOrNone = 0
    dataplane: config.Dataplane = "auto"
    shortcut: config.Shortcut = "auto"
    on_exit: config.OnExit = "keep"
    device: config.Interface = "mip0"
    mtu: config.Mtu = 1500
    state: config.FilePath = "/var/lib/mip6/homeagent.sqlite"
    control: config.SocketPath = "/run/mip6/homeagent.sock"
    insecure: config.Boolean = False
    enterprise: config.Enterprise = DEFAULT_ENTERPRISE
    multiple_bindings: config.Boolean = True
    bulk_registration: config.Boolean = True
    flow_bindings: config.Boolean = True
    eliminate_duplicates: config.Boolean = True
    preference: Annotated[int, config.integer(0, 0xFFFF)] = 0
    other_home_agents: list[config.Address] = Field(default_factory=list)
    log: config.LogLevel = "info"
    log_format: config.LogFormat = "text"
    record: config.FilePath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> HomeAgentTable:
        if not self.home_prefixes:
            raise ValueError("expected at least one prefix in home_prefixes")
        if self.home_link == self.device:
            raise ValueError("expected device and home_link to be different interfaces")
        if self.address in self.other_home_agents:
            raise ValueError(f"expected other_home_agents without {self.address}, which is this one")
        pool = self.ipv4_home_pool
        if pool is not None and self.ipv4_address is not None and self.ipv4_address in pool:
            raise ValueError("expected ipv4_home_pool without the home agent's own ipv4_address")
        return self


class NodeTable(config.Table):
    """[[node]]"""

    home_address: config.Address
    identifier: config.Identifier | None = None
    mobile_router: config.Boolean | None = None
    prefixes: list[config.Prefix] = Field(default_factory=list)
    ipv4_home_address: config.Ipv4Address | None = None
    ipv4_prefixes: list[config.Ipv4Prefix] = Field(default_factory=list)
    replay: config.Replay = "timestamp"
    timestamp_window: config.Seconds = 7.0
    key: list[config.KeyTable] = Field(default_factory=list)
    drop: list[SelectorTable] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> NodeTable:
        if (self.prefixes or self.ipv4_prefixes) and self.mobile_router is False:
            raise ValueError("expected mobile_router = true where prefixes are given")
        return self

    def settings(self) -> NodeSettings:
        """What the engine takes."""
        has_prefixes = bool(self.prefixes or self.ipv4_prefixes)
        return NodeSettings(
            home_address=self.home_address,
            identifier=self.identifier,
            mobile_router=has_prefixes if self.mobile_router is None else self.mobile_router,
            prefixes=tuple(self.prefixes),
            replay=self.replay,
            timestamp_window=self.timestamp_window,
            associations=tuple(key.association() for key in self.key),
            drops=tuple(one for drop in self.drop for one in drop.selectors()),
            ipv4_home_address=self.ipv4_home_address,
            ipv4_prefixes=tuple(self.ipv4_prefixes),
        )


@dataclass(frozen=True)
class Configuration:
    """A file as the engine takes it, and where it stands, to be read again."""

    path: Path
    settings: HomeAgentSettings

    @property
    def log(self) -> str:
        return self.settings.log

    @property
    def log_format(self) -> str:
        return self.settings.log_format


def read(path: Path) -> Configuration:
    """Read the file; ConfigurationError with every mistake in it."""
    return Configuration(path, load(path))


def load(path: Path) -> HomeAgentSettings:
    """Read the file; ConfigurationError with every mistake in it."""
    data, mistakes = configfile.read_toml(path), Mistakes(path)
    configfile.check_names(mistakes, data, ("homeagent", "node", "paths"))
    agent = configfile.table(mistakes, data, "homeagent", HomeAgentTable)
    nodes = configfile.tables(mistakes, data, "node", NodeTable)
    paths = read_paths(mistakes, data)
    if agent is not None:
        _check_against_agent(mistakes, agent, nodes)
    for key, node in nodes:
        mistakes.unique((f"{key}.key[{index}].spi", one.spi) for index, one in enumerate(node.key))
    mistakes.unique((f"{key}.identifier", node.identifier) for key, node in nodes if node.identifier is not None)
    _check_ownership(mistakes, nodes)
    mistakes.finish()
    assert agent is not None
    values = agent.model_dump() | {
        "home_prefixes": tuple(agent.home_prefixes),
        "other_home_agents": tuple(agent.other_home_agents),
    }
    return HomeAgentSettings(**values, nodes=tuple(node.settings() for _, node in nodes), paths=paths)


def _check_against_agent(mistakes: Mistakes, agent: HomeAgentTable, nodes: list[tuple[str, NodeTable]]) -> None:
    home = ", ".join(map(str, agent.home_prefixes))
    for key, node in nodes:
        if not any(node.home_address in prefix for prefix in agent.home_prefixes):
            mistakes.add(f"{key}.home_address", f"expected an address of {home}, got {node.home_address}")
        if node.home_address == agent.address:
            mistakes.add(f"{key}.home_address", f"{agent.address} is the home agent's own address")
        if not node.key and not agent.insecure:
            mistakes.add(f"{key}.key", "missing; expected a [[node.key]], or insecure = true in [homeagent]")
        for index, prefix in enumerate(node.prefixes):
            if agent.address in prefix:
                mistakes.add(f"{key}.prefixes[{index}]", f"{prefix} contains the home agent's address {agent.address}")
        _check_ipv4(mistakes, agent, key, node)


def _check_ipv4(mistakes: Mistakes, agent: HomeAgentTable, key: str, node: NodeTable) -> None:
    if node.ipv4_home_address is not None and node.ipv4_home_address == agent.ipv4_address:
        mistakes.add(f"{key}.ipv4_home_address", f"{agent.ipv4_address} is the home agent's own address")
    for index, prefix in enumerate(node.ipv4_prefixes):
        if agent.ipv4_address is not None and agent.ipv4_address in prefix:
            text = f"{prefix} contains the home agent's address {agent.ipv4_address}"
            mistakes.add(f"{key}.ipv4_prefixes[{index}]", text)
        if agent.ipv4_home_pool is not None and prefix.overlaps(agent.ipv4_home_pool):
            mistakes.add(f"{key}.ipv4_prefixes[{index}]", f"{prefix} overlaps ipv4_home_pool {agent.ipv4_home_pool}")


def _check_ownership(mistakes: Mistakes, nodes: list[tuple[str, NodeTable]]) -> None:
    """No address may belong to two nodes. Sorted by start, an overlap is with something that began before."""
    owned: list[tuple[IPNetwork, int, str]] = []
    for number, (key, node) in enumerate(nodes):
        owned.append((IPv6Network(node.home_address), number, f"{key}.home_address"))
        owned += [(prefix, number, f"{key}.prefixes[{index}]") for index, prefix in enumerate(node.prefixes)]
        if node.ipv4_home_address is not None:
            owned.append((IPv4Network(node.ipv4_home_address), number, f"{key}.ipv4_home_address"))
        owned += [(prefix, number, f"{key}.ipv4_prefixes[{index}]") for index, prefix in enumerate(node.ipv4_prefixes)]
    open_prefixes: list[tuple[IPNetwork, int, str]] = []
    for prefix, number, key in sorted(owned, key=_by_start):
        while open_prefixes and not _contains(open_prefixes[-1][0], prefix):
            open_prefixes.pop()
        for outer, owner, outer_key in reversed(open_prefixes):
            is_prefix = "prefixes[" in key and "prefixes[" in outer_key
            if owner != number or is_prefix:  # a node's own home address may be in its own prefix (RFC 3963 §2)
                mistakes.add(key, f"{prefix} belongs already to {outer_key} ({outer})")
                break
        open_prefixes.append((prefix, number, key))


def _by_start(one: tuple[IPNetwork, int, str]) -> tuple[int, int, int]:
    return one[0].version, int(one[0].network_address), one[0].prefixlen


def _contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    return outer.version == inner.version and inner.network_address in outer
