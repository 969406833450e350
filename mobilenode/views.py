"""What follows from a mobile node's state: forwarding table, kernel state, status. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Any, TypeVar

from mip6.actions import KernelState, LocalAddress, Route, Rule, UdpEndpoint
from mip6.forwarding import (
    MINIMUM_MTU,
    Encapsulation,
    End,
    FlowRule,
    ForwardingTable,
    IPAddress,
    IPNetwork,
    Node,
    Tunnel,
    overhead,
)
from mip6.probeflows import probe_rules
from mip6.selectors import describe
from mobilenode.movement import CareOfAddress
from mobilenode.policy import Direction, resolve
from mobilenode.registration import Goal, Registration
from mobilenode.settings import FlowSettings, MobileNodeSettings

RULE_PRIORITY = 1000  # in front of the kernel's own rules for main (32766)
DEFAULT, DEFAULT4 = IPv6Network("::/0"), IPv4Network("0.0.0.0/0")
MINIMUM_MTU_IPV4 = 576  # octets; hardly any path has less (RFC 1191 §5)

Part = TypeVar("Part", Tunnel, FlowRule, Node)


def usable(state: Registration) -> dict[int, CareOfAddress]:
    """The care-of addresses that packets may be sent from now, by BID, best first.

    The home agent drops packets from care-of addresses it does not know, so a new one waits for its acknowledgement
    while another works: a link that returns loses nothing. Alone, it is used right after the Binding Update was sent
    (RFC 6275 §11.6.3). Never one of a receive-only link.
    """
    active = [one for one in state.active() if state.settings.sends(one.link)]
    registered = {one.bid: one for one in active if state.registered(one)}
    if registered or state.hold is not None or state.stopped is not None:
        return registered
    return {one.bid: one for one in _told(state, active)}


def _told(state: Registration, among: Iterable[CareOfAddress]) -> list[CareOfAddress]:
    """Those that the home agent may hold."""
    possible = state.update_list.possible_bindings().values()
    told = {binding.where() for values in possible for binding in values if binding is not None}
    return [one for one in among if state.binding(one).where() in told]


def registered_prefixes(settings: MobileNodeSettings, state: Registration) -> tuple[IPv6Network, ...]:
    """The mobile network prefixes; none while the home agent refuses to serve a mobile router (RFC 3963 §5.4)."""
    return settings.prefixes if state.mobile_router else ()


def forwarding_table(
    settings: MobileNodeSettings, state: Registration, path_mtus: Mapping[IPAddress, int], old: ForwardingTable
) -> ForwardingTable:
    """The desired data plane. At home no tunnels, but until the home agent has let go of the last binding what it still
    sends through them is taken. `path_mtus` are learned, of outer packets, by care-of address."""
    before = old.nodes.get(settings.home_address)
    away = state.home is None
    sending = usable(state) if away else {}
    tunnels: tuple[Tunnel, ...] = ()
    rules: tuple[FlowRule, ...] = ()
    if state.home_agent is not None and (away or not state.cleared):
        known = _told(state, state.active())
        tunnels = tuple(
            _tunnel(settings, state, one, path_mtus.get(one.address, one.mtu), one.bid in sending) for one in known
        )
        if away:
            flows = resolve(state.rules, state.in_use(sending.values()), Direction.UP, state.factors)
            rules = tuple(flow.rule() for flow in flows)
        if away and settings.paths.probe:
            bids = sorted(one.bid for one in known)
            rules = probe_rules(settings.home_address, state.home_agent, bids) + rules
    prefixes: tuple[IPNetwork, ...] = (*registered_prefixes(settings, state), *ipv4_networks(state))
    if before is not None:
        tunnels = _reuse(tunnels, before.tunnels)
        rules = _reuse(rules, before.rules)
    copied = tuple(flow.selector for flow in settings.flows if flow.down.copy)
    node = Node(settings.home_address, prefixes, tunnels, rules, copied)
    table = ForwardingTable(
        End.MOBILE_NODE,
        settings.home_address,
        MappingProxyType({settings.home_address: before if before == node else node}),
        eliminate_duplicates=settings.eliminate_duplicates,
        ipv4_address=state.ipv4.address,
        zero_checksum=settings.udp_zero_checksum,
        provisional=_is_provisional(state),
    )
    return old if table == old else table


def _tunnel(
    settings: MobileNodeSettings, state: Registration, one: CareOfAddress, path_mtu: int, usable: bool
) -> Tunnel:
    assert state.home_agent is not None
    held = state.update_list.held.get(one.bid)
    # what has no answer yet and signals inside UDP may be behind a NAT
    udp = held.udp if held is not None and state.registered(one) else one.signals_in_udp
    encapsulation = Encapsulation.UDP if udp else Encapsulation.NATIVE
    smallest = MINIMUM_MTU if isinstance(one.address, IPv6Address) else MINIMUM_MTU_IPV4
    return Tunnel(
        one.bid,
        one.address,
        settings.far_end(state.home_agent, one.address),
        max(smallest, min(one.mtu, path_mtu)) - overhead(one.address, encapsulation),
        one.link,
        usable,
        encapsulation,
        expires=state.update_list.ends(state.binding(one)),
    )


def ipv4_networks(state: Registration) -> tuple[IPv4Network, ...]:
    """The inner IPv4 networks that the home agent granted; an IPv4 home address is one of length 32."""
    own = () if state.ipv4.address is None else (IPv4Network(state.ipv4.address),)
    return (*own, *state.ipv4.prefixes)


def _is_provisional(state: Registration) -> bool:
    """Whether nothing is known yet of what the home agent holds: it was asked, and has neither agreed nor refused."""
    if state.home is not None or state.goal is not Goal.REGISTERED:
        return False
    if state.hold is not None or state.stopped is not None:
        return False
    return not any(state.registered(one) for one in state.active())


def _reuse(new: tuple[Part, ...], old: tuple[Part, ...]) -> tuple[Part, ...]:
    """`new` with the old object wherever an equal one stood."""
    same = {one: one for one in old}
    return tuple(same.get(one, one) for one in new)


def kernel_state(settings: MobileNodeSettings, state: Registration) -> KernelState:
    """Away: home address and default route on the tunnel device, source routing per care-of address. At home: the home
    address on the home link, which the kernel's own default route leaves by."""
    routes: list[Route] = []
    rules: list[Rule] = []
    for one in state.care_of:
        rules.append(Rule(one.address, one.table, RULE_PRIORITY))
        routes.append(Route(one.on_link, one.link, table=one.table))
        default = DEFAULT if isinstance(one.address, IPv6Address) else DEFAULT4
        routes.append(Route(default, one.link, gateway=one.router, table=one.table))
    if state.home is not None:
        addresses = [LocalAddress(settings.home_address, state.home.name)]
    else:
        addresses = [LocalAddress(settings.home_address, settings.device)]
        routes.append(Route(DEFAULT, settings.device, source=settings.home_address, metric=settings.metric))
        if state.ipv4.address is not None:
            addresses.append(LocalAddress(state.ipv4.address, settings.device, 32))
        if state.ipv4.address is not None or state.ipv4.prefixes:
            # a DHCP client's default route may have the best metric there is: two halves are better than any
            for half in DEFAULT4.subnets():
                routes.append(Route(half, settings.device, source=state.ipv4.address, metric=settings.metric))
    sockets = [UdpEndpoint(one.address, device=one.link) for one in state.care_of if one.signals_in_udp]
    return KernelState(tuple(addresses), tuple(routes), tuple(rules), sockets=tuple(sockets))


