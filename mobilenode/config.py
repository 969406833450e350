"""The mobile node's configuration file, as docs/architecture.md has it, to `MobileNodeSettings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from mip6 import config, configfile
from mip6.configfile import Mistakes
from mobilenode.settings import FlowSettings, LinkSettings, MobileNodeSettings

PRIORITY_STEP = 10  # FIDs and FID-PRIs left out: position in the file times 10


class MobileNodeTable(config.Table):
    """[mobilenode]"""

    home_address: config.Address
    home_agent: config.Addresses = ()
    home_prefix: config.Prefix | None = None
    identifier: config.Identifier | None = None
    prefixes: list[config.Prefix] = Field(default_factory=list)
    mobile_router: config.Boolean | None = None
    prefix_mode: Annotated[str, config.choice("explicit", "implicit")] = "explicit"
    lifetime: config.Lifetime = 600
    device: config.Interface = "mip0"
    dataplane: config.Dataplane = "auto"
    table_base: Annotated[int, config.integer(256, 0x7FFF0000)] = 1000  # 253 to 255 are the system's
    metric: Annotated[int, config.integer(1, 0x7FFFFFFF)] = 64
    control: config.SocketPath = "/run/mip6/mobilenode.sock"
    replay: config.Replay = "timestamp"
    insecure: config.Boolean = False
    log: config.LogLevel = "info"
    log_format: config.LogFormat = "text"
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
        if self.key is None and not self.insecure:
            found.append(("key", "missing; expected [mobilenode.key], or insecure = true"))
        if self.mobile_router is False and self.prefixes:
            found.append(("mobile_router", "expected true where prefixes are given"))
        if self.mobile_router and not self.prefixes and self.prefix_mode == "explicit":
            found.append(("prefixes", 'missing: expected prefixes, or prefix_mode = "implicit"'))
        for index, prefix in enumerate(self.prefixes):
            for agent in self.home_agent:
                if agent in prefix:
                    found.append((f"prefixes[{index}]", f"{prefix} contains the home agent's address {agent}"))
            if any(prefix.overlaps(other) for other in self.prefixes[:index]):
                found.append((f"prefixes[{index}]", f"{prefix} overlaps another of these prefixes"))
        return found


class LinkTable(config.Table):
    """[[link]]"""

    name: config.Interface
    bid: config.Number16
    priority: Annotated[int, config.integer(1, 127)]
    mtu: config.Mtu | None = None

    def settings(self) -> LinkSettings:
        """What the engine takes."""
        return LinkSettings(self.name, self.bid, self.priority, self.mtu)


class FlowTable(config.SelectorTable):
    """[[flow]]"""

    fid: config.Number16 | None = None
    priority: config.Number16 | None = None
    name: Annotated[str, config.text("a name", 64)] | None = None
    via: list[config.Interface] = Field(default_factory=list)
    copy_: list[config.Interface] = Field(default_factory=list, alias="copy")
    drop: config.Boolean = False

    @model_validator(mode="after")
    def _one_verdict(self) -> FlowTable:
        if [bool(self.via), bool(self.copy_), self.drop].count(True) != 1:
            raise ValueError("expected exactly one of via = [...], copy = [...], drop = true")
        return self

    def settings(self, position: int) -> FlowSettings:
        """What the engine takes; `position` counts from 1."""
        fid = self.fid or position * PRIORITY_STEP
        return FlowSettings(
            fid=fid,
            priority=self.priority or position * PRIORITY_STEP,
            name=self.name or f"flow{fid}",
            selector=self.selector(),
            via=tuple(self.via),
            copy=tuple(self.copy_),
            drop=self.drop,
        )


def load(path: Path) -> MobileNodeSettings:
    """Read the file; ConfigurationError with every mistake in it."""
    data, mistakes = configfile.read_toml(path), Mistakes(path)
    configfile.check_names(mistakes, data, ("mobilenode", "link", "flow"))
    node = configfile.table(mistakes, data, "mobilenode", MobileNodeTable)
    links = configfile.tables(mistakes, data, "link", LinkTable)
    flows = [
        (key, table.settings(int(key[len("flow[") : -1]) + 1))
        for key, table in configfile.tables(mistakes, data, "flow", FlowTable)
    ]
    if node is not None:
        for key, text in node.mistakes():
            mistakes.add(f"mobilenode.{key}", text)
    if "link" not in data or data["link"] == []:
        mistakes.add("link", "missing; expected at least one [[link]]")
    _check_links(mistakes, links, node.device if node is not None else None)
    _check_flows(mistakes, flows, data)
    mistakes.finish()
    assert node is not None
    values = node.model_dump(exclude={"key", "home_agent"}) | {
        "home_agents": node.home_agent,
        "prefixes": tuple(node.prefixes),
        "mobile_router": bool(node.prefixes) if node.mobile_router is None else node.mobile_router,
    }
    return MobileNodeSettings(
        **values,
        association=node.key.association() if node.key is not None else None,
        links=tuple(link.settings() for _, link in links),
        flows=tuple(flow for _, flow in sorted(flows, key=lambda one: one[1].priority)),
    )


def _check_links(mistakes: Mistakes, links: list[tuple[str, LinkTable]], device: str | None) -> None:
    mistakes.unique((f"{key}.name", link.name) for key, link in links)
    mistakes.unique((f"{key}.bid", link.bid) for key, link in links)
    mistakes.unique((f"{key}.priority", link.priority) for key, link in links)
    for key, link in links:
        if link.name == device:
            mistakes.add(f"{key}.name", f"expected an access link, but {device} is the tunnel device")


def _check_flows(mistakes: Mistakes, flows: list[tuple[str, FlowSettings]], data: dict[str, object]) -> None:
    mistakes.unique((f"{key}.fid", flow.fid) for key, flow in flows)
    mistakes.unique((f"{key}.priority", flow.priority) for key, flow in flows)
    mistakes.unique((f"{key}.name", flow.name) for key, flow in flows)
    entries = data.get("link")
    names = [one.get("name") for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    for key, flow in flows:
        for field, wanted in (("via", flow.via), ("copy", flow.copy)):
            mistakes.unique((f"{key}.{field}[{index}]", name) for index, name in enumerate(wanted))
            for index, name in enumerate(wanted):
                if name not in names:
                    known = ", ".join(str(one) for one in names) or "none"
                    mistakes.add(f"{key}.{field}[{index}]", f"expected the name of a [[link]] ({known}), got '{name}'")
