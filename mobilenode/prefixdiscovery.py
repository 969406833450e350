"""Mobile prefix discovery: what becomes of the home prefix (RFC 6275 §11.4.2, §11.4.3).

It is asked for when the home agent says so (status 1), when an advertisement came that nobody asked for, and when the
home prefix is about to end. Advertisements are not authenticated, so one can no more shorten a lifetime to less than
two hours than a router advertisement can (RFC 4862 §5.5.3 (e)).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from mip6.actions import Action, Report, SendPacket
from mip6.headers import SignallingPacket
from mip6.icmp6 import MobilePrefixAdvertisement, MobilePrefixSolicitation, build_icmp6
from mobilenode.registration import Registration
from mobilenode.settings import MobileNodeSettings

if TYPE_CHECKING:
    from random import Random

FIRST_WAIT = 3.0  # seconds, doubled each time
TRIES = 4
INTERVAL = 5.0  # seconds between two solicitations that an unauthenticated message caused
SHORTEST_LIFETIME = 7200.0  # seconds
RENEW = 3600.0  # seconds before the home prefix ends
INFINITE = 0xFFFFFFFF


@dataclass(slots=True)
class Solicitation:
    """A solicitation whose advertisement has not come."""

    identifier: int
    tries: int = 0
    due: float = 0.0


class PrefixDiscovery:
    """Asks for the prefixes of the home link, and keeps until when the home address is valid in `state.home_until`."""

    def __init__(self, settings: MobileNodeSettings, state: Registration, random: Random) -> None:
        self._settings = settings
        self._state = state
        self._random = random
        self._asked: Solicitation | None = None
        self._quiet = 0.0  # no new question before
        self._renewed = False

    def advance(self, now: float) -> list[Action]:
        """Send what is due."""
        state, actions = self._state, list[Action]()
        if state.home_until is not None and state.home_until <= now:
            actions.append(Report("home prefix has ended", "error", {"home_address": str(self._settings.home_address)}))
            state.home_until = None
        if state.home_until is not None and not self._renewed and now >= state.home_until - RENEW:
            self._renewed, state.solicit = True, True
        if state.solicit:
            state.solicit = False
            self._asked = Solicitation(self._random.getrandbits(16), due=now)
        asked = self._asked
        if asked is None or now < asked.due:
            return actions
        if asked.tries == TRIES:
            self._asked = None
            return [*actions, Report("mobile prefix solicitation not answered", "warning")]
        source = state.source(asked.tries)
        if source is None or state.home is not None or state.home_agent is None:
            self._asked = None  # at home, router advertisements tell; without a link, the next registration will
            return actions
        assert isinstance(source.address, IPv6Address)
        home = self._settings.home_address
        message = MobilePrefixSolicitation(asked.identifier)
        packet = build_icmp6(source.address, state.home_agent, message, home_address=home)
        asked.due = now + FIRST_WAIT * 2.0**asked.tries
        asked.tries += 1
        return [*actions, SendPacket(packet, source.link)]

    def deadlines(self) -> list[tuple[float, str]]:
        """When `advance` has to be called again, and why."""
        times = [] if self._asked is None else [(self._asked.due, "mobile prefix solicitation")]
        if self._state.home_until is not None:
            ends = self._state.home_until
            times.append((ends if self._renewed else ends - RENEW, "home prefix ends"))
        return times

    def advertised(
        self, packet: SignallingPacket, message: MobilePrefixAdvertisement, now: float
    ) -> list[Action] | None:
        """RFC 6275 §11.4.3: from the home agent, by type 2 routing header, in answer to the last question; else None.
        One that looks right but was not asked for is asked for."""
        if packet.source != self._state.home_agent or packet.routing_address != self._settings.home_address:
            return None
        if self._asked is None or message.identifier != self._asked.identifier:
            if self._asked is None and now >= self._quiet:
                self._quiet = now + INTERVAL
                self._state.solicit = True
            return None
        self._asked, self._renewed = None, False
        home = self._settings.home_address
        found = {IPv6Network((int(one.prefix), min(one.length, 128)), strict=False): one for one in message.prefixes()}
        lifetimes = [one.valid_lifetime for prefix, one in found.items() if prefix.prefixlen and home in prefix]
        fields = {"prefixes": {str(prefix): one.valid_lifetime for prefix, one in found.items()}}
        if not lifetimes:
            return [Report("home prefix is not among those of the home link", "warning", fields)]
        endless = INFINITE in lifetimes
        self._state.home_until = None if endless else now + max(SHORTEST_LIFETIME, *map(float, lifetimes))
        return [Report("home prefixes", fields=fields)]
