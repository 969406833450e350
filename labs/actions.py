"""What may happen in a story, as data; `labs.acting` does it. `says` is how a plot names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from labs.flows import DIRECTIONS, DOWN, UP

_AS_IT_IS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Carrier:
    """An access link loses its carrier, as seen by the mobile node, or gets it back."""

    link: str
    up: bool

    @property
    def says(self) -> str:
        return f"{self.link} {'has its carrier back' if self.up else 'loses its carrier'}"


@dataclass(frozen=True, slots=True)
class Change:
    """An emulated link gets other figures (fields of `labs.emulation.Quality`); nobody is told."""

    link: str
    says: str
    down: Mapping[str, object] = field(default_factory=lambda: _AS_IT_IS)
    up: Mapping[str, object] = field(default_factory=lambda: _AS_IT_IS)


def cut(link: str, *directions: str) -> Change:
    """From now on nothing passes, in both directions unless some are named, and no carrier is lost."""
    return _passing(link, directions or DIRECTIONS, cut=True)


def restore(link: str, *directions: str) -> Change:
    """The end of a cut."""
    return _passing(link, directions or DIRECTIONS, cut=False)


def _passing(link: str, directions: tuple[str, ...], *, cut: bool) -> Change:
    down, up = ({"cut": cut} if direction in directions else _AS_IT_IS for direction in (DOWN, UP))
    which = "" if len(directions) == len(DIRECTIONS) else f" {directions[0]}"
    return Change(link, f"{link}{which} {'cut without a signal' if cut else 'passes again'}", down, up)


@dataclass(frozen=True, slots=True)
class Advertise:
    """A router advertises otherwise from now on: fields of `labs.topology.Advertisement`."""

    node: str
    interface: str
    says: str
    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Kill:
    """A process of a node is killed (SIGKILL): a daemon, or radvd, which then says no farewell."""

    node: str
    program: str

    @property
    def says(self) -> str:
        return f"{self.program} on {self.node} killed"


@dataclass(frozen=True, slots=True)
class Start:
    """A daemon that was killed is started again."""

    node: str
    program: str

    @property
    def says(self) -> str:
        return f"{self.program} on {self.node} started"


@dataclass(frozen=True, slots=True)
class Operate:
    """The user of a node gives the command `mip6 WORDS`."""

    node: str
    words: tuple[str, ...]

    @property
    def says(self) -> str:
        return f"mip6 {' '.join(self.words)}"


@dataclass(frozen=True, slots=True)
class Run:
    """Any other command in a node."""

    node: str
    words: tuple[str, ...]
    says: str


@dataclass(frozen=True, slots=True)
class ForgetMappings:
    """A router that translates addresses forgets its mappings, as one that was restarted."""

    node: str

    @property
    def says(self) -> str:
        return f"the NAT {self.node} forgets its mappings"


@dataclass(frozen=True, slots=True)
class SetClock:
    """The clocks of all daemons say this time (ISO 8601, UTC) now, and go on from there."""

    time: str

    @property
    def says(self) -> str:
        return f"the clock says {self.time[11:16]}"


Action = Carrier | Change | Advertise | Kill | Start | Operate | Run | ForgetMappings | SetClock
