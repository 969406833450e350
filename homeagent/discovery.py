"""What mobile nodes ask a home agent by ICMPv6: which home agents there are (RFC 6275 §10.5), which prefixes (§10.6).

The Home Agents List has this home agent, those that are configured, and on a home link those that say so in their
router advertisements. The prefixes are the configured ones, valid for ever: nothing changes while the daemon runs, so
no advertisement is sent that nobody asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from homeagent.registration import is_unicast_routable
from homeagent.settings import HomeAgentSettings
from mip6.actions import SendPacket
from mip6.events import RouterAdvertised
from mip6.headers import SignallingPacket
from mip6.icmp6 import (
    HomeAgentDiscoveryReply,
    HomeAgentDiscoveryRequest,
    MobilePrefixAdvertisement,
    MobilePrefixSolicitation,
    build_icmp6,
)
from mip6.neighbourdiscovery import HomeAgentInformation, PrefixInformation, decode_router_advertisement
from mip6.ratelimit import RateLimit
from mip6.wire import FormError

if TYPE_CHECKING:
    from random import Random

MOST_ADDRESSES = (1280 - 40 - 8) // 16  # in a reply that needs no fragments
MOST_HOME_AGENTS = 256  # on one link; more is not a link but an attack
AUTONOMOUS = 64  # the prefix length that address autoconfiguration takes
DISCOVERIES_PER_SECOND = 10
ADVERTISEMENT_INTERVAL = 1.0  # seconds between two advertisements to one mobile node (RFC 6275 §10.6.2 by §12)


@dataclass(frozen=True, slots=True)
class HomeAgentsEntry:
    """One entry of the Home Agents List; `expires` None is never. Higher `preference` is better."""

    addresses: tuple[IPv6Address, ...]
    preference: int
    mobile_router: bool
    expires: float | None = None


class Discovery:
    """The Home Agents List and the answers. `random` mixes home agents of equal preference."""

    def __init__(self, settings: HomeAgentSettings, random: Random) -> None:
        self._random = random
        self.configure(settings)
        self._learned: dict[IPv6Address, HomeAgentsEntry] = {}  # by link-local address
        self._requests = RateLimit(DISCOVERIES_PER_SECOND, DISCOVERIES_PER_SECOND)
        self._advertised: dict[IPv6Address, float] = {}  # when each mobile node was last sent an advertisement

    def configure(self, settings: HomeAgentSettings) -> None:
        """These settings hold from now on."""
        self._settings = settings
        self._serves_routers = settings.insecure or any(node.mobile_router for node in settings.nodes)

    # --- the Home Agents List --------------------

    def learn(self, event: RouterAdvertised, now: float) -> None:
        """RFC 6275 §10.5.1 in its order; FormError when it is not well formed."""
        advertisement = decode_router_advertisement(event.message)
        source = event.source
        if not source.is_link_local:
            raise FormError(f"router advertisement from {source}")  # RFC 4861 §6.1.2
        if not advertisement.home_agent:
            self._learned.pop(source, None)
            return
        told = next((one for one in advertisement.options if isinstance(one, HomeAgentInformation)), None)
        lifetime = advertisement.router_lifetime if told is None else told.lifetime
        if lifetime == 0:
            self._learned.pop(source, None)
            return
        known = self._learned.get(source)
        addresses = dict.fromkeys(known.addresses if known is not None and now < (known.expires or 0) else ())
        for option in advertisement.options:
            if isinstance(option, PrefixInformation) and option.router_address and is_unicast_routable(option.prefix):
                addresses[option.prefix] = None
        self._learned = {link: one for link, one in self._learned.items() if now < (one.expires or 0)}
        if source in self._learned or len(self._learned) < MOST_HOME_AGENTS:
            preference, routers = (told.preference, told.mobile_router) if told is not None else (0, False)
            found = tuple(addresses)[-MOST_ADDRESSES:]
            self._learned[source] = HomeAgentsEntry(found, preference, routers, now + lifetime)

    def home_agents(self, now: float) -> list[HomeAgentsEntry]:
        """Every entry that holds, best first, in random order among equals (RFC 6275 §10.5.1)."""
        own = HomeAgentsEntry((self._settings.address,), self._settings.preference, self._serves_routers)
        others = [
            HomeAgentsEntry((address,), self._settings.preference - position, self._serves_routers)
            for position, address in enumerate(self._settings.other_home_agents, start=1)
        ]
        learned = [one for one in self._learned.values() if now < (one.expires or 0)]
        entries = [own, *others, *learned]
        self._random.shuffle(entries)
        return sorted(entries, key=lambda one: -one.preference)

    # --- answers --------------------

    def discovery_reply(
        self, packet: SignallingPacket, request: HomeAgentDiscoveryRequest, now: float
    ) -> SendPacket | None:
        """To the source of the request; home agents for mobile routers only, if there are any (RFC 3963 §7.1)."""
        if not self._requests.allow(now):
            return None
        entries = self.home_agents(now)
        routers = [one for one in entries if one.mobile_router] if request.mobile_router else []
        addresses: dict[IPv6Address, None] = {}
        for entry in routers or entries:
            addresses |= dict.fromkeys(self._random.sample(entry.addresses, len(entry.addresses)))
        found = tuple(addresses)[:MOST_ADDRESSES]
        reply = HomeAgentDiscoveryReply(request.identifier, bool(routers), 0, found)
        return SendPacket(build_icmp6(self._settings.address, packet.source, reply))

    def prefix_advertisement(
        self, packet: SignallingPacket, solicitation: MobilePrefixSolicitation, now: float
    ) -> SendPacket | None:
        """To the source of the solicitation, whose binding the caller has looked at (RFC 6275 §10.6.3)."""
        home = packet.sender()
        if now < self._advertised.get(home, now - ADVERTISEMENT_INTERVAL) + ADVERTISEMENT_INTERVAL:
            return None
        self._advertised[home] = now
        on_link = self._settings.home_link is not None
        prefixes = tuple(
            PrefixInformation(
                prefix.prefixlen, on_link, on_link and prefix.prefixlen == AUTONOMOUS, prefix=prefix.network_address
            )
            for prefix in self._settings.home_prefixes
        )
        message = MobilePrefixAdvertisement(solicitation.identifier, False, False, 0, prefixes)
        return SendPacket(build_icmp6(self._settings.address, packet.source, message, routing_address=home))