def status(settings: MobileNodeSettings, state: Registration, counts: dict[str, int], now: float) -> dict[str, Any]:
    """The dict of docs/architecture.md without the data plane's counters."""
    bindings = [_binding_status(state, one, now) for one in sorted(state.care_of, key=lambda one: one.bid)]
    present = {one.link for one in state.care_of}
    for link in settings.links:
        if link.name not in present:
            bindings.append(
                {
                    "bid": link.bid,
                    "link": link.name,
                    "care_of_address": None,
                    "priority": link.priority,
                    "lifetime": 0,
                    "lifetime_left": 0.0,
                    "state": "down",
                }
            )
    down = {one.settings.fid: one.picked for one in resolve(state.rules, state.in_use(), Direction.DOWN, state.factors)}
    flows = [
        {
            "fid": flow.settings.fid,
            "name": flow.settings.name,
            "priority": flow.settings.priority,
            "selector": describe(flow.settings.selector),
            "bids": list(flow.picked.bids),
            "weights": list(flow.picked.weights),
            "down_bids": list(down[flow.settings.fid].bids),
            "down_weights": list(down[flow.settings.fid].weights),
            "active": bool(flow.picked.bids) or flow.picked.drop,
        }
        for flow in resolve(state.rules, state.in_use(usable(state).values()), Direction.UP, state.factors)
    ]
    return {
        "role": "mobilenode",
        "home_address": str(settings.home_address),
        "home_agent": str(state.home_agent) if state.home_agent is not None else None,
        "device": settings.device,
        "state": overall(state),
        "prefixes": [str(one) for one in (*registered_prefixes(settings, state), *state.ipv4.prefixes)],
        "ipv4_home_address": None if state.ipv4.address is None else str(state.ipv4.address),
        "bindings": sorted(bindings, key=lambda one: one["bid"]),
        "flows": flows,
        "signalling": counts,
    }


