"""Movement: which care-of addresses the observed links offer, and whether one of them is the home link.

Pure functions of a whole snapshot (`events.LinksObserved`) and of the choice made for the snapshot before, so that an
address keeps its BID and its routing table while it stays. The kernel does address autoconfiguration; nothing here
asks for addresses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mip6.events import AddressState, LinkState, RouterState
from mip6.forwarding import MOST_TUNNELS, IPAddress, IPNetwork
from mobilenode.settings import LinkSettings, MobileNodeSettings

BID_STEP = 100  # between the BIDs of one link's prefixes
MAXIMUM_BID = 0xFFFF
WORST_PRIORITY = 127  # RFC 6089 §4.1
LEAVING = 2.0  # seconds that an address whose prefix or router was withdrawn stays registered, for what is under way
SHORTEST_USE = 8.0  # seconds: two units of a Binding Update's lifetime, the first of which goes for asking


@dataclass(frozen=True, slots=True)
class CareOfAddress:
    """One care-of address: its BID, the link and router it is reached by, the routing table of its packets.

    `position` counts the prefixes of one link from 0. `mtu` is that of the path as far as it is known, in octets;
    `on_link` the prefix the address came from. `valid_until`, on the engine's clock, is when the address ends unless a
    router renews it; None: never. `udp`: the home agent is asked to use UDP encapsulation whatever it finds. One with
    `leaving` is used for nothing any more; until then it stays registered, so that what is under way still arrives.
    """

    bid: int
    address: IPAddress
    link: str
    position: int
    priority: int
    table: int
    router: IPAddress
    on_link: IPNetwork
    mtu: int
    valid_until: float | None = None
    udp: bool = False
    leaving: float | None = None

    @property
    def signals_in_udp(self) -> bool:
        """Whether its Binding Updates go inside UDP (RFC 5555 §4.2: always, over IPv4), and so from itself alone."""
        return self.udp or isinstance(self.address, IPv4Address)

    def source(self) -> Source:
        """Where its own Binding Updates leave."""
        return Source(self.address, self.link, self.signals_in_udp)

    @property
    def ends(self) -> float | None:
        """When it is to be deregistered: so long before the address ends that this is of use, or when it has left."""
        valid = None if self.valid_until is None else self.valid_until - SHORTEST_USE
        return min((one for one in (valid, self.leaving) if one is not None), default=None)

    def ending(self, now: float) -> bool:
        """Whether that is now."""
        ends = self.ends
        return ends is not None and now >= ends


@dataclass(frozen=True, slots=True)
class Way:
    """How a link reaches the home agent; `udp`: data goes inside UDP even where no NAT makes it necessary."""

    ipv6: bool = True
    udp: bool = False

    @property
    def signalling(self) -> tuple[bool, bool]:
        """What Binding Updates look like; over IPv4 they are inside UDP always."""
        return self.ipv6, self.udp or not self.ipv6

    def __str__(self) -> str:
        return f"{'UDP over ' if self.udp else ''}{'IPv6' if self.ipv6 else 'IPv4'}"


Network = tuple[str, IPAddress, IPNetwork]  # link, router and prefix: what a way was found out about


@dataclass(frozen=True, slots=True)
class Source:
    """An address of the mobile node, and the link that signalling from it leaves by; `udp`: inside UDP."""

    address: IPAddress
    link: str
    udp: bool = False


@dataclass(frozen=True, slots=True)
class HomeLink:
    """The access link that turned out to be the home link."""

    name: str
    router: IPAddress | None


def home_link(links: Iterable[LinkState], settings: MobileNodeSettings) -> HomeLink | None:
    """The link that carries an address of the home prefix, None away from home (RFC 6275 §11.5.5).

    The home address itself proves nothing: the agent puts it there. No router is needed, the home agent is a neighbour.
    """
    configured = {link.name for link in settings.links}
    for link in links:
        if link.up and link.name in configured:
            for address in link.addresses:
                if address.address != settings.home_address and _valid(address) and _at_home(address, settings):
                    return HomeLink(link.name, _router(link, True))
    return None


def care_of_addresses(
    links: Iterable[LinkState],
    settings: MobileNodeSettings,
    previous: tuple[CareOfAddress, ...],
    now: float,
    chosen: Mapping[str, Way],
) -> tuple[CareOfAddress, ...]:
    """The care-of addresses to register, in the order of the configured links, of a snapshot taken `now`. Each link's
    are of the family of its `chosen` way.

    The BID-PRI of an address whose router is not the link's most preferred (RFC 4191 §2.1) is one worse.
    A link needs carrier and a default router: without a router nothing sent from its address gets anywhere
    (RFC 6275 §11.5.3 wants the care-of address from a prefix of the present router).
    """
    observed = {link.name: link for link in links}
    taken = {link.bid for link in settings.links}
    found: list[CareOfAddress] = []
    for index, wanted in enumerate(settings.links):
        link = observed.get(wanted.name)
        way = chosen.get(wanted.name)
        if link is None or not link.up or way is None:
            continue
        before = {one.position: one for one in previous if one.link == wanted.name}
        candidates = _candidates(link, settings, before.values(), way.ipv6)
        preferred = max((_preference(link, address) for address in candidates), default=0)
        for position, address in _positions(candidates, before).items():
            bid = wanted.bid + BID_STEP * position
            if bid > MAXIMUM_BID or (position and bid in taken):
                continue  # the BID belongs to another link: that prefix is left unused
            router = _router_of(link, address)
            if router is None:
                continue
            taken.add(bid)
            found.append(
                CareOfAddress(
                    bid=bid,
                    address=address.address,
                    link=link.name,
                    position=position,
                    priority=min(wanted.priority + (_preference(link, address) < preferred), WORST_PRIORITY),
                    table=settings.table_base + index + position * len(settings.links),
                    router=router,
                    on_link=_prefix(address),
                    mtu=_mtu(link, wanted),
                    valid_until=None if address.valid_lifetime is None else now + address.valid_lifetime,
                    udp=way.udp,
                )
            )
    stay = tuple(one for one in found if not one.ending(now))
    bids = {one.bid for one in stay}
    leaving = [one for one in previous if stay and one.bid not in bids and _is_there(one, observed, chosen)]
    left = (replace(one, leaving=now + LEAVING if one.leaving is None else one.leaving) for one in leaving)
    return (*stay, *(one for one in left if not one.ending(now)))


def registrable(found: tuple[CareOfAddress, ...], previous: tuple[CareOfAddress, ...]) -> tuple[CareOfAddress, ...]:
    """As many of the care-of addresses `found` as a home agent binds, in their order: those that stay before those that
    leave, the first of each link before its others, so that a router which advertises many prefixes displaces no other
    link; then by priority, and what was registered before."""
    bids = {one.bid for one in previous}
    of_link: Counter[str] = Counter()
    ranked = []
    for index, one in enumerate(found):
        ranked.append(((one.leaving is not None, of_link[one.link], one.priority, one.bid not in bids, index), one))
        of_link[one.link] += 1
    chosen = {one.bid for _, one in sorted(ranked, key=lambda entry: entry[0])[:MOST_TUNNELS]}
    return tuple(one for one in found if one.bid in chosen)


def _is_there(one: CareOfAddress, observed: Mapping[str, LinkState], chosen: Mapping[str, Way]) -> bool:
    """Whether an address that is no care-of address any more still is one of its link. A router that is no default
    router any more, or whose prefix is not preferred, forwards what comes, and delivers."""
    link, way = observed.get(one.link), chosen.get(one.link)
    if link is None or not link.up or (way is not None and isinstance(one.address, IPv6Address) != way.ipv6):
        return False
    return any(address.address == one.address and _valid(address) for address in link.addresses)


def network(link: LinkState, settings: MobileNodeSettings, ipv6: bool) -> Network | None:
    """The network of this family that a link is attached to, None if it offers no care-of address."""
    router, candidates = _router(link, ipv6), _candidates(link, settings, (), ipv6)
    return (link.name, router, _prefix(candidates[0])) if router is not None and candidates else None


def _candidates(
    link: LinkState, settings: MobileNodeSettings, before: Iterable[CareOfAddress], ipv6: bool
) -> list[AddressState]:
    """At most one address per prefix, all of the best class the link has, and of present routers where it has such.

    The classes: preferred, preferred temporary, deprecated, deprecated temporary. A deprecated address serves only
    where the link has nothing better (RFC 4862 §5.5.4), a temporary one changes too often to be a good care-of address.
    """
    held = {one.address for one in before}
    of_family = [one for one in link.addresses if isinstance(one.address, IPv6Address) == ipv6]
    valid = [one for one in of_family if _valid(one) and _global(one, settings)]
    usable = [one for one in valid if _present_routers(link, one)] or valid
    best = min((_rank(one) for one in usable), default=None)
    by_prefix: dict[IPNetwork, AddressState] = {}
    for one in sorted(usable, key=lambda one: (one.address not in held, int(one.address))):
        if _rank(one) == best:
            by_prefix.setdefault(_prefix(one), one)
    return sorted(by_prefix.values(), key=lambda one: int(one.address))


def _positions(addresses: list[AddressState], before: dict[int, CareOfAddress]) -> dict[int, AddressState]:
    """Each address at its position: the one it had, else the one its prefix had, else the lowest free one."""
    by_address: dict[IPAddress, int] = {one.address: position for position, one in before.items()}
    by_prefix = {one.on_link: position for position, one in before.items()}
    result = {by_address[one.address]: one for one in addresses if one.address in by_address}
    rest = [one for one in addresses if one.address not in by_address]
    for one in list(rest):
        position = by_prefix.get(_prefix(one))
        if position is not None and position not in result:
            result[position] = one
            rest.remove(one)
    for one in rest:
        result[next(n for n in range(len(addresses)) if n not in result)] = one
    return dict(sorted(result.items()))


def _valid(one: AddressState) -> bool:
    return not (one.tentative or one.dad_failed or (one.valid_lifetime is not None and one.valid_lifetime <= 0))


def _global(one: AddressState, settings: MobileNodeSettings) -> bool:
    """Whether an address can be a care-of address: unicast routable and none of the mobile node's inner addresses."""
    address = one.address
    if address.is_link_local or address.is_multicast or address.is_loopback or address.is_unspecified:
        return False
    if address in (settings.home_address, settings.ipv4_home_address) or _at_home(one, settings):
        return False
    own: tuple[IPNetwork, ...] = (*settings.prefixes, *settings.ipv4_prefixes)
    return not any(address in prefix for prefix in own)


