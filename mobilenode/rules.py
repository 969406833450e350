"""The layers of policy in the mobile node's configuration: links, named policies, rules; to `LinkSettings` and
`FlowSettings`.

A policy says which links in which order or shares; a rule says which packets and names a policy, or links directly.
`Layers` knows the names of one file and turns tables into settings; what does not fit together goes to `Mistakes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import time
from typing import Annotated, Any

from pydantic import Field, model_validator

from mip6 import config
from mip6.config import Expected
from mip6.configfile import Mistakes
from mip6.pathtable import seconds
from mip6.schedule import DAYS, EVERY_DAY, MIDNIGHT, Schedule
from mip6.selectors import TrafficSelector
from mip6.selectortable import BOTH, SelectorTable
from mobilenode.settings import DROP, Choice, FlowSettings, LastResort, LinkSettings, Member

STEP = 10  # FIDs and FID-PRIs left out: position in the file times 10
MAXIMUM_WEIGHT = 0xFFFF
ANY = ("any", "any free", "any metered")  # every link, or those of a cost class, best BID-PRI first
BLACKHOLE = "blackhole"  # mwan3's word for a last resort of drop
_RATES = {"kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}
_VOLUMES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


# --- kinds of values -------------------------------------------------------------------------------------------------


def _quantity(text: str, units: Mapping[str, int]) -> Expected:
    """A number with its unit, as a whole number of the smallest."""

    def parse(value: Any) -> int:
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?(\S+)", value) if isinstance(value, str) else None
        if found is None or found[2] not in units or not (amount := round(float(found[1]) * units[found[2]])):
            raise ValueError
        return amount

    return Expected(f"{text} with its unit ({', '.join(units)})", parse)


def _link(value: Any) -> str:
    return value if isinstance(value, str) and value in ANY else str(config.interface(value))


def _time(value: Any) -> time:
    if isinstance(value, time):  # TOML has times of its own
        return value
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,2}:\d\d", value):
        raise ValueError
    hour, minute = value.split(":")
    return MIDNIGHT if value == "24:00" else time(int(hour), int(minute))


def _days(value: Any) -> frozenset[int]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError
    return frozenset(DAYS.index(name.strip().lower()) if isinstance(name, str) else _refuse() for name in names)


def _refuse() -> int:
    raise ValueError


def _shares(value: Any) -> dict[str, int | None]:
    """Links with their weights; None: none is given. "auto" is every link."""
    if value == "auto":
        return {"any": None}
    if isinstance(value, dict) and value:
        for name, weight in value.items():
            if type(weight) is not int or not 1 <= weight <= MAXIMUM_WEIGHT:
                raise ValueError(f"the weight of {name} is no whole number from 1 to {MAXIMUM_WEIGHT}")
        return {_link(name): weight for name, weight in value.items()}
    if not isinstance(value, list) or not value:
        raise ValueError
    if len(set(value)) != len(value):
        raise ValueError("a link stands twice")
    return {_link(name): None for name in value}


def _balance(value: Any) -> dict[str, int | None] | bool:
    return True if value is True else _shares(value)


LinkName = Annotated[str, Expected(f"an interface name of 1 to 15 octets, or one of {', '.join(ANY)}", _link)]
Time = Annotated[time, Expected('a time of day like "22:00"', _time)]
Weight = Annotated[int, config.integer(1, MAXIMUM_WEIGHT)]
PolicyName = Annotated[str, config.text("the name of a policy", 64)]
Shares = Annotated[
    dict[str, int | None], Expected('a list of links, a table of links with weights, or "auto"', _shares)
]

Balanced = Annotated[
    dict[str, int | None] | bool,
    Expected('a list of links, a table of links with weights, "auto", or true beside members', _balance),
]


# --- the tables ------------------------------------------------------------------------------------------------------


class LinkTable(config.Table):
    """[[link]]"""

    name: config.Interface
    bid: config.Number16
    priority: Annotated[int, config.integer(1, 127)]
    mtu: config.Mtu | None = None
    metered: config.Boolean = False
    max_rate: Annotated[int, _quantity("a rate", _RATES)] | None = None
    volume: Annotated[int, _quantity("a volume", _VOLUMES)] | None = None
    volume_day: Annotated[int, config.integer(1, 28)] = 1
    receive_only: config.Boolean = False
    family: Annotated[str, config.choice("auto", "ipv6", "ipv4")] = "auto"
    encapsulation: Annotated[str, config.choice("auto", "native", "udp")] = "auto"
    keepalive: Annotated[int, config.integer(5, 86400)] | None = None
    probe: config.Boolean = True
    probe_interval: Annotated[float, seconds(0.02, 60)] | None = None

    @model_validator(mode="after")
    def _sensible(self) -> LinkTable:
        if self.probe_interval is not None and not self.probe:
            raise ValueError("expected no probe_interval where probe is false")
        if "volume_day" in self.model_fields_set and self.volume is None:
            raise ValueError("expected volume where volume_day is given")
        return self

    def settings(self) -> LinkSettings:
        """What the engine takes. A link with a volume is metered."""
        values = self.model_dump() | {"metered": self.metered or self.volume is not None}
        return LinkSettings(**values)


class MemberTable(config.Table):
    """A member of a policy: lower preferences are tried first, equal ones share by weight."""

    link: LinkName
    preference: Annotated[int, config.integer(1, 1000)] = 1
    weight: Weight | None = None


class ChoiceTable(config.Table):
    """What policies and rules have in common: the ways to name links."""

    via: list[LinkName] = Field(default_factory=list)
    copy_: list[LinkName] = Field(default_factory=list, alias="copy")
    share: Shares | None = None
    balance: Balanced | None = None
    stay: config.Boolean = False
    last_resort: Annotated[str, config.choice(*LastResort, BLACKHOLE)] = LastResort.DEFAULT

    def ways(self) -> list[str]:
        """Which of the ways are used."""
        return [name for name in ("via", "copy_", "share", "balance") if getattr(self, name)]

    @model_validator(mode="after")
    def _stays_somewhere(self) -> ChoiceTable:
        if self.stay and self.copy_:
            raise ValueError("expected no stay where all links are used (copy)")
        return self

    def resort(self) -> LastResort:
        """What its last resort comes to."""
        return LastResort.DROP if self.last_resort == BLACKHOLE else LastResort(self.last_resort)


class PolicyTable(ChoiceTable):
    """[[policy]]"""

    name: PolicyName
    members: list[MemberTable] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_way(self) -> PolicyTable:
        if self.balance is True and not self.members:
            raise ValueError("expected members where balance is true, or balance = [...]")
        ways = [name for name in self.ways() if self.balance is not True or name != "balance"]
        if len(ways) + bool(self.members) != 1:
            raise ValueError(
                "expected exactly one of members = [...], via = [...], copy = [...], share = ..., balance = ..."
            )
        return self


def _names_or_policy(value: Any) -> list[str] | str:
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, list) or not value:
        raise ValueError
    return [_link(one) for one in value]


OneWay = Annotated[
    list[str] | str, Expected("a list of links in order of preference, or the name of a policy", _names_or_policy)
]


class FlowTable(SelectorTable, ChoiceTable):
    """[[flow]]"""

    fid: config.Number16 | None = None
    priority: config.Number16 | None = None
    name: Annotated[str, config.text("a name", 64)] | None = None
    policy: PolicyName | None = None
    drop: config.Boolean = False
    up: OneWay | None = None
    down: OneWay | None = None
    from_: Time | None = Field(default=None, alias="from")
    to: Time | None = None
    days: Annotated[frozenset[int], Expected(f"a list of days ({', '.join(DAYS)})", _days)] | None = None

    @model_validator(mode="after")
    def _one_verdict(self) -> FlowTable:
        given = [*self.ways(), *(["policy"] if self.policy else []), *(["drop"] if self.drop else [])]
        each = self.up is not None and self.down is not None
        if self.balance is True:
            raise ValueError("expected balance = [...] in a rule: true is for the members of a policy")
        if len(given) > 1 or (not given and not each):
            raise ValueError(
                "expected exactly one of via = [...], copy = [...], share = ..., balance = ..., policy = ..., "
                "drop = true, or both up and down"
            )
        if given and each:
            raise ValueError(f"expected no {given[0].strip('_')} where both up and down are given")
        if self.drop and (self.up is not None or self.down is not None):
            raise ValueError("expected neither up nor down where drop is true")
        for name in {"last_resort", "stay"} & self.model_fields_set if self.policy or self.drop else ():
            raise ValueError(f"expected no {name}: the {'policy has it' if self.policy else 'rule drops'}")
        if (self.from_ is None) != (self.to is None):
            raise ValueError("expected from and to together")
        return self

    def schedule(self) -> Schedule | None:
        """When the rule holds, None: always."""
        if self.from_ is None and self.days is None:
            return None
        return Schedule(self.from_ or MIDNIGHT, self.to or MIDNIGHT, EVERY_DAY if self.days is None else self.days)


# --- to settings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layers:
    """The names of one file: `links` as they are, `policies` as choices. `families`: of the node's inner addresses."""

    links: tuple[LinkSettings, ...]
    policies: Mapping[str, Choice]
    families: Sequence[int] = BOTH

    def selectors(self, rule: FlowTable) -> tuple[TrafficSelector, ...]:
        """The selectors of a rule for this node."""
        return rule.selectors(self.families) or rule.selectors()

    def numbers(self, rules: Iterable[FlowTable]) -> list[tuple[str, int, int]]:
        """Name, first FID and first FID-PRI of each rule. One without gets position times 10, or the next free multiple
        when a rule before needs more than ten of them."""
        found = []
        number = 0
        for rule in rules:
            number = (number // STEP + 1) * STEP
            fid = rule.fid or number
            found.append((rule.name or f"flow{fid}", fid, rule.priority or number))
            number += len(self.selectors(rule)) - 1
        return found

    def flows(self, mistakes: Mistakes, rules: Sequence[tuple[str, FlowTable]]) -> tuple[FlowSettings, ...]:
        """All rules as flow bindings, by FID-PRI."""
        found: list[tuple[str, FlowSettings]] = []
        numbers = self.numbers(rule for _, rule in rules)
        for (key, rule), (name, fid, priority) in zip(rules, numbers, strict=True):
            down, up = self._directions(mistakes, key, rule)
            for index, selector in enumerate(self.selectors(rule)):
                flow = FlowSettings(fid + index, priority + index, name, selector, down, up, rule.schedule())
                found.append((key, flow))
        for field in ("fid", "priority"):
            mistakes.unique((f"{key}.{field}", getattr(flow, field)) for key, flow in found)
            for key, flow in found:
                if getattr(flow, field) > 0xFFFF:
                    mistakes.add(f"{key}.{field}", "expected a lower number: the last of the rule's is above 65535")
        names = dict.fromkeys((key, flow.name) for key, flow in found)
        mistakes.unique((f"{key}.name", name) for key, name in names)
        return tuple(sorted((flow for _, flow in found), key=lambda one: one.priority))

    def _directions(self, mistakes: Mistakes, key: str, rule: FlowTable) -> tuple[Choice, Choice | None]:
        if rule.drop:
            return DROP, None
        resort = rule.resort()
        both = self._policy(mistakes, f"{key}.policy", rule.policy) if rule.policy else self.choice(mistakes, key, rule)
        ways = {}
        for name, value in (("down", rule.down), ("up", rule.up)):
            if value is None:
                ways[name] = both
            elif isinstance(value, str):
                ways[name] = self._policy(mistakes, f"{key}.{name}", value)
            else:
                names = self._known(mistakes, _indexed(f"{key}.{name}", value))
                ways[name] = Choice(tuple((Member(one),) for one in names), stay=rule.stay, last_resort=resort)
                if name == "up":
                    self._check_senders(mistakes, f"{key}.up", value)
        return ways["down"], None if ways["up"] == ways["down"] else ways["up"]

    def _policy(self, mistakes: Mistakes, key: str, name: str) -> Choice:
        if name not in self.policies:
            known = ", ".join(self.policies) or "none"
            mistakes.add(key, f"expected the name of a [[policy]] ({known}), got '{name}'")
        return self.policies.get(name, Choice())

    def _check_senders(self, mistakes: Mistakes, key: str, names: list[str]) -> None:
        receivers = {link.name for link in self.links if link.receive_only}
        for index, name in enumerate(names):
            if name in receivers:
                mistakes.add(f"{key}[{index}]", f"expected a link that is sent over, but {name} is receive_only")

    def choice(self, mistakes: Mistakes, key: str, table: ChoiceTable) -> Choice:
        """What a policy or a rule says of its links."""
        resort = table.resort()
        if table.via:
            names = self._known(mistakes, _indexed(f"{key}.via", table.via))
            return Choice(tuple((Member(name),) for name in names), stay=table.stay, last_resort=resort)
        if table.copy_:
            names = self._known(mistakes, _indexed(f"{key}.copy", table.copy_))
            return Choice((tuple(Member(name) for name in names),), copy=True, last_resort=resort)
        tiers: dict[int, dict[str, int | None]] = {}
        balance = bool(table.balance)
        for name, shares in (("share", table.share), ("balance", table.balance)):
            if isinstance(shares, dict):
                tiers[1] = shares
                self._known(mistakes, _indexed(f"{key}.{name}", list(shares)))
        for index, member in enumerate(table.members if isinstance(table, PolicyTable) else ()):
            self._known(mistakes, [(f"{key}.members[{index}].link", member.link)])
            if member.link in tiers.setdefault(member.preference, {}):
                mistakes.add(f"{key}.members[{index}].link", f"{member.link} stands twice with this preference")
            tiers[member.preference][member.link] = member.weight
        members = tuple(tier for _, one in sorted(tiers.items()) if (tier := self._tier(one, balance)))
        return Choice(members, balance=balance, stay=table.stay, last_resort=resort)

    def _tier(self, shares: Mapping[str, int | None], balance: bool) -> tuple[Member, ...]:
        """Without any weights they are the links' rates in Mbit/s, if all of these are known; else 1 each. Where the
        load is balanced the rates count anyway."""
        weights: dict[str, int | None] = {}
        for name, weight in shares.items():
            for link in self._expand(name, weights):
                weights[link] = weight
        rates = {link.name: link.max_rate for link in self.links}
        known = [rates.get(link) for link in weights]
        scale = all(rate is not None for rate in known) and not any(weights.values()) and not balance

        def rated(link: str) -> int:
            rate = rates.get(link) if scale else None
            return 1 if rate is None else min(max(round(rate / 10**6), 1), MAXIMUM_WEIGHT)

        return tuple(Member(link, rated(link) if weight is None else weight) for link, weight in weights.items())

    def _known(self, mistakes: Mistakes, names: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """The links that names, given with their keys, stand for; whatever is no link is a mistake."""
        mistakes.unique(names)
        known = [link.name for link in self.links]
        found: dict[str, None] = {}
        for key, name in names:
            if name not in known and name not in ANY:
                text = f"expected the name of a [[link]] ({', '.join(known) or 'none'}), got '{name}'"
                mistakes.add(key, text)
                continue
            expanded = self._expand(name, found)
            if name in ANY and not self._expand(name, {}):
                mistakes.add(key, f"no [[link]] is {name.removeprefix('any ')}")
            found |= dict.fromkeys(expanded)
        return tuple(found)

    def _expand(self, name: str, before: Mapping[str, object]) -> list[str]:
        """A link itself, or the links of a class that were not named before."""
        if name not in ANY:
            return [name]
        return [
            link.name
            for link in sorted(self.links, key=lambda link: link.priority)
            if link.name not in before and (name == "any" or link.metered == (name == "any metered"))
        ]


def _indexed(key: str, names: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{key}[{index}]", name) for index, name in enumerate(names)]
