"""Dual stack as the home agent applies it (RFC 5555 §4.5, RFC 5648 §8): IPv4 care-of addresses, NATs, IPv4 home
addresses. Pure functions of (settings, entry, Binding Update).

A care-of address is learned from the outer header only of a Binding Update that proved its sender and names that one
binding. So nothing but the next authentic Binding Update moves a binding, and the Binding Update is also what keeps a
NAT's mapping alive (docs/decisions/udp-encapsulation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from homeagent.bindingcache import Binding, BindingCacheEntry
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.forwarding import DSMIP_PORT, Encapsulation, IPAddress
from mip6.messages import BindingUpdate
from mip6.numbers import BindingStatus, IPv4Status, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    BindingIdentifier,
    IPv4AddressAcknowledgement,
    IPv4CareOfAddress,
    IPv4HomeAddress,
    NatDetection,
    Option,
)
from mip6.udp import UdpEnds
from mip6.values import value

NO_KEEPALIVE = 0xFFFFFFFF  # NAT Detection: no NAT, nothing to keep alive (RFC 5555 §3.2.2)
UNSPECIFIED = IPv4Address(0)

Allocate = Callable[[IPv4Address], IPv4Address | None]
"""An IPv4 home address for the node in question, the given one if it may have it; None: none is left."""


@value
class Place:
    """Where a binding's packets go and in what; the fields of `Binding`."""

    care_of_address: IPAddress
    encapsulation: Encapsulation = Encapsulation.NATIVE
    port: int = DSMIP_PORT
    inside: IPAddress | None = None


def place(
    settings: HomeAgentSettings,
    stated: IPAddress,
    known: Binding | None,
    outer: UdpEnds | None,
    flags: UpdateFlag,
    *,
    alone: bool,
) -> Place | BindingStatus:
    """Where a binding is that a Binding Update states with the care-of address `stated`, or the status to refuse it.

    `known` is the binding of that BID so far, `outer` the UDP encapsulation of the Binding Update. Its source belongs
    to this binding if the Binding Update names it `alone`: only then NATs are looked for (RFC 5648 §8.1).
    """
    ipv4 = isinstance(stated, IPv4Address)
    forced = alone and UpdateFlag.FORCE_UDP in flags
    if ipv4 and settings.ipv4_address is None:
        return BindingStatus.REASON_UNSPECIFIED
    if alone and outer is not None and isinstance(outer.remote, IPv4Address) == ipv4:
        nat = outer.remote != stated
        if forced and not nat and settings.udp_encapsulation == "refuse":
            return _FORCE_REFUSED
        udp = nat or forced or settings.udp_encapsulation == "force"
        encapsulation = Encapsulation.UDP if udp else Encapsulation.NATIVE
        return Place(outer.remote, encapsulation, outer.remote_port, stated if nat else None)
    if (ipv4 or outer is not None) and known is not None and known.stated == stated:
        return Place(known.care_of_address, known.encapsulation, known.port, known.inside)
    if ipv4:
        return BindingStatus.MCOA_UNKNOWN_COA  # it is to be registered from that very address first
    if forced:
        return _FORCE_REFUSED if settings.udp_encapsulation == "refuse" else Place(stated, Encapsulation.UDP)
    return Place(stated)


# RFC 5555 §4.5 says 144, which RFC 4285 had taken for MIPV6-ID-MISMATCH
_FORCE_REFUSED = BindingStatus.ADMINISTRATIVELY_PROHIBITED


def udp_ends(settings: HomeAgentSettings, binding: Binding) -> UdpEnds | None:
    """The encapsulation of messages to this binding's care-of address; None: they go as they are."""
    if not binding.signalled_in_udp:
        return None
    remote = binding.care_of_address
    return UdpEnds(settings.local(remote), remote, remote_port=binding.port)


