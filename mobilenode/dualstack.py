"""Dual stack as the mobile node applies it (RFC 5555 §4.3, §4.4.2): NAT detection, keepalives, IPv4 home addresses."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from mip6.actions import Action, Report
from mip6.messages import BindingAcknowledgement
from mip6.numbers import IPv4Status
from mip6.options import IPv4AddressAcknowledgement, IPv4HomeAddress, NatDetection, Option
from mobilenode.settings import MobileNodeSettings

NATKATIMEOUT = 110.0  # seconds, RFC 5555 §6
NO_KEEPALIVE = 0xFFFFFFFF
JITTER = (0.8, 1.0)  # of the keepalive interval
ACCEPTED_BELOW = 128


def needs_udp(nat: NatDetection | None) -> bool:
    """Whether data has to go inside UDP, by the answer to a Binding Update that did. The RFC wants the option always,
    but its presence alone must not force UDP where there is no NAT (§4.2, §4.4.2): the refresh time tells."""
    return nat is None or nat.force_udp or nat.refresh_time != NO_KEEPALIVE


def keepalive(nat: NatDetection | None, wanted: int | None) -> float:
    """Seconds between Binding Updates that keep a NAT's mapping alive; `wanted` is this end's own setting."""
    if wanted is not None:
        return float(wanted)
    if nat is None or nat.refresh_time in (0, NO_KEEPALIVE):
        return NATKATIMEOUT
    return float(nat.refresh_time)


@dataclass(slots=True)
class Ipv4Home:
    """The IPv4 home address and mobile network prefixes that the home agent granted."""

    address: IPv4Address | None = None
    prefixes: tuple[IPv4Network, ...] = ()
    unknown: bool = False  # the home agent does not answer the option (RFC 5555 §2.3.1)

    def wanted(self, settings: MobileNodeSettings) -> tuple[Option, ...]:
        """What every Binding Update asks for: without the option the IPv4 binding would end (RFC 5555 §4.4.2.1)."""
        if self.unknown:
            return ()
        options: list[Option] = []
        if settings.ipv4_home_address is not None:
            options.append(IPv4HomeAddress(32, False, self.address or settings.ipv4_home_address))
        options += [IPv4HomeAddress(one.prefixlen, True, one.network_address) for one in settings.ipv4_prefixes]
        return tuple(options)

    def acknowledged(self, settings: MobileNodeSettings, message: BindingAcknowledgement) -> list[Action]:
        """What the home agent answered to `wanted`."""
        if not self.wanted(settings):
            return []
        before = self.address, self.prefixes
        answers: list[IPv4AddressAcknowledgement] = message.find_all(IPv4AddressAcknowledgement)
        if not answers:
            self.address, self.prefixes, self.unknown = None, (), True
            return [Report("home agent knows no IPv4 home addresses", "warning")]
        granted = [one for one in answers if one.status < ACCEPTED_BELOW and 1 <= one.prefix_length <= 32]
        self.address = next((one.home_address for one in granted if one.prefix_length == 32), None)
        self.prefixes = tuple(
            IPv4Network((int(one.home_address), one.prefix_length), strict=False)
            for one in granted
            if one.prefix_length < 32
        )
        actions: list[Action] = []
        for one in answers:
            if one.status >= ACCEPTED_BELOW:
                fields = {"address": str(one.home_address), "status": _name(one.status)}
                actions.append(Report("IPv4 home address refused", "warning", fields))
        if (self.address, self.prefixes) != before:
            known = {"address": str(self.address), "prefixes": [str(one) for one in self.prefixes]}
            actions.append(Report("IPv4 home address", fields=known))
        return actions


def _name(status: int) -> str:
    return IPv4Status(status).name if status in set(IPv4Status) else str(status)
