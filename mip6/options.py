"""Every mobility option, declared once. `OPTIONS` is the registry: number to class; `optionlist` reads and writes them.

An unknown number becomes `UnknownOption` and is skipped by its length as RFC 6275 §6.2.1 says; a known option whose
body is wrong becomes `MalformedOption`, so that an engine can answer with the status that the option's RFC has for it.
"""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import ClassVar

from mip6.numbers import (
    AuthenticationSubtype,
    BindingStatus,
    FlowStatus,
    IdentifierSubtype,
    IPv4Status,
    OptionType,
)
from mip6.suboptions import (
    BindingReference,
    SubOption,
    TrafficSelectorSubOption,
    decode_suboptions,
    encode_suboptions,
)
from mip6.wire import (
    Checked,
    address,
    address4,
    bits,
    declared,
    flag,
    numbers_tail,
    octets,
    octets_tail,
    optional_address_tail,
    rest,
    text_tail,
)


class Option(Checked):
    """A mobility option. ALIGN is (n, y): its type octet stands at an offset of n * k + y from the Mobility Header."""

    __slots__ = ()
    NUMBER: ClassVar[int]
    ALIGN: ClassVar[tuple[int, int]] = (1, 0)
    SOURCE: ClassVar[str]
    ENDS_MESSAGE: ClassVar[bool] = False  # nothing, not even padding, may follow (RFC 6275 §6.2.7, RFC 4285 §5)


@declared
class UnknownOption(Option):
    """An option of a number nobody declared here: kept as it came, ignored (RFC 6275 §6.2.1)."""

    SOURCE: ClassVar[str] = "RFC 6275 §6.2.1"
    number: int = dataclasses.field()
    data: bytes = rest(octets_tail())


@declared
class MalformedOption(Option):
    """A declared option whose body is wrong, kept as it came. `reason` says what is wrong, `offset` where it starts."""

    SOURCE: ClassVar[str] = "RFC 6275 §6.2.1"
    number: int = dataclasses.field()
    data: bytes = rest(octets_tail())
    reason: str = dataclasses.field(default="", compare=False)
    offset: int = dataclasses.field(default=0, compare=False)


@declared
class BindingRefreshAdvice(Option):
    """When the home agent would like the next Binding Update. `interval` in seconds, less than the lifetime."""

    NUMBER: ClassVar[int] = OptionType.BINDING_REFRESH_ADVICE
    ALIGN: ClassVar[tuple[int, int]] = (2, 0)
    SOURCE: ClassVar[str] = "RFC 6275 §6.2.4"
    interval: int = bits(16, unit=4)


@declared
class AlternateCareOfAddress(Option):
    """The care-of address to bind, when it is not the packet's source."""

    NUMBER: ClassVar[int] = OptionType.ALTERNATE_CARE_OF_ADDRESS
    ALIGN: ClassVar[tuple[int, int]] = (8, 6)
    SOURCE: ClassVar[str] = "RFC 6275 §6.2.5"
    care_of_address: IPv6Address = address()


@declared
class NonceIndices(Option):
    """Which nonces of the correspondent node the tokens were made with."""

    NUMBER: ClassVar[int] = OptionType.NONCE_INDICES
    ALIGN: ClassVar[tuple[int, int]] = (2, 0)
    SOURCE: ClassVar[str] = "RFC 6275 §6.2.6"
    home: int = bits(16)
    care_of: int = bits(16)


@declared
class BindingAuthorizationData(Option):
    """Authenticator of return routability: 12 octets, the last option of the message."""

    NUMBER: ClassVar[int] = OptionType.BINDING_AUTHORIZATION_DATA
    ALIGN: ClassVar[tuple[int, int]] = (8, 2)
    SOURCE: ClassVar[str] = "RFC 6275 §6.2.7"
    ENDS_MESSAGE: ClassVar[bool] = True
    authenticator: bytes = octets(12)