def stated_alone(update: BindingUpdate) -> IPAddress | None:
    """The one care-of address that a Binding Update inside UDP states; None: several, or none by any option."""
    identified: list[BindingIdentifier] = update.find_all(BindingIdentifier)
    if identified:
        return identified[0].care_of_address if len(identified) == 1 else None
    option: IPv4CareOfAddress | None = update.find(IPv4CareOfAddress)
    if option is not None:
        return option.care_of_address
    alternate: AlternateCareOfAddress | None = update.find(AlternateCareOfAddress)
    return None if alternate is None else alternate.care_of_address


def nat_detection(
    settings: HomeAgentSettings, update: BindingUpdate, outer: UdpEnds, stated: IPAddress | None
) -> NatDetection:
    """The option that every answer to a Binding Update inside UDP carries (RFC 5555 §4.2).

    `stated` is the care-of address that the Binding Update is about, None: more than one or none. Without NAT and force
    it says so by a refresh time of all ones, as its mere presence must not make the mobile node use UDP for data.
    """
    asked = UpdateFlag.FORCE_UDP in update.flags and settings.udp_encapsulation == "allow"
    forced = asked or settings.udp_encapsulation == "force"
    if not forced and stated == outer.remote:
        return NatDetection(False, NO_KEEPALIVE)
    return NatDetection(forced, settings.nat_refresh)  # a firewall that made it necessary forgets as a NAT does


def ipv4_home(
    settings: HomeAgentSettings, node: NodeSettings, entry: BindingCacheEntry, update: BindingUpdate, allocate: Allocate
) -> tuple[BindingCacheEntry, tuple[Option, ...]]:
    """The entry with the IPv4 home address and prefixes of a Binding Update that was accepted, and the options that
    answer it (RFC 5555 §4.5). Without the option the IPv4 binding ends (§4.4.2.1)."""
    home: IPv4Address | None = None
    prefixes: list[IPv4Network] = []
    answers: list[Option] = []
    asked: list[IPv4HomeAddress] = update.find_all(IPv4HomeAddress)
    if not asked and entry.ipv4_home_address is None and not entry.ipv4_prefixes:
        return entry, ()
    for option in asked:
        granted: IPv4Network | IPv4Status
        if option.prefix_length == 0 or option.prefix_length > 32:
            granted = IPv4Status.INVALID_ADDRESS
        elif option.prefix_requested or option.prefix_length < 32:
            granted = _prefix(node, option, prefixes)
        elif home is not None:
            granted = IPv4Status.ADMINISTRATIVELY_PROHIBITED  # one IPv4 home address for each IPv6 one
        else:
            granted = _address(settings, node, option.home_address, allocate)
        if isinstance(granted, IPv4Status):
            answers.append(IPv4AddressAcknowledgement(granted, 0, option.home_address))
            continue
        if option.prefix_requested or option.prefix_length < 32:
            prefixes.append(granted)
        else:
            home = granted.network_address
        answers.append(IPv4AddressAcknowledgement(IPv4Status.SUCCESS, granted.prefixlen, granted.network_address))
    return replace(entry, ipv4_home_address=home, ipv4_prefixes=tuple(prefixes)), tuple(answers)


def _address(
    settings: HomeAgentSettings, node: NodeSettings, wanted: IPv4Address, allocate: Allocate
) -> IPv4Network | IPv4Status:
    """A static address is the node's alone; a node without one gets what the pool has."""
    if node.ipv4_home_address is not None:
        if wanted not in (UNSPECIFIED, node.ipv4_home_address):
            return IPv4Status.INCORRECT_HOME_ADDRESS
        return IPv4Network(node.ipv4_home_address)
    if settings.ipv4_home_pool is None:
        dynamic = wanted == UNSPECIFIED
        return IPv4Status.DYNAMIC_ASSIGNMENT_UNAVAILABLE if dynamic else IPv4Status.ADMINISTRATIVELY_PROHIBITED
    found = allocate(wanted)
    if found is None:
        return IPv4Status.DYNAMIC_ASSIGNMENT_UNAVAILABLE
    if wanted not in (UNSPECIFIED, found):
        return IPv4Status.INCORRECT_HOME_ADDRESS
    return IPv4Network(found)


