"""What the kernel knows of the access links: whole snapshots of links, addresses and routers, never increments."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network, ip_address

from mip6.events import AddressState, LinksObserved, LinkState, RouterAdvertised, RouterState
from mip6.forwarding import IPAddress
from mip6.neighbourdiscovery import PrefixInformation, decode_router_advertisement
from mip6.system import rtnetlink
from mip6.system.advertisements import RouterAdvertisements
from mip6.system.interfaces import carrier
from mip6.system.rtnetlink import (
    CLONED,
    GET_ADDRESS,
    GET_LINK,
    GET_ROUTE,
    OWN_PROTOCOL,
    UNICAST,
    UNIVERSE,
    UNSPECIFIED,
    attribute,
    parse_attributes,
)
from mip6.wire import FormError

MAIN_TABLE = 254

# Read here and not by pyroute2, which takes milliseconds for a snapshot: a link that is lost is felt that much longer.
_LINK, _ADDRESS = struct.Struct("=BxHiII"), struct.Struct("=BBBBI")  # struct ifinfomsg, struct ifaddrmsg
_ROUTE, _NEXT_HOP = struct.Struct("=BBBBBBBBI"), struct.Struct("=HBBi")  # struct rtmsg, struct rtnexthop
_U32 = struct.Struct("=I")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_EXT_MASK = 1, 3, 4, 29
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_PREF = 4, 5, 6, 9, 15, 20
_FAMILIES = (socket.AF_INET6, socket.AF_INET)

_IFF_UP, _IFF_RUNNING, _IFF_LOWER_UP = 0x1, 0x40, 0x10000
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_F_TEMPORARY, _F_DADFAILED, _F_DEPRECATED, _F_TENTATIVE = 0x01, 0x08, 0x20, 0x40  # IFA_F_*
_INFINITE = 0xFFFFFFFF
_PREFERENCES = {0: 0, 1: 1, 3: -1}  # RTA_PREF as in RFC 4191 §2.1; the reserved value counts as medium
_CARRIER_POLL = 0.05  # seconds
_AGAIN = 0.1  # seconds until links are read again that changed while they were
_ADVERTISERS = 8  # routers remembered for a prefix, the latest
_PREFIXES = 256  # prefixes whose routers are remembered, the latest to be new; more is not a link but an attack
_LIFETIME_TOLERANCE = 2.0  # seconds by which an expiry may move without being news


class LinkWatcher:
    """Calls `on_change` with a whole new snapshot whenever the links `names`, their addresses or routers change.

    A burst of notifications makes one snapshot. Lifetimes that run down are no news; lifetimes that were renewed are.
    The kernel may hold back the notification of a lost carrier for a second, so carrier is polled besides.
    A default route without gateway (point-to-point links) shows as a router with the unspecified address.
    """

    def __init__(self, names: Sequence[str], on_change: Callable[[LinksObserved], None]) -> None:
        self._names = tuple(names)
        self._on_change = on_change
        self._requests = rtnetlink.Requests()
        self._news = rtnetlink.Notifications(
            rtnetlink.GROUP_LINK,
            rtnetlink.GROUP_IPV6_ADDRESS,
            rtnetlink.GROUP_IPV6_ROUTE,
            rtnetlink.GROUP_IPV4_ADDRESS,
            rtnetlink.GROUP_IPV4_ROUTE,
        )
        self._last: tuple[LinksObserved, float] | None = None
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._carriers: list[bool | None] = []
        self._advertisers: dict[tuple[str, IPv6Network], tuple[IPv6Address, ...]] = {}
        self._advertisements: RouterAdvertisements | None = None

    def start(self) -> None:
        """Inside a running loop. Calls `on_change` with the first snapshot before it returns, or as soon as the kernel
        gives one."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._news.fileno(), self._notified)
        self._advertisements = RouterAdvertisements(None, self._advertised)
        self._poll_carrier()
        self._refresh()
        for name in self._names:
            with contextlib.suppress(OSError):  # it is not there; the kernel asks when it comes up
                self._advertisements.solicit(socket.if_nametoindex(name))

    def close(self) -> None:
        """Stop watching; `on_change` is not called any more."""
        if self._loop is not None:
            self._loop.remove_reader(self._news.fileno())
        self._loop = None
        if self._advertisements is not None:
            self._advertisements.close()
        self._news.close()
        self._requests.close()
        self._asking.close()

    def snapshot(self) -> LinksObserved:
        """The state of the links now, in the order of their names as given."""
        addresses: dict[int, list[AddressState]] = {}
        routers: dict[int, list[tuple[int, int, RouterState]]] = {}
        in_main = attribute(_RTA_TABLE, _U32.pack(MAIN_TABLE))
        for family in _FAMILIES:
            for message in self._requests.raw_dump(GET_ADDRESS, _ADDRESS.pack(family, 0, 0, 0, 0)):
                index, state = _address_state(message)
                if state is not None:
                    addresses.setdefault(index, []).append(state)
            whole = _ROUTE.pack(family, 0, 0, 0, MAIN_TABLE, 0, 0, 0, 0) + in_main
            for message in self._requests.raw_dump(GET_ROUTE, whole):
                for index, metric, router in _routers(message):
                    routers.setdefault(index, []).append((-router.preference, metric, router))
        found: dict[str, LinkState] = {}
        skipping = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _U32.pack(_SKIP_STATISTICS))
        for message in self._requests.raw_dump(GET_LINK, skipping):
            _, _, index, flags, _ = _LINK.unpack_from(message)
            attrs = parse_attributes(message[_LINK.size :])
            name = attrs[_IFLA_IFNAME].rstrip(b"\0").decode(errors="surrogateescape")
            best_first = sorted(routers.get(index, ()), key=lambda entry: (*entry[:2], _order(entry[2].address)))
            required = _IFF_UP | _IFF_RUNNING | _IFF_LOWER_UP
            found[name] = LinkState(
                name=name,
                index=index,
                up=flags & required == required,
                mtu=_U32.unpack(attrs[_IFLA_MTU])[0],
                link_layer_address=attrs.get(_IFLA_ADDRESS, b""),
                addresses=tuple(
                    self._with_advertisers(name, state)
                    for state in sorted(addresses.get(index, ()), key=lambda state: _order(state.address))
                ),
                routers=tuple(dict.fromkeys(router for _, _, router in best_first)),
            )
        return LinksObserved(tuple(found[name] for name in self._names if name in found))

    def _with_advertisers(self, name: str, state: AddressState) -> AddressState:
        if not isinstance(state.address, IPv6Address):
            return state
        prefix = IPv6Network((int(state.address), state.prefix_length), strict=False)
        return replace(state, advertised_by=self._advertisers.get((name, prefix), ()))

    def _advertised(self, event: RouterAdvertised) -> None:
        """RFC 4861 §6.3.4, of which the kernel does the rest."""
        if event.interface not in self._names:
            return
        try:
            options = decode_router_advertisement(event.message).options
        except FormError:
            return  # the kernel counts it
        for option in options:
            if isinstance(option, PrefixInformation) and option.autonomous and option.length <= 128:
                prefix = IPv6Network((int(option.prefix), option.length), strict=False)
                known = self._advertisers.get((event.interface, prefix), ())
                if option.valid_lifetime and event.source not in known:
                    self._advertisers[event.interface, prefix] = (*known, event.source)[-_ADVERTISERS:]
                    if len(self._advertisers) > _PREFIXES:
                        del self._advertisers[next(iter(self._advertisers))]
                    self._schedule()

    def _notified(self) -> None:
        if self._news.drain():
            self._schedule()

    def _poll_carrier(self) -> None:
        if self._loop is None:
            return
        self._loop.call_later(_CARRIER_POLL, self._poll_carrier)
        carriers = [carrier(self._asking, name) for name in self._names]
        if carriers != self._carriers:
            self._carriers = carriers
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._refresh)

    def _refresh(self) -> None:
        self._scheduled = False
        if self._loop is None:
            return
        try:
            now, observed = self._loop.time(), self.snapshot()
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            self._scheduled = True  # the kernel's tables change faster than they can be read
            self._loop.call_later(_AGAIN, self._refresh)
            return
        if self._last is None or not _same(self._last[0], observed, now - self._last[1]):
            self._last = observed, now
            self._on_change(observed)