@declared
class MobileNetworkPrefix(Option):
    """A prefix of the network behind a mobile router. `prefix` may have bits beyond `length`: see `network`."""

    NUMBER: ClassVar[int] = OptionType.MOBILE_NETWORK_PREFIX
    ALIGN: ClassVar[tuple[int, int]] = (8, 4)
    SOURCE: ClassVar[str] = "RFC 3963 §4.3"
    length: int = bits(8, reserved=8)
    prefix: IPv6Address = address()

    def network(self) -> IPv6Network:
        """The prefix with the bits beyond its length masked; ValueError when the length exceeds 128."""
        return IPv6Network((int(self.prefix), self.length), strict=False)


@declared
class LinkLayerAddress(Option):
    """Mobility Header link-layer address; code 2 is the mobile node's own."""

    NUMBER: ClassVar[int] = OptionType.LINK_LAYER_ADDRESS
    SOURCE: ClassVar[str] = "RFC 5568 §6.4.4"
    code: int = bits(8)
    link_layer_address: bytes = rest(octets_tail(0, 254))


@declared
class MobileNodeIdentifier(Option):
    """Who the mobile node is; subtype 1 is a network access identifier user@realm."""

    NUMBER: ClassVar[int] = OptionType.MOBILE_NODE_IDENTIFIER
    SOURCE: ClassVar[str] = "RFC 4283 §3"
    subtype: int = bits(8, names=IdentifierSubtype)
    identifier: bytes = rest(octets_tail(1, 254))


@declared
class Authentication(Option):
    """Mobility message authentication option (AUTH): `data` is the authenticator for `spi`."""

    NUMBER: ClassVar[int] = OptionType.AUTHENTICATION
    ALIGN: ClassVar[tuple[int, int]] = (4, 1)
    SOURCE: ClassVar[str] = "RFC 4285 §5"
    ENDS_MESSAGE: ClassVar[bool] = True
    subtype: int = bits(8, names=AuthenticationSubtype)
    spi: int = bits(32)
    data: bytes = rest(octets_tail(0, 250))


@declared
class MessageIdentification(Option):
    """MESG-ID, replay protection: an NTP timestamp, seconds since 1900 and their fraction in 2^-32."""

    NUMBER: ClassVar[int] = OptionType.MESSAGE_IDENTIFICATION
    ALIGN: ClassVar[tuple[int, int]] = (8, 2)
    SOURCE: ClassVar[str] = "RFC 4285 §6"
    timestamp: int = bits(64)


@declared
class ExperimentalOption(Option):
    """For experiments in a laboratory; this implementation never sends it (RFC 5096 §1)."""

    NUMBER: ClassVar[int] = OptionType.EXPERIMENTAL
    SOURCE: ClassVar[str] = "RFC 5096 §3"
    data: bytes = rest(octets_tail())


@declared
class VendorSpecific(Option):
    """An extension of the vendor whose IANA private enterprise number is `vendor`."""

    NUMBER: ClassVar[int] = OptionType.VENDOR_SPECIFIC
    ALIGN: ClassVar[tuple[int, int]] = (4, 2)
    SOURCE: ClassVar[str] = "RFC 5094 §4"
    vendor: int = bits(32)
    subtype: int = bits(8)
    data: bytes = rest(octets_tail(0, 250))


@declared
class ServiceSelection(Option):
    """The service the mobile node asks for, by name."""

    NUMBER: ClassVar[int] = OptionType.SERVICE_SELECTION
    SOURCE: ClassVar[str] = "RFC 5149 §3"
    identifier: str = rest(text_tail())


@declared
class RestartCounter(Option):
    """How often the sender has lost its state."""

    NUMBER: ClassVar[int] = OptionType.RESTART_COUNTER
    ALIGN: ClassVar[tuple[int, int]] = (4, 2)
    SOURCE: ClassVar[str] = "RFC 5847 §3.4"
    counter: int = bits(32)


@declared
class IPv4HomeAddress(Option):
    """IPv4 home address or, with `prefix_requested`, prefix that is asked for; 0.0.0.0 asks for any."""

    NUMBER: ClassVar[int] = OptionType.IPV4_HOME_ADDRESS
    ALIGN: ClassVar[tuple[int, int]] = (4, 0)
    SOURCE: ClassVar[str] = "RFC 5555 §3.1.1"
    prefix_length: int = bits(6)
    prefix_requested: bool = flag()
    home_address: IPv4Address = address4(reserved=9)