def rules(flows: Iterable[FlowSettings], state: Registration) -> list[dict[str, Any]]:
    """The rules by name, each with where it goes and what that comes to now."""
    holding = set(state.rules)
    up = {one.settings: one.picked for one in resolve(state.rules, state.in_use(usable(state).values()), Direction.UP)}
    told = state.update_list.flows
    found: dict[str, dict[str, Any]] = {}
    for flow in sorted(flows, key=lambda flow: flow.priority):
        rule = found.setdefault(
            flow.name,
            {
                "name": flow.name,
                "fids": [],
                "priority": flow.priority,
                "selectors": [],
                "up": flow.uplink.describe(),
                "down": flow.down.describe(),
                "schedule": None if flow.schedule is None else flow.schedule.describe(),
                "holds": flow in holding,
                "up_bids": list(up[flow].bids) if flow in up else [],
                "down_bids": list(told[flow.fid].bids) if flow.fid in told else [],
            },
        )
        rule["fids"].append(flow.fid)
        rule["selectors"].append(describe(flow.selector))
    return list(found.values())


def overall(state: Registration) -> str:
    """The state of the mobile node in one word."""
    if state.home is not None:
        return "at_home" if state.cleared else "registering"
    if state.stopped is not None:
        return "refused"
    if not state.care_of:
        return "no_link"
    if any(state.registered(one) for one in state.active()) and state.goal is Goal.REGISTERED:
        return "registered"
    return "refused" if state.hold is not None or not state.active() else "registering"


def _binding_status(state: Registration, one: CareOfAddress, now: float) -> dict[str, Any]:
    bound = next((active for active in state.active() if active.address == one.address), None)
    held = state.update_list.held[bound.bid] if bound is not None and state.registered(bound) else None
    if held is not None:
        word = "registered"
    elif bound is None or state.hold is not None or state.stopped is not None:
        word = "refused"
    else:
        word = "registering"
    return {
        "bid": one.bid if bound is None else bound.bid,
        "link": one.link,
        "care_of_address": str(one.address),
        "encapsulation": str(Encapsulation.UDP if (held.udp if held else one.signals_in_udp) else Encapsulation.NATIVE),
        "priority": one.priority,
        "lifetime": held.lifetime if held else 0,
        "lifetime_left": round(max(0.0, held.expires - now), 1) if held else 0.0,
        "state": word,
    }
