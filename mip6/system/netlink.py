"""What the agent puts into the kernel: addresses, routes, rules and proxy neighbours, made so as a `KernelState` says.

It works on whole states and is synchronous: the kernel answers within the system call. What is the agent's own is known
by its marks: protocol 109, and every global address on its device.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network
from typing import Any

from mip6.actions import KernelState, LocalAddress, ProxyNeighbour, Route, Rule
from mip6.forwarding import IPAddress
from mip6.system import log, rtnetlink
from mip6.system.interfaces import interface_index, interface_name
from mip6.system.rtnetlink import (
    ADDRESS,
    CLONED,
    DEFAULT_METRIC,
    FAMILIES,
    INET,
    INET6,
    NEIGHBOUR,
    ON_LINK,
    OWN_PROTOCOL,
    ROUTE,
    RULE,
    UNICAST,
    UNIVERSE,
    UNSPECIFIED,
    Attributes,
    attributes,
    next_hops,
)

_F_NODAD = 0x02  # IFA_F_NODAD
_TO_TABLE = 1  # FR_ACT_TO_TBL
_ONLINK = 4  # RTNH_F_ONLINK: the gateway is on this link whatever the addresses say
_NTF_PROXY, _NTF_ROUTER, _NUD_PERMANENT = 0x08, 0x80, 0x80

Item = LocalAddress | Route | Rule | ProxyNeighbour

_ABSENT = {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL}  # removed by somebody already


class KernelApplier:
    """Makes the kernel as a `KernelState` says, and touches nothing that is not the agent's own.

    Synchronous: when `apply` returns, it is done. What the kernel refuses (a route over a link that is down) is logged
    once and tried again at every `apply`; what another process put there first stays the other's. The kernel flushes
    routes of a link that goes down, so call `apply` after each `LinksObserved` too; without news it asks nothing.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._requests = rtnetlink.Requests()
        self._news = rtnetlink.Notifications(
            rtnetlink.GROUP_LINK,
            rtnetlink.GROUP_IPV6_ADDRESS,
            rtnetlink.GROUP_IPV6_ROUTE,
            rtnetlink.GROUP_IPV6_RULE,
            rtnetlink.GROUP_IPV4_ADDRESS,
            rtnetlink.GROUP_IPV4_ROUTE,
            rtnetlink.GROUP_IPV4_RULE,
        )
        self._present: dict[Item, None] | None = None  # what is ours in the kernel, in order; None: ask
        self._added: set[LocalAddress] = set()  # a kernel before 5.18 does not keep IFA_PROTO
        self._refused: set[tuple[Item, int]] = set()

    def close(self) -> None:
        """Let go of the sockets; the kernel's state stays."""
        self._requests.close()
        self._news.close()

    def apply(self, state: KernelState) -> None:
        """Add what is missing, then remove what is ours and not in `state`."""
        if self._news.drain(self._requests.port) or self._present is None:
            self._present = dict.fromkeys(self._owned())
        items: list[Item] = [*state.addresses, *state.routes, *state.rules, *state.proxies]
        wanted = dict.fromkeys(map(_canonical, items))
        stale = [item for item in self._present if item not in wanted]
        occupied = {_slot(item): item for item in stale}
        refused: set[tuple[Item, int]] = set()
        for item in wanted:
            if item in self._present:
                continue
            if (old := occupied.pop(_slot(item), None)) is not None:  # the kernel holds only one of them
                self._remove(old, refused)
            self._add(item, refused)
        for item in reversed(stale):
            if item in self._present:
                self._remove(item, refused)
        self._refused = refused

    def remove_all(self) -> list[Item]:
        """Take everything out that is the agent's own, whoever of its lives put it in; what it was."""
        owned = list(self._owned())
        self._present = dict.fromkeys(owned)
        self.apply(KernelState())
        return [item for item in owned if item not in self._present]

    def _add(self, item: Item, refused: set[tuple[Item, int]]) -> None:
        assert self._present is not None
        try:
            self._requests.add(*_request(item))
        except OSError as error:
            self._complain("kernel_refused", item, error, refused)
            return
        self._present[item] = None
        if isinstance(item, LocalAddress):
            self._added.add(item)

    def _remove(self, item: Item, refused: set[tuple[Item, int]]) -> None:
        assert self._present is not None
        try:
            self._requests.delete(*_request(item))
        except OSError as error:
            if error.errno not in _ABSENT:
                self._complain("kernel_kept", item, error, refused)
                return
        self._present.pop(item, None)
        if isinstance(item, LocalAddress):
            self._added.discard(item)

    def _complain(self, event: str, item: Item, error: OSError, refused: set[tuple[Item, int]]) -> None:
        refused.add((item, error.errno or 0))
        if (item, error.errno or 0) not in self._refused:
            log.event(event, "warning", kind=type(item).__name__, what=item, error=error.strerror)

    def _owned(self) -> Iterator[Item]:
        """What is ours in the kernel: addresses first and proxies last, as in a state."""
        for family in FAMILIES:
            yield from self._owned_addresses(family)
        for family in FAMILIES:
            for message in self._requests.dump(ROUTE, family | {"proto": OWN_PROTOCOL}):
                yield from _routes(message)
        for family in FAMILIES:
            for message in self._requests.dump(RULE, family):
                attrs = attributes(message)
                if attrs.get("FRA_PROTOCOL") == OWN_PROTOCOL and "FRA_SRC" in attrs:
                    table = attrs.get("FRA_TABLE", message["table"])
                    yield Rule(ip_address(attrs["FRA_SRC"]), table, attrs.get("FRA_PRIORITY", 0))
        for family in FAMILIES:
            for message in self._requests.dump(NEIGHBOUR, family | {"flags": _NTF_PROXY}):
                attrs, name = attributes(message), interface_name(message["ifindex"])
                if attrs.get("NDA_PROTOCOL") == OWN_PROTOCOL and name:
                    yield ProxyNeighbour(ip_address(attrs["NDA_DST"]), name, bool(message["flags"] & _NTF_ROUTER))

    def _owned_addresses(self, family: dict[str, object]) -> Iterator[LocalAddress]:
        for message in self._requests.dump(ADDRESS, family):
            attrs, name = attributes(message), interface_name(message["index"])
            if not name or message["scope"] != UNIVERSE:
                continue
            address = ip_address(attrs.get("IFA_LOCAL") or attrs["IFA_ADDRESS"])
            item = LocalAddress(address, name, message["prefixlen"])
            if name == self._device or attrs.get("IFA_PROTO") == OWN_PROTOCOL or item in self._added:
                yield item


