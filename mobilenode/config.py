"""The mobile node's configuration file, as docs/architecture.md has it, to `MobileNodeSettings`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field

from mip6 import config, configfile
from mip6.configfile import Mistakes
from mip6.flowextension import DEFAULT_ENTERPRISE
from mip6.pathtable import read_paths
from mip6.selectortable import BOTH, IPV6
from mobilenode.liverules import LiveRules
from mobilenode.rules import FlowTable, Layers, LinkTable, PolicyTable
from mobilenode.settings import LinkSettings, MobileNodeSettings

LOCAL_TIME = Path("/etc/localtime")


def _zone(value: Any) -> tzinfo:
    if not isinstance(value, str):
        raise ValueError
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, OSError):
        raise ValueError("this machine does not know it") from None


def local_zone() -> tzinfo:
    """The time zone of this machine: of the environment (TZ) or of /etc/localtime, else UTC."""
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with LOCAL_TIME.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


class MobileNodeTable(config.Table):
    """[mobilenode]"""

    home_address: config.Address
    home_agent: config.Addresses = ()
    home_agent_ipv4: config.Ipv4Addresses = ()
    home_prefix: config.Prefix | None = None
    identifier: config.Identifier | None = None
    prefixes: list[config.Prefix] = Field(default_factory=list)
    ipv4_home_address: config.Ipv4HomeAddress | None = None
    ipv4_prefixes: list[config.Ipv4Prefix] = Field(default_factory=list)
    udp_zero_checksum: config.Boolean = False
    mobile_router: config.Boolean | None = None
    prefix_mode: Annotated[str, config.choice("explicit", "implicit")] = "explicit"
    lifetime: config.Lifetime = 600
    device: config.Interface = "mip0"
    dataplane: config.Dataplane = "auto"
    eliminate_duplicates: config.Boolean = True
    shortcut: config.Shortcut = "auto"
    on_exit: config.OnExit = "clean"
    table_base: Annotated[int, config.integer(256, 0x7FFF0000)] = 1000  # 253 to 255 are the system's
    metric: Annotated[int, config.integer(1, 0x7FFFFFFF)] = 64
    control: config.SocketPath = "/run/mip6/mobilenode.sock"
    replay: config.Replay = "timestamp"
    insecure: config.Boolean = False
    state: config.FilePath = "/var/lib/mip6/mobilenode.json"
    enterprise: config.Enterprise = DEFAULT_ENTERPRISE
    timezone: Annotated[tzinfo, config.Expected('a time zone like "Europe/Berlin"', _zone)] | None = None
    log: config.LogLevel = "info"
    log_format: config.LogFormat = "text"
    record: config.FilePath | None = None
    key: config.KeyTable | None = None

    def mistakes(self) -> list[tuple[str, str]]:
        """What does not fit together within this table, as (key, text)."""
        found = []
        if self.home_prefix is not None and self.home_address not in self.home_prefix:
            found.append(("home_address", f"expected an address of {self.home_prefix}, got {self.home_address}"))
        if not self.home_agent and self.home_prefix is None:
            found.append(("home_agent", "missing; expected an address, a list, or home_prefix to discover it by"))
        if self.home_address in self.home_agent:
            found.append(("home_agent", "expected another address than home_address"))
        if self.home_agent_ipv4 and len(self.home_agent_ipv4) != len(self.home_agent):
            text = f"expected one IPv4 address for each of the {len(self.home_agent)} in home_agent, in their order"
            found.append(("home_agent_ipv4", text))
        if self.ipv4_home_address in self.home_agent_ipv4:
            found.append(("ipv4_home_address", "expected another address than home_agent_ipv4"))
        if self.key is None and not self.insecure:
            found.append(("key", "missing; expected [mobilenode.key], or insecure = true"))
        if self.mobile_router is False and (self.prefixes or self.ipv4_prefixes):
            found.append(("mobile_router", "expected true where prefixes are given"))
        if self.mobile_router and not self.prefixes and self.prefix_mode == "explicit":
            found.append(("prefixes", 'missing: expected prefixes, or prefix_mode = "implicit"'))
        for index, prefix in enumerate(self.prefixes):
            for agent in self.home_agent:
                if agent in prefix:
                    found.append((f"prefixes[{index}]", f"{prefix} contains the home agent's address {agent}"))
            if any(prefix.overlaps(other) for other in self.prefixes[:index]):
                found.append((f"prefixes[{index}]", f"{prefix} overlaps another of these prefixes"))
        for index, network in enumerate(self.ipv4_prefixes):
            key = f"ipv4_prefixes[{index}]"
            found += [
                (key, f"{network} contains the home agent's address {agent}")
                for agent in self.home_agent_ipv4
                if agent in network
            ]
            if any(network.overlaps(other) for other in self.ipv4_prefixes[:index]):
                found.append((key, f"{network} overlaps another of these prefixes"))
        return found


@dataclass(frozen=True)
class Configuration:
    """A file as the engine takes it, and its rules as they may be changed."""

    path: Path
    settings: MobileNodeSettings
    rules: LiveRules

    @property
    def log(self) -> str:
        return self.settings.log

    @property
    def log_format(self) -> str:
        return self.settings.log_format


def load(path: Path) -> MobileNodeSettings:
    """Read the file; ConfigurationError with every mistake in it."""
    return read(path).settings


def read(path: Path) -> Configuration:
    """The same with the rules as they were written."""
    data, mistakes = configfile.read_toml(path), Mistakes(path)
    configfile.check_names(mistakes, data, ("mobilenode", "link", "policy", "flow", "paths"))
    node = configfile.table(mistakes, data, "mobilenode", MobileNodeTable)
    links = configfile.tables(mistakes, data, "link", LinkTable)
    policies = configfile.tables(mistakes, data, "policy", PolicyTable)
    rules = configfile.tables(mistakes, data, "flow", FlowTable)
    paths = read_paths(mistakes, data)
    if node is not None:
        for key, text in node.mistakes():
            mistakes.add(f"mobilenode.{key}", text)
    if "link" not in data or data["link"] == []:
        mistakes.add("link", "missing; expected at least one [[link]]")
    _check_links(mistakes, links, node.device if node is not None else None)
    mistakes.unique((f"{key}.name", policy.name) for key, policy in policies)
    known = Layers(_named_links(data, links), {})
    choices = {policy.name: known.choice(mistakes, key, policy) for key, policy in policies}
    has_ipv4 = node is not None and (node.ipv4_home_address is not None or bool(node.ipv4_prefixes))
    layers = Layers(known.links, choices, BOTH if has_ipv4 else (IPV6,))
    flows = layers.flows(mistakes, rules)
    mistakes.finish()
    assert node is not None
    has_prefixes = bool(node.prefixes or node.ipv4_prefixes)
    values = node.model_dump(exclude={"key", "timezone", "home_agent", "home_agent_ipv4"}) | {
        "home_agents": node.home_agent,
        "home_agents_ipv4": node.home_agent_ipv4,
        "prefixes": tuple(node.prefixes),
        "ipv4_prefixes": tuple(node.ipv4_prefixes),
        "mobile_router": has_prefixes if node.mobile_router is None else node.mobile_router,
    }
    settings = MobileNodeSettings(
        **values,
        association=node.key.association() if node.key is not None else None,
        links=layers.links,
        flows=flows,
        zone=node.timezone or local_zone(),
        paths=paths,
    )
    live = LiveRules.of_file(layers, data.get("flow", []), [table for _, table in rules])
    return Configuration(path, settings, live)


def _check_links(mistakes: Mistakes, links: list[tuple[str, LinkTable]], device: str | None) -> None:
    mistakes.unique((f"{key}.name", link.name) for key, link in links)
    mistakes.unique((f"{key}.bid", link.bid) for key, link in links)
    mistakes.unique((f"{key}.priority", link.priority) for key, link in links)
    for key, link in links:
        if link.name == device:
            mistakes.add(f"{key}.name", f"expected an access link, but {device} is the tunnel device")


def _named_links(data: dict[str, Any], links: list[tuple[str, LinkTable]]) -> tuple[LinkSettings, ...]:
    """The links; one that has a mistake counts by its name, so that naming it is no further mistake."""
    right = {link.name: link.settings() for _, link in links}
    entries = data.get("link")
    found = []
    for one in entries if isinstance(entries, list) else ():
        name = one.get("name") if isinstance(one, dict) else None
        if isinstance(name, str):
            found.append(right.get(name) or LinkSettings(name, 0, 0))
    return tuple(found)