def _order(address: IPAddress) -> tuple[int, int]:
    return -address.version, int(address)


def _address_state(message: bytes) -> tuple[int, AddressState | None]:
    """The interface and its address; None for one that is not of global scope."""
    family, prefix_length, flags, scope, index = _ADDRESS.unpack_from(message)
    if scope != UNIVERSE:
        return index, None
    attrs = parse_attributes(message[_ADDRESS.size :])
    if _IFA_FLAGS in attrs:
        (flags,) = _U32.unpack(attrs[_IFA_FLAGS])
    _, valid = struct.unpack_from("=II", attrs[_IFA_CACHEINFO])
    state = AddressState(
        address=ip_address(attrs.get(_IFA_LOCAL) or attrs[_IFA_ADDRESS]),  # IFA_ADDRESS of a peer link is the peer
        prefix_length=prefix_length,
        tentative=bool(flags & _F_TENTATIVE),
        deprecated=bool(flags & _F_DEPRECATED),
        # IPv4 has another meaning for the bit: secondary
        temporary=family == socket.AF_INET6 and bool(flags & _F_TEMPORARY),
        dad_failed=bool(flags & _F_DADFAILED),
        valid_lifetime=None if valid == _INFINITE else float(valid),
    )
    return index, state


def _routers(message: bytes) -> Iterator[tuple[int, int, RouterState]]:
    """The routers of a default route that is not the agent's own, as (interface index, metric, router)."""
    family, destination_length, _, _, _, protocol, _, kind, flags = _ROUTE.unpack_from(message)
    if destination_length or kind != UNICAST or flags & CLONED or protocol == OWN_PROTOCOL:
        return
    attrs = parse_attributes(message[_ROUTE.size :])
    preference = _PREFERENCES.get(attrs.get(_RTA_PREF, b"\0")[0], 0)
    metric = _U32.unpack(attrs[_RTA_PRIORITY])[0] if _RTA_PRIORITY in attrs else 0
    for index, gateway in _next_hops(attrs):
        yield index, metric, RouterState(gateway or UNSPECIFIED[family], preference)


