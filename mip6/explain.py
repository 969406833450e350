"""Why a packet goes where it goes: the walk through one end's rules, told step by step. Pure.

The walk is the data plane's own: `matching.matches` on the rules of the forwarding table, in their order, until an
active one matches. An engine adds what the table does not say: names, rules that do not hold now, and why a binding
is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any

from mip6.forwarding import End, FlowRule, ForwardingTable, Node
from mip6.lookup import Plain
from mip6.matching import matches
from mip6.numbers import Protocol
from mip6.packet import PORT_PROTOCOLS, Parsed
from mip6.selectors import TrafficSelector, describe

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "dccp": 33, "esp": 50, "ah": 51, "icmp": 1, "icmpv6": 58}
_HOP_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Absent:
    """A rule that is not in the table now, and why."""

    fid: int
    priority: int
    name: str
    selector: TrafficSelector
    why: str


@dataclass(frozen=True, slots=True)
class Background:
    """What an engine knows beside its table. `names` and `ways` by FID; `unused`, `links` and `loads` by BID: the last
    says where the weights come from of the rules that are `balanced`."""

    names: Mapping[int, str] = field(default_factory=dict)
    ways: Mapping[int, str] = field(default_factory=dict)
    links: Mapping[int, str] = field(default_factory=dict)
    unused: Mapping[int, str] = field(default_factory=dict)
    absent: Sequence[Absent] = ()
    loads: Mapping[int, str] = field(default_factory=dict)
    balanced: frozenset[int] = frozenset()

    def why(self, rule: FlowRule | None, bid: int) -> str | None:
        """Why a binding that is used has its weight."""
        return self.loads.get(bid) if rule is not None and rule.weights and rule.fid in self.balanced else None


def question(arguments: Mapping[str, object]) -> Parsed:
    """The packet that is asked about: `source`, `destination`, `protocol`, `source_port`, `destination_port`, `dscp`,
    `flow_label`; ValueError says what is wrong."""
    try:
        source = ip_address(str(arguments["source"]))
        destination = ip_address(str(arguments["destination"]))
    except KeyError as error:
        raise ValueError(f"expected a {error.args[0]}") from None
    if source.version != destination.version:
        raise ValueError("source and destination are of two IP versions")
    protocol = _number(arguments, "protocol", 255, PROTOCOLS)
    if str(arguments.get("protocol")).lower() == "icmp" and source.version == 6:
        protocol = PROTOCOLS["icmpv6"]
    ports: tuple[int, int] | None = None
    if arguments.get("source_port") is not None or arguments.get("destination_port") is not None:
        if protocol not in PORT_PROTOCOLS:
            raise ValueError("this protocol has no ports")
        ports = _number(arguments, "source_port", 0xFFFF), _number(arguments, "destination_port", 0xFFFF)
    elif protocol in PORT_PROTOCOLS:
        raise ValueError("expected source port and destination port with this protocol")
    traffic_class = _number(arguments, "dscp", 63, default=0) << 2
    label = _number(arguments, "flow_label", 0xFFFFF, default=0)
    return Parsed(source.version, source, destination, traffic_class, label, _HOP_LIMIT, 0, protocol, 0, ports)


def _number(
    arguments: Mapping[str, object],
    name: str,
    highest: int,
    names: Mapping[str, int] | None = None,
    default: int | None = None,
) -> int:
    value = arguments.get(name)
    if value is None and default is not None:
        return default
    text = str(value).lower()
    if names is not None and text in names:
        return names[text]
    if not (text.isascii() and text.isdigit() and int(text) <= highest):
        known = f" or one of {', '.join(names)}" if names else ""
        raise ValueError(f"{name}: expected a number from 0 to {highest}{known}, got {value!r}")
    return int(text)


def explain(table: ForwardingTable, packet: Parsed, known: Mapping[IPv6Address, Background]) -> dict[str, Any]:
    """What this end does with a packet that it sends into a tunnel. `known` by home address."""
    uplink = table.end is End.MOBILE_NODE
    lookup = Plain(table)
    node = lookup.owner(packet.source if uplink else packet.destination)
    if node is None:
        return _foreign(lookup, packet, uplink)
    told = known.get(node.home_address, Background())
    steps, chosen = walk(node.rules, {one.bid for one in node.tunnels if one.usable}, packet, uplink, told)
    answer: dict[str, Any] = {
        "ok": True,
        "node": str(node.home_address),
        "direction": "from the mobile node" if uplink else "to the mobile node",
        "decides": "mobile node" if uplink else "home agent",
        "rules": steps,
    }
    return answer | _outcome(node, chosen, told)


def walk(
    rules: Sequence[FlowRule], usable: set[int], packet: Parsed, reverse: bool, told: Background
) -> tuple[list[dict[str, Any]], FlowRule | None]:
    """Every rule that matches up to the one that decides, each with what became of it; and that one."""
    steps: list[tuple[int, dict[str, Any]]] = []
    chosen: FlowRule | None = None
    if packet.protocol == Protocol.MOBILITY:  # signalling is exempt from flow rules
        return [], None
    for rule in rules:
        if not matches(rule.selector, packet, reverse):
            continue
        name = told.names.get(rule.fid, "local rule" if rule.fid == 0 else f"flow{rule.fid}")
        active = rule.drop or not usable.isdisjoint(rule.bids)
        verdict = "decides" if active else "matches, but none of its links works"
        step = {"fid": rule.fid, "name": name, "selector": describe(rule.selector), "verdict": verdict}
        steps.append((rule.priority, step | {"way": told.ways.get(rule.fid)}))
        if active:
            chosen = rule
            break
    for one in told.absent:
        before = chosen is None or one.priority < chosen.priority
        if before and matches(one.selector, packet, reverse):
            step = {"fid": one.fid, "name": one.name, "selector": describe(one.selector), "way": None}
            steps.append((one.priority, step | {"verdict": f"would match, but {one.why}"}))
    return [step for _, step in sorted(steps, key=lambda one: one[0])], chosen


def _outcome(node: Node, rule: FlowRule | None, told: Background) -> dict[str, Any]:
    usable = [one for one in node.tunnels if one.usable]
    if rule is not None and rule.drop:
        taken: dict[int, int | None] = {}
        words = "it is dropped, and its sender told that there is no route" if rule.unreachable else "it is dropped"
    elif rule is None:
        taken = {one.bid: None for one in usable[:1]}
        words = "no rule decides: the best link takes it" if taken else "no link works: it is dropped"
    else:
        weights = dict(zip(rule.bids, rule.weights, strict=True)) if rule.weights else {}
        taken = {one.bid: weights.get(one.bid) for one in usable if one.bid in rule.bids}
        several = "each new flow takes one of them, by weight" if weights else "one copy over each"
        words = several if len(taken) > 1 else "it takes this link"
    tunnels = [
        {
            "bid": one.bid,
            "link": told.links.get(one.bid),
            "care_of_address": str(one.local if told.links else one.remote),
            "used": one.bid in taken,
            "weight": taken.get(one.bid),
            "why": told.why(rule, one.bid)
            if one.bid in taken
            else told.unused.get(one.bid, "works, but is not chosen"),
        }
        for one in node.tunnels
    ]
    there = {one.bid for one in node.tunnels}
    for bid, why in told.unused.items():
        if bid not in there:
            absent = {"bid": bid, "link": told.links.get(bid), "care_of_address": None, "used": False}
            tunnels.append({**absent, "weight": None, "why": why})
    return {"outcome": words, "bindings": sorted(tunnels, key=lambda one: int(str(one["bid"])))}


def _foreign(lookup: Plain, packet: Parsed, uplink: bool) -> dict[str, Any]:
    other = lookup.owner(packet.destination if uplink else packet.source)
    if other is None:
        who = "neither address belongs to a mobile node that is registered here"
        return {
            "ok": True,
            "node": None,
            "direction": None,
            "decides": None,
            "rules": [],
            "outcome": who,
            "bindings": [],
        }
    decides = "home agent" if uplink else "mobile node"
    return {
        "ok": True,
        "node": str(other.home_address),
        "direction": "to the mobile node" if uplink else "from the mobile node",
        "decides": decides,
        "rules": [],
        "outcome": f"the {decides} decides over which link it comes: ask there",
        "bindings": [],
    }
