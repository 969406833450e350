"""Worlds in which the mobile node is behind a NAT, or may be."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from mip6.forwarding import Tunnel
from mip6.options import NatDetection, Option
from mobilenode.settings import LinkSettings, MobileNodeSettings
from tests.mobilenode.support import SETTINGS, World, link

AGENT4 = IPv4Address("203.0.113.1")
WLAN4, CELL4 = IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3")
SETTINGS4 = replace(SETTINGS, home_agents_ipv4=(AGENT4,))
BEHIND_NAT = NatDetection(False, 110)
NO_NAT = NatDetection(False, 0xFFFFFFFF)
FORCED = NatDetection(True, 110)


def with_links(**changes: str | int) -> MobileNodeSettings:
    links: tuple[LinkSettings, ...] = tuple(replace(one, **changes) for one in SETTINGS.links)  # type: ignore[arg-type]
    return replace(SETTINGS4, links=links)


def tunnel(world: World, bid: int = 1) -> Tunnel:
    return next(one for one in world.node().tunnels if one.bid == bid)


def answer(world: World, *extra: Option, status: int = 0) -> None:
    """To the last Binding Update, in its encapsulation; inside UDP the option of NAT detection is never missing."""
    world.answer(status=status, extra=extra)


def behind_nat(*extra: Option) -> World:
    """Registered from an IPv4-only link behind a NAT."""
    world = World(SETTINGS4)
    world.links(link("wlan0", WLAN4))
    answer(world, BEHIND_NAT, *extra)
    assert world.state() == "registered"
    return world
