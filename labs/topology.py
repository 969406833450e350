"""A network as data: nodes, their interfaces, links, routes, router advertisements and daemons.

A topology says what there is, `labs.render` what that means in the words of ip, tc, radvd and nft, and
`labs.namespaces` makes it real. All values are frozen and checked when they are made, so that a wrong topology fails
before the first namespace exists.

    two = Topology(
        "two",
        nodes=(Node("a", (interface("eth0", "2001:db8::1/64"),)), Node("b", (interface("eth0", "2001:db8::2/64"),))),
        links=(Link("a:eth0", "b:eth0", rate=5_000_000),),
    )
    with Lab(two) as lab:
        lab["a"].run("ip", "-6", "route", "get", "2001:db8::2")
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

from labs.emulation import DEFAULT_QUEUE, Quality
from mip6.forwarding import IPAddress, IPNetwork

_NODE_NAME = re.compile(r"[a-z][a-z0-9]*")
_INTERFACE_NAME = re.compile(r"[a-z][a-z0-9.]{0,14}")  # Linux: at most 15 characters
RELAY = "relay"  # the namespace of the emulated links' process
_PREFERENCES = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Advertisement:
    """Router advertisements on an interface (RFC 4861 §4.2): one prefix for SLAAC and this node as default router.

    Lifetimes and intervals in seconds, `preference` as RFC 4191. `home_agent` sets the H flag and the R flag with the
    router's address in the prefix (RFC 6275 §7.1 and §7.2). The intervals are those that RFC 6275 §7.5 allows.
    """

    prefix: IPv6Network
    valid_lifetime: int = 3600
    preferred_lifetime: int = 1800
    router_lifetime: int = 1800
    preference: str = "medium"
    interval: tuple[float, float] = (0.2, 0.4)
    home_agent: bool = False

    def __post_init__(self) -> None:
        if self.preference not in _PREFERENCES:
            raise ValueError(f"router preference {self.preference!r}: expected one of {', '.join(_PREFERENCES)}")
        if not self.preferred_lifetime <= self.valid_lifetime:
            raise ValueError(f"prefix {self.prefix}: preferred lifetime exceeds the valid one")


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of a node.

    `addresses` are static, without duplicate address detection. With `autoconf` the kernel does SLAAC, also on a node
    that forwards; `dad` makes its addresses go through duplicate address detection (about a second); `token` fixes
    the interface identifier of its addresses.
    """

    name: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    autoconf: bool = False
    dad: bool = False
    token: IPv6Address | None = None
    advertises: Advertisement | None = None

    def __post_init__(self) -> None:
        if not _INTERFACE_NAME.fullmatch(self.name) or self.name == "lo":
            raise ValueError(f"interface name {self.name!r}: expected up to 15 of a-z, 0-9 and dot, and not lo")


@dataclass(frozen=True, slots=True)
class Route:
    """A static route. Without a device it is of type `unreachable`: what nothing better matches ends here."""

    destination: IPNetwork
    device: str | None = None
    via: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Daemon:
    """`python -m PROGRAM --config FILE` on a node. `settings` is the TOML file as a mapping.

    The lab adds the paths of the control socket (and of the home agent's state) to the table named like the program.
    """

    program: str
    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Node:
    """One network namespace. `nftables` is a ruleset for it, as nft reads it: a NAT, or packets that are dropped.

    A `switch` joins all its interfaces into one link by a bridge; it has nothing else.
    """

    name: str
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    forwarding: bool = False
    daemons: tuple[Daemon, ...] = ()
    nftables: str = ""
    switch: bool = False

    def __post_init__(self) -> None:
        if not _NODE_NAME.fullmatch(self.name):
            raise ValueError(f"node name {self.name!r}: expected a letter, then letters and digits, all lower case")
        names = [interface.name for interface in self.interfaces]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ValueError(f"node {self.name}: interface {twice[0]} is declared twice")
        for route in self.routes:
            if route.device is not None and route.device not in names:
                raise ValueError(f"node {self.name}: route to {route.destination} by unknown interface {route.device}")
        if self.switch and (self.forwarding or self.routes or any(one.addresses for one in self.interfaces)):
            raise ValueError(f"node {self.name}: a switch has no addresses and no routes")
        if not self.forwarding and any(interface.advertises for interface in self.interfaces):
            raise ValueError(f"node {self.name}: a node that advertises itself as router must forward")

    def interface(self, name: str) -> Interface:
        """The interface of that name; KeyError if there is none."""
        for interface in self.interfaces:
            if interface.name == name:
                return interface
        raise KeyError(f"node {self.name} has no interface {name}")


