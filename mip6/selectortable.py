"""The conditions of a rule as a person writes them, to traffic selectors (RFC 6088).

A condition is one value, a range "first-last", or a list of them, also as "80,443". A traffic selector holds one range
of each kind, so a rule with lists becomes several: every combination. Addresses decide between selectors for IPv6 and
for IPv4; a rule without addresses becomes one for each family that the node has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import product
from typing import Annotated, Any

from pydantic import model_validator

from mip6.applications import APPLICATIONS, DSCPS
from mip6.config import Expected, Table
from mip6.packet import PORT_PROTOCOLS
from mip6.selectors import (
    FLOW_LABEL_MASK,
    IPv4Range,
    IPv4Selector,
    IPv6Range,
    IPv6Selector,
    Range,
    TrafficSelector,
)

IPV4, IPV6 = 4, 6
BOTH = (IPV6, IPV4)
MOST_SELECTORS = 100  # of one rule: every one is a flow binding of its own
# number in IPv4, number in IPv6
PROTOCOLS: dict[str, tuple[int | None, int | None]] = {
    "icmp": (1, 58), "icmpv6": (None, 58),
    **{name: (number, number) for name, number in {
        "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51, "sctp": 132, "udplite": 136,
    }.items()},
}  # fmt: skip

Protocol = tuple[Range | None, Range | None]  # as IPv4 and as IPv6 number it


# --- kinds of values -------------------------------------------------------------------------------------------------


def _many(parse: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """One value, or a list of them, or several in one string."""

    def parse_all(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str) and "," in value:
            value = value.split(",")
        if not isinstance(value, list | tuple):
            return (parse(value),)
        if not value:
            raise ValueError("the list is empty")
        return tuple(parse(one.strip() if isinstance(one, str) else one) for one in value)

    return parse_all


def _range(low: int, high: int, names: dict[str, int] | None = None) -> Callable[[Any], Range]:
    known = names or {}

    def number(text: str) -> int:
        if text.upper() in known:
            return known[text.upper()]
        if not (text.isascii() and text.isdigit()):
            raise ValueError
        return int(text)

    def parse(value: Any) -> Range:
        if type(value) is int:
            first = last = value
        elif isinstance(value, str):
            head, dash, tail = (part.strip() for part in value.partition("-"))
            if not dash or value.upper() in known:  # VOICE-ADMIT is a name, not a range
                head = tail = value.strip()
            first, last = number(head), number(tail)
        else:
            raise ValueError
        if first > last:
            raise ValueError("it ends before it starts")
        if first < low or last > high:
            raise ValueError
        return first, last

    return parse


def number_range(low: int, high: int) -> Expected:
    """A number or "first-last", inclusive, or a list of them."""
    return Expected(f'a number from {low} to {high} or a range "first-last"', _many(_range(low, high)))


def _traffic_class(value: Any) -> Range:
    """DSCP values as whole traffic class octets, whatever their ECN bits say."""
    first, last = _range(0, 63, DSCPS)(value)
    return first << 2, last << 2 | 3


def _protocol(value: Any) -> Protocol:
    if isinstance(value, str) and value.lower() in PROTOCOLS:
        four, six = PROTOCOLS[value.lower()]
        return (None if four is None else (four, four)), (None if six is None else (six, six))
    span = _range(0, 255)(value)
    return span, span


def _address_range(value: Any) -> IPv6Range | IPv4Range:
    if not isinstance(value, str):
        raise ValueError
    if "/" in value:
        prefix = ip_network(value, strict=False)
        if ip_address(value.partition("/")[0]) != prefix.network_address:
            raise ValueError(f"host bits are set, the prefix is {prefix}")
        return prefix.network_address, prefix.broadcast_address  # type: ignore[return-value]
    head, dash, tail = value.partition("-")
    first, last = ip_address(head.strip()), ip_address((tail if dash else head).strip())
    if isinstance(first, IPv6Address) and isinstance(last, IPv6Address) and first <= last:
        return first, last
    if isinstance(first, IPv4Address) and isinstance(last, IPv4Address) and first <= last:
        return first, last
    raise ValueError("it ends before it starts" if first.version == last.version else "one is IPv4, the other IPv6")


def _application(value: Any) -> str:
    if not isinstance(value, str) or value not in APPLICATIONS:
        raise ValueError
    return value


Addresses = Annotated[
    tuple[IPv6Range | IPv4Range, ...],
    Expected('an IPv6 or IPv4 address, a prefix or "first-last"', _many(_address_range)),
]
Ports = Annotated[tuple[Range, ...], number_range(0, 0xFFFF)]
Protocols = Annotated[
    tuple[Protocol, ...],
    Expected(f"a number from 0 to 255 or a protocol name ({', '.join(PROTOCOLS)})", _many(_protocol)),
]


# --- the table -------------------------------------------------------------------------------------------------------


class SelectorTable(Table):
    """The conditions of a flow or drop rule, from the correspondent node's point of view."""

    app: Annotated[
        tuple[str, ...], Expected(f"one of {', '.join(APPLICATIONS)}, or a list of them", _many(_application))
    ] = ()
    protocol: Protocols = ()
    proto: Protocols = ()
    source: Addresses = ()
    destination: Addresses = ()
    source_port: Ports = ()
    destination_port: Ports = ()
    dscp: Annotated[
        tuple[Range, ...],
        Expected('a DSCP from 0 to 63, a name like "EF" or a range "first-last"', _many(_traffic_class)),
    ] = ()
    flow_label: Annotated[tuple[Range, ...], number_range(0, FLOW_LABEL_MASK)] = ()
    spi: Annotated[tuple[Range, ...], number_range(0, 0xFFFFFFFF)] = ()

    @model_validator(mode="after")
    def _sensible(self) -> SelectorTable:
        if self.protocol and self.proto:
            raise ValueError("expected either protocol or proto, they are the same")
        own = [name for name in ("protocol", "proto", "source_port", "destination_port", "dscp") if getattr(self, name)]
        if self.app and own:
            raise ValueError(f"expected either app or {own[0]}: app says which ports and protocols")
        if (self.source_port or self.destination_port) and not self._have_ports():
            raise ValueError("expected no ports with this protocol: it has none")
        if not (found := self.selectors()):
            raise ValueError("no packet can match: expected addresses, protocol and flow label of one IP version")
        if len(found) > MOST_SELECTORS:
            raise ValueError(f"expected at most {MOST_SELECTORS} combinations of its lists, got {len(found)}")
        return self

    def _have_ports(self) -> bool:
        protocols = self.protocol or self.proto
        return not protocols or any(
            span is not None and any(span[0] <= one <= span[1] for one in PORT_PROTOCOLS)
            for pair in protocols
            for span in pair
        )

    def selectors(self, families: Sequence[int] = BOTH) -> tuple[TrafficSelector, ...]:
        """As the protocol has them (RFC 6088 §3). `families`: what a rule without addresses is about."""
        if self.source or self.destination:
            families = BOTH
        parts = [part for name in self.app for part in _application_tables(name)] if self.app else [self]
        found = [
            selector
            for family in families
            for part in parts
            for selector in part._of_family(family, self.source, self.destination, self.flow_label)
        ]
        return tuple(dict.fromkeys(found))

    def _of_family(
        self,
        family: int,
        sources: tuple[IPv6Range | IPv4Range, ...],
        destinations: tuple[IPv6Range | IPv4Range, ...],
        labels: tuple[Range, ...],
    ) -> Iterator[TrafficSelector]:
        """Every combination that this family can have."""
        for source, destination, label, pair, source_port, destination_port, dscp, spi in product(
            sources or (None,),
            destinations or (None,),
            labels or (None,),
            self.protocol or self.proto or (None,),
            self.source_port or (None,),
            self.destination_port or (None,),
            self.dscp or (None,),
            self.spi or (None,),
        ):
            protocol = None if pair is None else pair[family == IPV6]
            if pair is not None and protocol is None:
                continue
            if any(span is not None and span[0].version != family for span in (source, destination)):
                continue
            if family == IPV6:
                yield IPv6Selector(
                    source,  # type: ignore[arg-type]
                    destination,  # type: ignore[arg-type]
                    spi,
                    label,
                    source_port,
                    destination_port,
                    dscp,
                    protocol,
                )
            elif label is None:  # IPv4 has no flow label
                yield IPv4Selector(
                    source,  # type: ignore[arg-type]
                    destination,  # type: ignore[arg-type]
                    spi,
                    source_port,
                    destination_port,
                    dscp,
                    protocol,
                )


@lru_cache
def _application_tables(name: str) -> tuple[SelectorTable, ...]:
    return tuple(SelectorTable.model_validate(one) for one in APPLICATIONS[name].alternatives)