def _next_hops(attrs: dict[int, bytes]) -> Iterator[tuple[int, IPAddress | None]]:
    """Interface index and gateway (None: on-link) of each next hop of a route."""
    several = attrs.get(_RTA_MULTIPATH, b"")
    while several:
        length, _, _, index = _NEXT_HOP.unpack_from(several)
        yield index, _gateway(parse_attributes(several[_NEXT_HOP.size : length]))
        several = several[length + 3 & ~3 :]
    if _RTA_OIF in attrs:
        yield _U32.unpack(attrs[_RTA_OIF])[0], _gateway(attrs)


def _gateway(attrs: dict[int, bytes]) -> IPAddress | None:
    return ip_address(attrs[_RTA_GATEWAY]) if _RTA_GATEWAY in attrs else None


def _same(before: LinksObserved, after: LinksObserved, elapsed: float) -> bool:
    """Whether nothing changed but that `elapsed` seconds went by."""
    if [_ageless(link) for link in before.links] != [_ageless(link) for link in after.links]:
        return False
    for old_link, new_link in zip(before.links, after.links, strict=True):
        for old, new in zip(old_link.addresses, new_link.addresses, strict=True):
            if (old.valid_lifetime is None) != (new.valid_lifetime is None):
                return False
            moved = (new.valid_lifetime or 0) - (old.valid_lifetime or 0)
            if old.valid_lifetime is not None and abs(moved + elapsed) > _LIFETIME_TOLERANCE:
                return False
    return True


def _ageless(link: LinkState) -> LinkState:
    return replace(link, addresses=tuple(replace(state, valid_lifetime=None) for state in link.addresses))