@dataclass(frozen=True, slots=True)
class Link:
    """A point-to-point link between two interfaces, written `node:interface`.

    The figures are those of `labs.emulation.Quality`, for both directions, unless `up` gives others for the direction
    from `b` to `a`. A link with a `name` is an access link: traffic is counted on it, where the router of end `a`,
    which is the side of the infrastructure, forwards it, or at `counted` (`node:interface`). `emulated`: its figures
    may change while the lab runs, and it can be cut; a link with delay, jitter or loss is so by itself. `modem`: both
    ends are devices of raw IP without Ethernet header, as a cellular modem's; it is emulated too, and a loss of its
    carrier may be told up to a second late.
    """

    a: str
    b: str
    rate: int | None = None
    mtu: int = 1500
    queue: int = DEFAULT_QUEUE
    name: str | None = None
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    up: Quality | None = None
    emulated: bool = False
    modem: bool = False
    counted: str | None = None
    qualities: tuple[Quality, Quality] = field(init=False)  # from `a` to `b`, and back

    def __post_init__(self) -> None:
        down = Quality(self.rate, self.delay, self.jitter, self.loss, self.queue)
        object.__setattr__(self, "qualities", (down, down if self.up is None else self.up))

    @property
    def ends(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """(node, interface) of both ends."""
        (a, a_interface), (b, b_interface) = self.a.split(":"), self.b.split(":")
        return (a, a_interface), (b, b_interface)

    @property
    def counted_at(self) -> tuple[str, str]:
        """(node, interface) of the router that counts."""
        node, interface = (self.counted or self.a).split(":")
        return node, interface

    @property
    def is_emulated(self) -> bool:
        """More than a cable with a rate."""
        return self.emulated or self.modem or not all(quality.only_rate for quality in self.qualities)


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole network. Nodes are started in the order given and stopped in the reverse order."""

    name: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...] = ()
    _by_name: Mapping[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {node.name: node for node in self.nodes})
        if len(self._by_name) != len(self.nodes):
            raise ValueError(f"topology {self.name}: two nodes have the same name")
        if RELAY in self._by_name:
            raise ValueError(f"topology {self.name}: a node may not be called {RELAY}: the emulated links' process is")
        names = Counter(link.name for link in self.links if link.name is not None)
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"topology {self.name}: two links are called {twice[0]}")
        joined = Counter(end for link in self.links for end in link.ends)
        declared = {(node.name, interface.name) for node in self.nodes for interface in node.interfaces}
        for end, times in joined.items():
            if end not in declared:
                raise ValueError(f"topology {self.name}: link at {':'.join(end)}, which no node declares")
            if times > 1:
                raise ValueError(f"topology {self.name}: {':'.join(end)} is in {times} links")
        if loose := sorted(declared - joined.keys()):
            raise ValueError(f"topology {self.name}: interface {':'.join(loose[0])} is in no link")

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @property
    def access_links(self) -> dict[str, Link]:
        """The links that have a name, by name."""
        return {link.name: link for link in self.links if link.name is not None}


def readvertised(node: Node, interface: str, settings: Mapping[str, Any]) -> Node:
    """The node with other settings for what it advertises on an interface."""
    was = node.interface(interface)
    if was.advertises is None:
        raise ValueError(f"node {node.name}: nothing is advertised on {interface}")
    becomes = replace(was, advertises=replace(was.advertises, **settings))
    return replace(node, interfaces=tuple(becomes if one is was else one for one in node.interfaces))


def interface(
    name: str,
    *addresses: str,
    autoconf: bool = False,
    dad: bool = False,
    token: str | None = None,
    advertises: Advertisement | None = None,
) -> Interface:
    """An Interface from text: `interface("eth0", "2001:db8::1/64")`."""
    return Interface(
        name,
        tuple(ip_interface(address) for address in addresses),
        autoconf=autoconf,
        dad=dad,
        token=None if token is None else IPv6Address(token),
        advertises=advertises,
    )


def route(destination: str, device: str | None = None, via: str | None = None) -> Route:
    """A Route from text; `default` is ::/0. Without a device the destination is unreachable."""
    network = ip_network("::/0" if destination == "default" else destination)
    return Route(network, device, None if via is None else ip_address(via))


def advertise(prefix: str, **settings: object) -> Advertisement:
    """An Advertisement of `prefix`, with the settings of the class by name."""
    return Advertisement(IPv6Network(prefix), **settings)  # type: ignore[arg-type]