def _prefix(node: NodeSettings, option: IPv4HomeAddress, granted: list[IPv4Network]) -> IPv4Network | IPv4Status:
    """A mobile network prefix of the node's own: the one that is named, or any when none is."""
    if option.home_address == UNSPECIFIED:
        free = [one for one in node.ipv4_prefixes if one not in granted]
        return free[0] if free else IPv4Status.PREFIX_UNAUTHORIZED
    wanted = IPv4Network((int(option.home_address), option.prefix_length), strict=False)
    if any(wanted.subnet_of(own) for own in node.ipv4_prefixes) and wanted not in granted:
        return wanted
    return IPv4Status.PREFIX_UNAUTHORIZED


class Ipv4HomeAddresses:
    """Who has which IPv4 home address. One of the pool stays its node's until another needs it and the node is gone."""

    def __init__(self, settings: HomeAgentSettings, cache: Mapping[IPv6Address, BindingCacheEntry]) -> None:
        self._cache = cache
        self.configure(settings)
        self._owners: dict[IPv4Address, IPv6Address] = {}
        self._addresses: dict[IPv6Address, IPv4Address] = {}

    def configure(self, settings: HomeAgentSettings) -> None:
        """These settings hold from now on, the pool is the same."""
        self._settings = settings
        self._pool = settings.ipv4_home_pool
        self.reserved: frozenset[object] = frozenset(
            node.ipv4_home_address for node in settings.nodes if node.ipv4_home_address is not None
        )

    def hold(self, entry: BindingCacheEntry) -> None:
        """What this entry says, of an earlier run or of `bind`, is taken."""
        address, home = entry.ipv4_home_address, entry.home_address
        if address is None or not self._usable(address):
            return
        before = self._owners.get(address, home)
        if before != home:  # one that is gone had it before: its record says so still
            if not entry.bindings:
                return
            self._addresses.pop(before, None)
        self._owners[address], self._addresses[home] = home, address

    def bind(
        self, node: NodeSettings, entry: BindingCacheEntry, update: BindingUpdate
    ) -> tuple[BindingCacheEntry, tuple[Option, ...]]:
        """`ipv4_home` for an accepted Binding Update; nothing for one that only ends bindings and asks for nothing."""
        if not entry.bindings or (update.lifetime == 0 and update.find(IPv4HomeAddress) is None):
            return entry, ()
        home = entry.home_address
        return ipv4_home(self._settings, node, entry, update, lambda wanted: self._allocate(home, wanted))

    def _allocate(self, home: IPv6Address, wanted: IPv4Address) -> IPv4Address | None:
        """The address that `home` had, else the `wanted` one if it is free, else any that is."""
        had = self._addresses.get(home)
        if had is not None:
            return had
        found = wanted if self._usable(wanted) and wanted not in self._owners else self._free()
        if found is not None:
            self._addresses.pop(self._owners.get(found, home), None)
            self._owners[found], self._addresses[home] = home, found
        return found

    def _usable(self, address: IPv4Address) -> bool:
        return self._pool is not None and address in self._pool and address not in self.reserved

    def _free(self) -> IPv4Address | None:
        if self._pool is None:
            return None
        for address in self._pool.hosts():
            if address not in self._owners and address not in self.reserved:
                return address
        return next((one for one, owner in self._owners.items() if not self._bound(owner)), None)

    def _bound(self, home: IPv6Address) -> bool:
        entry = self._cache.get(home)
        return entry is not None and bool(entry.bindings)


def reachable(settings: HomeAgentSettings, entry: BindingCacheEntry) -> BindingCacheEntry:
    """A restored entry less the bindings that the home agent has no address for any more."""
    if settings.ipv4_address is not None:
        return entry
    return entry.without({one.bid for one in entry.bindings if isinstance(one.care_of_address, IPv4Address)})