@declared
class IPv4AddressAcknowledgement(Option):
    """What became of the IPv4 home address option."""

    NUMBER: ClassVar[int] = OptionType.IPV4_ADDRESS_ACKNOWLEDGEMENT
    ALIGN: ClassVar[tuple[int, int]] = (4, 0)
    SOURCE: ClassVar[str] = "RFC 5555 §3.2.1"
    status: int = bits(8, names=IPv4Status)
    prefix_length: int = bits(6)
    home_address: IPv4Address = address4(reserved=2)


@declared
class NatDetection(Option):
    """Whether UDP encapsulation is needed. `refresh_time` in seconds; 0: ignored, all ones: no keepalive needed."""

    NUMBER: ClassVar[int] = OptionType.NAT_DETECTION
    ALIGN: ClassVar[tuple[int, int]] = (4, 0)
    SOURCE: ClassVar[str] = "RFC 5555 §3.2.2"
    force_udp: bool = flag()
    refresh_time: int = bits(32, reserved=15)


@declared
class IPv4CareOfAddress(Option):
    """The mobile node's IPv4 care-of address as it sees it."""

    NUMBER: ClassVar[int] = OptionType.IPV4_CARE_OF_ADDRESS
    ALIGN: ClassVar[tuple[int, int]] = (4, 0)
    SOURCE: ClassVar[str] = "RFC 5555 §3.1.2"
    care_of_address: IPv4Address = address4(reserved=16)


@declared
class BindingIdentifier(Option):
    """BID: names one binding of a home address. `priority` 1..127, lower is better; 0: the sender knows no RFC 6089."""

    NUMBER: ClassVar[int] = OptionType.BINDING_IDENTIFIER
    ALIGN: ClassVar[tuple[int, int]] = (2, 0)  # 8n+2 with a care-of address: see `alignment`
    SOURCE: ClassVar[str] = "RFC 5648 §4.3, RFC 6089 §4.1"
    bid: int = bits(16)
    status: int = bits(8, default=0, names=BindingStatus)
    home: bool = flag(default=False)
    priority: int = bits(7, default=0)
    care_of_address: IPv6Address | IPv4Address | None = rest(optional_address_tail(0, 4, 16), default=None)


@declared
class FlowSummary(Option):
    """FIDs of the flow bindings to be kept as they are."""

    NUMBER: ClassVar[int] = OptionType.FLOW_SUMMARY
    ALIGN: ClassVar[tuple[int, int]] = (2, 0)
    SOURCE: ClassVar[str] = "RFC 6089 §4.2.2"
    fids: tuple[int, ...] = rest(numbers_tail(1, 127))


@declared
class FlowIdentification(Option):
    """One flow binding: its FID, its priority (lower is looked at first) and what the sub-options say of it."""

    NUMBER: ClassVar[int] = OptionType.FLOW_IDENTIFICATION
    ALIGN: ClassVar[tuple[int, int]] = (2, 0)
    SOURCE: ClassVar[str] = "RFC 6089 §4.2"
    fid: int = bits(16)
    priority: int = bits(16)
    status: int = bits(8, default=0, reserved=8, names=FlowStatus)
    suboptions: tuple[SubOption, ...] = rest((decode_suboptions, encode_suboptions), default=())

    def selector(self) -> TrafficSelectorSubOption | None:
        """The first traffic selector sub-option."""
        return next((one for one in self.suboptions if isinstance(one, TrafficSelectorSubOption)), None)

    def binding_reference(self) -> BindingReference | None:
        """The first binding reference sub-option."""
        return next((one for one in self.suboptions if isinstance(one, BindingReference)), None)


OPTIONS: dict[int, type[Option]] = {
    cls.NUMBER: cls
    for cls in (
        BindingRefreshAdvice,
        AlternateCareOfAddress,
        NonceIndices,
        BindingAuthorizationData,
        MobileNetworkPrefix,
        LinkLayerAddress,
        MobileNodeIdentifier,
        Authentication,
        MessageIdentification,
        ExperimentalOption,
        VendorSpecific,
        ServiceSelection,
        RestartCounter,
        IPv4HomeAddress,
        IPv4AddressAcknowledgement,
        NatDetection,
        IPv4CareOfAddress,
        BindingIdentifier,
        FlowSummary,
        FlowIdentification,
    )
}