def _routes(message: Any) -> Iterator[Route]:
    if message["type"] != UNICAST or message["flags"] & CLONED:
        return
    attrs, unspecified = attributes(message), str(UNSPECIFIED[message["family"]])
    for index, gateway in next_hops(attrs):
        if name := interface_name(index):
            yield Route(
                destination=ip_network((attrs.get("RTA_DST", unspecified), message["dst_len"])),
                device=name,
                gateway=gateway,
                table=attrs.get("RTA_TABLE", message["table"]),
                source=ip_address(attrs["RTA_PREFSRC"]) if "RTA_PREFSRC" in attrs else None,
                metric=attrs.get("RTA_PRIORITY", 0),
            )


def _canonical(item: Item) -> Item:
    """An item as the kernel shows it."""
    if isinstance(item, Route):
        gateway = item.gateway if item.gateway is not None and int(item.gateway) else None
        ipv6 = isinstance(item.destination, IPv6Network)  # whose routes never have the metric 0
        return replace(item, gateway=gateway, metric=item.metric or (DEFAULT_METRIC if ipv6 else 0))
    return item


def _slot(item: Item) -> tuple[object, ...]:
    """What two items have in common of which the kernel holds only one."""
    match item:
        case Route():
            return Route, item.destination, item.table, item.metric
        case Rule():
            return Rule, item.source, item.table, item.priority
        case LocalAddress() | ProxyNeighbour():
            return type(item), item.address, item.device


def _request(item: Item) -> tuple[int, dict[str, object], Attributes]:
    """The rtnetlink object of an item: kind, fields, attributes. OSError (ENODEV, ENXIO) when its device is missing."""
    match item:
        case LocalAddress():
            fields = _family(item.address) | {"prefixlen": item.prefix_length, "index": interface_index(item.device)}
            address = str(item.address)
            return (
                ADDRESS,
                fields,
                [
                    ("IFA_LOCAL", address),
                    ("IFA_ADDRESS", address),
                    ("IFA_FLAGS", _F_NODAD),
                    ("IFA_PROTO", OWN_PROTOCOL),
                ],
            )
        case Route():
            family = _family(item.destination.network_address)
            fields = family | {"dst_len": item.destination.prefixlen, "proto": OWN_PROTOCOL, "type": UNICAST}
            if family is INET:  # which asks for the scope, and that the gateway be a neighbour unless told so
                fields |= {"scope": ON_LINK} if item.gateway is None else {"flags": _ONLINK}
            attrs: list[tuple[str, object]] = [
                ("RTA_DST", str(item.destination.network_address)),
                ("RTA_OIF", interface_index(item.device)),
                ("RTA_TABLE", item.table),
                ("RTA_PRIORITY", item.metric),
            ]
            if item.gateway is not None:
                attrs.append(("RTA_GATEWAY", str(item.gateway)))
            if item.source is not None:
                attrs.append(("RTA_PREFSRC", str(item.source)))
            return ROUTE, fields, attrs
        case Rule():
            return (
                RULE,
                _family(item.source) | {"src_len": item.source.max_prefixlen, "action": _TO_TABLE},
                [
                    ("FRA_SRC", str(item.source)),
                    ("FRA_TABLE", item.table),
                    ("FRA_PRIORITY", item.priority),
                    ("FRA_PROTOCOL", OWN_PROTOCOL),
                ],
            )
        case ProxyNeighbour():
            flags = _NTF_PROXY | (_NTF_ROUTER if item.router else 0)
            fields = _family(item.address) | {"ifindex": interface_index(item.device), "state": _NUD_PERMANENT}
            fields |= {"flags": flags}
            return NEIGHBOUR, fields, [("NDA_DST", str(item.address)), ("NDA_PROTOCOL", OWN_PROTOCOL)]


def _family(address: IPAddress) -> dict[str, object]:
    return INET if isinstance(address, IPv4Address) else INET6