def _at_home(one: AddressState, settings: MobileNodeSettings) -> bool:
    return settings.home_prefix is not None and one.address in settings.home_prefix


def _rank(one: AddressState) -> tuple[bool, bool]:
    return one.deprecated, one.temporary


def _prefix(one: AddressState) -> IPNetwork:
    kind = IPv6Network if isinstance(one.address, IPv6Address) else IPv4Network
    return kind((int(one.address), one.prefix_length), strict=False)


def _router(link: LinkState, ipv6: bool) -> IPAddress | None:
    """The default router of highest preference (RFC 4191 §3.1), the first one observed among equals."""
    return _best(_default_routers(link, ipv6))


def _router_of(link: LinkState, one: AddressState) -> IPAddress | None:
    """The default router for packets from an address: one that advertised its prefix, for another may refuse them."""
    return _best(_present_routers(link, one)) or _router(link, isinstance(one.address, IPv6Address))


def _present_routers(link: LinkState, one: AddressState) -> list[RouterState]:
    """The default routers that advertised an address's prefix; all of them while none was heard to."""
    routers = _default_routers(link, isinstance(one.address, IPv6Address))
    return [router for router in routers if not one.advertised_by or router.address in one.advertised_by]


def _default_routers(link: LinkState, ipv6: bool) -> list[RouterState]:
    return [one for one in link.routers if isinstance(one.address, IPv6Address) == ipv6]


def _preference(link: LinkState, one: AddressState) -> int:
    return max((router.preference for router in _present_routers(link, one)), default=0)


def _best(routers: Iterable[RouterState]) -> IPAddress | None:
    best = max(routers, key=lambda router: router.preference, default=None)
    return None if best is None else best.address


def _mtu(link: LinkState, wanted: LinkSettings) -> int:
    return min(link.mtu, wanted.mtu) if wanted.mtu is not None else link.mtu
