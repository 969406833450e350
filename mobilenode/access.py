"""Access: how each link reaches the home agent: by IPv6 or IPv4, natively or inside UDP (RFC 5555 §4.4.1).

How it thinks. What a link offers is a list of ways, best first: IPv6, IPv4, then UDP over either. A link begins with
the first and goes on to another for one of two reasons:

* its Binding Updates are not answered: three in a row, and not when the home agent answers nobody any more who was
  answered before. The next way that signals differently is tried; over IPv4 signalling is inside UDP always;
* its Binding Updates are answered, but no probe inside the tunnel is: something on the way drops native tunnels. Then
  UDP of the same family is tried, and kept if probes get through. If they do not either, nobody may be answering probes
  at all, and the native way is as good.

What was found out about a network (by its router and prefix) is remembered while the agent runs, and a way that is not
the best is given up for a new try now and then: after RETRY, twice as long each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from mip6.actions import Action, Report
from mip6.events import LinkState
from mobilenode.movement import Network, Way, network
from mobilenode.settings import LinkSettings, MobileNodeSettings

UNANSWERED = 3  # Binding Updates without an answer until another way is tried (RFC 5555 §4.4.1)
LAST_WAIT = 1.5  # seconds that the last of them has for its answer
ROUND, LONGEST_ROUND = 30.0, 600.0  # seconds between turns once all ways were tried; doubled each round
VERIFICATION = 2.0  # seconds that probes have to get through a new tunnel
REMEMBERED = 256  # networks
RETRY, LONGEST_RETRY = 3600.0, 86400.0  # seconds until the best way is tried again


@dataclass(slots=True)
class Memory:
    """What is known of one network."""

    way: Way
    retry: float | None = None  # when the best way is tried again
    patience: float = RETRY
    proven: bool = False  # a Binding Update was answered by this way
    verified: bool = False  # a probe got through its tunnel
    hopeless: bool = False  # no way gets probes through: they say nothing here
    refused: bool = False  # the home agent does not take part in UDP without need


@dataclass(slots=True)
class Attachment:
    """One link and the network it is attached to."""

    key: Network
    ways: tuple[Way, ...]
    memory: Memory
    unanswered: int = 0
    sent: float = 0.0  # when the last Binding Update left by it
    turns: int = 0  # to another way, since one was answered
    not_before: float = 0.0  # when the next turn may come: after a round without any answer they become rare
    verify: float | None = None  # when probes must have got through
    udp: bool = False  # its data goes inside UDP already, by this way or because of a NAT
    suspected: bool = False  # probes stopped: the next answer to a Binding Update tells whether the link is alive

    def open(self) -> tuple[Way, ...]:
        """The ways that may be tried, best first."""
        allowed = tuple(way for way in self.ways if not way.udp) if self.memory.refused else self.ways
        return allowed or self.ways


@dataclass(slots=True)
class Access:
    """The ways of all links. `probing`: there are probes inside the tunnels, so that their absence means something."""

    settings: MobileNodeSettings
    probing: bool = False
    _memories: dict[Network, Memory] = field(default_factory=dict)
    _links: dict[str, Attachment] = field(default_factory=dict)

    def observe(self, links: Iterable[LinkState]) -> None:
        """A new snapshot: links that are attached to another network begin anew, or as remembered."""
        observed = {link.name: link for link in links if link.up}
        for wanted in self.settings.links:
            link = observed.get(wanted.name)
            offered = ways(link, wanted, self.settings) if link is not None else ()
            if link is None or not offered:
                self._links.pop(wanted.name, None)
                continue
            key = network(link, self.settings, offered[0].ipv6)
            assert key is not None  # it offers this family
            old = self._links.get(wanted.name)
            if old is not None and old.key == key and old.memory.way in offered:
                old.ways = offered
                continue
            memory = self._memories.pop(key, Memory(offered[0]))
            if memory.way not in offered:
                memory = Memory(offered[0])
            self._memories[key] = memory  # the last one, and so the last to be forgotten
            if len(self._memories) > REMEMBERED:
                del self._memories[next(iter(self._memories))]
            self._links[wanted.name] = Attachment(key, offered, memory)

    def chosen(self) -> dict[str, Way]:
        """The way of each link that has one."""
        return {name: one.memory.way for name, one in self._links.items()}

    def unanswered(self, link: str) -> int:
        """How many Binding Updates in a row were not answered that left by this link."""
        return self._links[link].unanswered if link in self._links else 0

    def sent(self, link: str, now: float) -> None:
        """A Binding Update left by this link."""
        if link in self._links:
            self._links[link].unanswered += 1
            self._links[link].sent = now

    def answered(self, link: str, now: float) -> None:
        """The home agent answered a Binding Update that left by this link."""
        one = self._links.get(link)
        if one is None:
            return
        if one.unanswered > 1:  # it was silent too: the home agent was, and the other links are not to blame
            for other in self._links.values():
                other.unanswered = 0
        one.unanswered, one.turns, one.not_before, one.memory.proven = 0, 0, 0.0, True
        if one.suspected:  # a home agent that was away answers too: probes have a moment to get through again
            one.suspected, one.memory.verified, one.verify = False, False, now + VERIFICATION

    def registered(self, link: str, udp: bool, now: float) -> None:
        """The home agent holds the binding of this link: from now on its tunnel, which is `udp` or not, carries probes.
        Without probes nothing else can be found out."""
        one = self._links.get(link)
        if one is None:
            return
        one.udp = udp
        if not self.probed(link):
            one.memory.proven = True
        elif one.verify is None and self._in_question(one):
            one.verify = now + VERIFICATION

    def probed(self, name: str) -> bool:
        """Whether probes go through the tunnel of this link, so that their absence means something."""
        return self.probing and any(link.probe for link in self.settings.links if link.name == name)

    def path_up(self, link: str) -> None:
        """A probe got through."""
        if link in self._links:
            one = self._links[link]
            one.memory.verified = one.memory.proven = True
            one.verify, one.suspected = None, False

    def path_down(self, link: str) -> bool:
        """Probes stopped getting through. Whether a Binding Update over this link is wanted: if that is answered, it is
        the tunnel that is blocked; and a NAT that forgot its mapping makes a new one."""
        one = self._links.get(link)
        if one is None:
            return False
        one.suspected = one.memory.verified and not one.memory.way.udp and _udp_of(one) is not None
        return one.suspected or one.memory.way.udp or not one.memory.way.ipv6

    def udp_refused(self, link: str) -> list[Action]:
        """The home agent does not accept the F flag (RFC 5555 §4.4.2: without it, then); nothing when that is the only
        way that is allowed."""
        one = self._links.get(link)
        if one is None or not one.memory.way.udp:
            return []
        one.memory.refused = True
        way = one.open()[0]
        return [] if way.udp else self._turn(link, one, way, "the home agent refuses UDP")

    def expire(self, now: float, answering: Set[str] = frozenset()) -> list[Action]:
        """What time brings: Binding Updates without an answer, verifications that failed, new tries. `answering` are
        the links whose probes get through now."""
        actions: list[Action] = []
        for name, one in self._links.items():
            memory = one.memory
            if self._given_up(one) is not None and self._patient_until(one) <= now:
                actions += self._signalling_failed(name, one, now)
            elif one.verify is not None and one.verify <= now:
                one.verify = None
                if name in answering:
                    self.path_up(name)
                else:
                    actions += self._data_failed(name, one, now)
            elif memory.retry is not None and memory.retry <= now:
                memory.retry, memory.hopeless = None, False
                memory.patience = min(2 * memory.patience, LONGEST_RETRY)
                actions += self._turn(name, one, one.ways[0], "a new try")
        return actions

    def deadline(self) -> float | None:
        """When `expire` has something to do."""
        found: list[float | None] = []
        for one in self._links.values():
            given_up = self._given_up(one)
            found += [one.verify, one.memory.retry, None if given_up is None else self._patient_until(one)]
        return min((when for when in found if when is not None), default=None)

    # --- how it is decided --------------------

    def _in_question(self, one: Attachment) -> bool:
        memory = one.memory
        if not self.settings.sends(one.key[0]):
            return False  # no probe is sent over it, so that none is answered says nothing
        alternative = memory.way != one.ways[0] if memory.way.udp else _udp_of(one) is not None
        return alternative and not (memory.verified or memory.hopeless)

    def _given_up(self, one: Attachment) -> Way | None:
        """The way to try next when Binding Updates over this link stay unanswered. One that was proven is kept while
        nobody is answered: then it is the home agent that is silent."""
        others = any(
            other is not one and other.memory.proven and not other.unanswered for other in self._links.values()
        )
        if one.unanswered < UNANSWERED or (one.memory.proven and not others):
            return None
        ways = one.open()
        at = ways.index(one.memory.way) if one.memory.way in ways else -1
        following = ways[at + 1 :] + ways[: max(at, 0)]
        return next((way for way in following if way.signalling != one.memory.way.signalling), None)

    def _patient_until(self, one: Attachment) -> float:
        return max(one.sent + LAST_WAIT, one.not_before)

    def _signalling_failed(self, link: str, one: Attachment, now: float) -> list[Action]:
        way = self._given_up(one)
        assert way is not None
        one.turns += 1
        rounds, rest = divmod(one.turns, len({each.signalling for each in one.ways}))
        if rest == 0:
            one.not_before = now + min(ROUND * 2.0**rounds, LONGEST_ROUND)
        return self._turn(link, one, way, "Binding Updates are not answered", now)

    def _data_failed(self, link: str, one: Attachment, now: float) -> list[Action]:
        """The tunnel carries nothing. From native to UDP; from UDP, where it was no better, back for good."""
        udp = _udp_of(one)
        if not one.memory.way.udp and udp is not None:
            return self._turn(link, one, udp, "no probe gets through the tunnel", now)
        if one.memory.way.udp and one.memory.way != one.ways[0]:
            one.memory.hopeless = True
            native = next((way for way in one.ways if not way.udp and way.ipv6 == one.memory.way.ipv6), None)
            return [] if native is None else self._turn(link, one, native, "no probe gets through UDP either")
        return []

    def _turn(self, link: str, one: Attachment, way: Way, why: str, now: float | None = None) -> list[Action]:
        memory = one.memory
        memory.way, memory.proven, memory.verified = way, False, False
        one.unanswered, one.verify, one.suspected, one.udp = 0, None, False, way.udp
        if now is not None and way != one.ways[0]:
            memory.retry = now + memory.patience
        return [Report("another way to the home agent", "warning", {"link": link, "way": str(way), "why": why})]


def ways(link: LinkState, wanted: LinkSettings, settings: MobileNodeSettings) -> tuple[Way, ...]:
    """What a link offers, best first (RFC 5555 §4.4.1), as far as its settings allow it."""
    families = [ipv6 for ipv6 in (True, False) if _allowed(ipv6, wanted, settings) and network(link, settings, ipv6)]
    native, udp = (tuple(Way(ipv6, inside) for ipv6 in families) for inside in (False, True))
    return {"auto": native + udp, "native": native, "udp": udp}[wanted.encapsulation]


def _allowed(ipv6: bool, wanted: LinkSettings, settings: MobileNodeSettings) -> bool:
    return wanted.family in ("auto", "ipv6" if ipv6 else "ipv4") and (ipv6 or bool(settings.home_agents_ipv4))


def _udp_of(one: Attachment) -> Way | None:
    """The way to try when native data gets nowhere; None where it is not native."""
    if one.udp:
        return None
    return next((way for way in one.open() if way.udp and way.ipv6 == one.memory.way.ipv6), None)
