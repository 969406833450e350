"""Every Mobility Header message, declared once (RFC 6275 §6.1 and the RFCs that added messages).

A message is a value without its checksum: that needs the addresses, so `mip6.headers` fills and checks it. Lifetimes
are in seconds. `decode_message` is total: a message, or `FormError` whose `offset` is the octet of the Mobility Header
to point at.
"""

from __future__ import annotations

import dataclasses
from ipaddress import IPv6Address
from typing import Any, ClassVar

from mip6.numbers import (
    AckFlag,
    BindingStatus,
    ErrorStatus,
    FlowBindingStatus,
    FlowBindingTrigger,
    FlowBindingType,
    HeartbeatFlag,
    MessageType,
    Protocol,
    RevocationFlag,
    RevocationStatus,
    RevocationTrigger,
    RevocationType,
    UpdateFlag,
)
from mip6.optionlist import decode_options, encode_options
from mip6.options import Option
from mip6.wire import (
    ADDRESSES,
    Checked,
    FormError,
    address,
    bits,
    declared,
    flag,
    flags,
    octets,
    octets_tail,
    rest,
)

HEADER = 6  # octets before the message data: payload proto, header length, type, reserved, checksum
CHECKSUM = slice(4, 6)
MAXIMUM = 8 * 256  # the longest Mobility Header that Header Len can say


class UnknownType(FormError):
    """A Mobility Header type that is not declared here: answered with Binding Error 2 (RFC 6275 §9.2)."""


class BadHeader(FormError):
    """Payload Proto or Header Len is wrong: answered with an ICMPv6 parameter problem at `offset` (RFC 6275 §9.2)."""


class TooLong(ValueError):
    """A message that no Mobility Header can hold."""


class Message(Checked):
    """A message of type TYPE; KIND tells apart messages that share one. GAP octets stand before the options."""

    __slots__ = ()
    TYPE: ClassVar[int]
    KIND: ClassVar[int | None] = None
    SOURCE: ClassVar[str]
    GAP: ClassVar[int] = 0
    options: tuple[Option, ...]

    def find(self, kind: type[Any]) -> Any:
        """The first option of this class, none of its subclasses, or None."""
        kinds = [*map(type, self.options)]
        return self.options[kinds.index(kind)] if kind in kinds else None

    def find_all(self, kind: type[Any]) -> list[Any]:
        """All options of this class, none of its subclasses, in their order."""
        return [option for option in self.options if type(option) is kind]

    def with_options(self, options: tuple[Option, ...]) -> Message:
        """The same message with other options."""
        changed: Message = dataclasses.replace(self, options=options)  # type: ignore[type-var]
        return changed


def _options() -> Any:
    return dataclasses.field(default=())


@declared
class BindingRefreshRequest(Message):
    """Asks a mobile node for a fresh Binding Update."""

    TYPE: ClassVar[int] = MessageType.BINDING_REFRESH_REQUEST
    SOURCE: ClassVar[str] = "RFC 6275 §6.1.2"
    GAP: ClassVar[int] = 2
    options: tuple[Option, ...] = _options()


@declared
class HomeTestInit(Message):
    """HoTI: asks a correspondent node for a home keygen token."""

    TYPE: ClassVar[int] = MessageType.HOME_TEST_INIT
    SOURCE: ClassVar[str] = "RFC 6275 §6.1.3"
    cookie: bytes = octets(8, reserved=16)
    options: tuple[Option, ...] = _options()


@declared
class CareOfTestInit(Message):
    """CoTI: asks a correspondent node for a care-of keygen token."""

    TYPE: ClassVar[int] = MessageType.CARE_OF_TEST_INIT
    SOURCE: ClassVar[str] = "RFC 6275 §6.1.4"
    cookie: bytes = octets(8, reserved=16)
    options: tuple[Option, ...] = _options()


@declared
class HomeTest(Message):
    """HoT: the answer to HoTI."""

    TYPE: ClassVar[int] = MessageType.HOME_TEST
    SOURCE: ClassVar[str] = "RFC 6275 §6.1.5"
    nonce_index: int = bits(16)
    cookie: bytes = octets(8)
    token: bytes = octets(8)
    options: tuple[Option, ...] = _options()


@declared
class CareOfTest(Message):
    """CoT: the answer to CoTI."""

    TYPE: ClassVar[int] = MessageType.CARE_OF_TEST
    SOURCE: ClassVar[str] = "RFC 6275 §6.1.6"
    nonce_index: int = bits(16)
    cookie: bytes = octets(8)
    token: bytes = octets(8)
    options: tuple[Option, ...] = _options()


@declared
class BindingUpdate(Message):
    """BU: binds care-of addresses to a home address for `lifetime` seconds; 0 deletes."""

    TYPE: ClassVar[int] = MessageType.BINDING_UPDATE
    SOURCE: ClassVar[str] = "RFC 6275 §6.1.7"
    sequence: int = bits(16)
    flags: UpdateFlag = flags(16, UpdateFlag)
    lifetime: int = bits(16, unit=4, default=0)
    options: tuple[Option, ...] = _options()


@declared
class BindingAcknowledgement(Message):
    """BA: the home agent's answer; `lifetime` is the granted one, without meaning in a rejection."""

    TYPE: ClassVar[int] = MessageType.BINDING_ACKNOWLEDGEMENT
    SOURCE: ClassVar[str] = "RFC 6275 §6.1.8"
    status: int = bits(8, names=BindingStatus)
    flags: AckFlag = flags(8, AckFlag)
    sequence: int = bits(16, default=0)
    lifetime: int = bits(16, unit=4, default=0)
    options: tuple[Option, ...] = _options()


@declared
class BindingError(Message):
    """BE: a Home Address option without a binding, or a message type that is not known."""

    TYPE: ClassVar[int] = MessageType.BINDING_ERROR
    SOURCE: ClassVar[str] = "RFC 6275 §6.1.9"
    status: int = bits(8, names=ErrorStatus)
    home_address: IPv6Address = address(reserved=8)
    options: tuple[Option, ...] = _options()


@declared
class ExperimentalMessage(Message):
    """For experiments in a laboratory; this implementation never sends it (RFC 5096 §1). Its data has no options."""

    TYPE: ClassVar[int] = MessageType.EXPERIMENTAL
    SOURCE: ClassVar[str] = "RFC 5096 §2"
    data: bytes = rest(octets_tail(0, MAXIMUM - HEADER))
    options: ClassVar[tuple[Option, ...]] = ()  # type: ignore[misc]


@declared
class HomeAgentSwitch(Message):
    """Tells a mobile node to use another home agent; the first of `addresses` is preferred."""

    TYPE: ClassVar[int] = MessageType.HOME_AGENT_SWITCH
    SOURCE: ClassVar[str] = "RFC 5142 §4"
    GAP: ClassVar[int] = 2
    addresses: tuple[IPv6Address, ...] = rest(ADDRESSES, default=())
    options: tuple[Option, ...] = _options()


@declared
class Heartbeat(Message):
    """Asks whether the peer is alive, or answers that."""

    TYPE: ClassVar[int] = MessageType.HEARTBEAT
    SOURCE: ClassVar[str] = "RFC 5847 §3.3"
    flags: HeartbeatFlag = flags(16, HeartbeatFlag)
    sequence: int = bits(32, default=0)
    options: tuple[Option, ...] = _options()


@declared
class BindingRevocationIndication(Message):
    """BRI: the home agent ends bindings."""

    TYPE: ClassVar[int] = MessageType.BINDING_REVOCATION
    KIND: ClassVar[int | None] = RevocationType.INDICATION
    SOURCE: ClassVar[str] = "RFC 5846 §5.1"
    trigger: int = bits(8, names=RevocationTrigger)
    sequence: int = bits(16)
    flags: RevocationFlag = flags(16, RevocationFlag)
    options: tuple[Option, ...] = _options()


@declared
class BindingRevocationAcknowledgement(Message):
    """BRA: the answer to BRI."""

    TYPE: ClassVar[int] = MessageType.BINDING_REVOCATION
    KIND: ClassVar[int | None] = RevocationType.ACKNOWLEDGEMENT
    SOURCE: ClassVar[str] = "RFC 5846 §5.2"
    status: int = bits(8, names=RevocationStatus)
    sequence: int = bits(16)
    flags: RevocationFlag = flags(16, RevocationFlag)
    options: tuple[Option, ...] = _options()


@declared
class FlowBindingIndication(Message):
    """FBI: the home agent asks the mobile node to change flow bindings."""

    TYPE: ClassVar[int] = MessageType.FLOW_BINDING
    KIND: ClassVar[int | None] = FlowBindingType.INDICATION
    SOURCE: ClassVar[str] = "RFC 7109 §4.1"
    sequence: int = bits(16)
    trigger: int = bits(8, names=FlowBindingTrigger)
    acknowledge: bool = flag()
    unused: int = bits(7, default=0)
    options: tuple[Option, ...] = _options()


@declared
class FlowBindingAcknowledgement(Message):
    """FBA: the answer to FBI."""

    TYPE: ClassVar[int] = MessageType.FLOW_BINDING
    KIND: ClassVar[int | None] = FlowBindingType.ACKNOWLEDGEMENT
    SOURCE: ClassVar[str] = "RFC 7109 §4.2"
    GAP: ClassVar[int] = 1
    sequence: int = bits(16)
    status: int = bits(8, names=FlowBindingStatus)
    options: tuple[Option, ...] = _options()


MESSAGES: tuple[type[Message], ...] = (
    BindingRefreshRequest,
    HomeTestInit,
    CareOfTestInit,
    HomeTest,
    CareOfTest,
    BindingUpdate,
    BindingAcknowledgement,
    BindingError,
    ExperimentalMessage,
    HomeAgentSwitch,
    Heartbeat,
    BindingRevocationIndication,
    BindingRevocationAcknowledgement,
    FlowBindingIndication,
    FlowBindingAcknowledgement,
)
_BY_TYPE: dict[tuple[int, int | None], type[Message]] = {(cls.TYPE, cls.KIND): cls for cls in MESSAGES}
_KIND_WIDTH: dict[int, int] = {
    MessageType.BINDING_REVOCATION: 1,
    MessageType.FLOW_BINDING: 2,
}  # octets that tell messages apart
_SET_OPTIONS = {cls: cls.__dict__["options"].__set__ for cls in MESSAGES if cls is not ExperimentalMessage}
_TYPES = {cls.TYPE for cls in MESSAGES}
_NO_NEXT_HEADER = int(Protocol.NO_NEXT_HEADER)  # a member of an enumeration takes longer to look up


def options_offset(cls: type[Message]) -> int:
    """Where the options of a message without variable part start, in octets from the start of the header."""
    return HEADER + _KIND_WIDTH.get(cls.TYPE, 0) + cls.SIZE + cls.GAP


def decode_message(mh: bytes) -> Message:
    """Read one Mobility Header; what stands behind its declared length is not looked at (RFC 6275 §9.2).

    UnknownType, BadHeader or FormError in the order of the RFC's checks; the checksum is the caller's.
    """
    if len(mh) < 8:
        raise FormError(f"Mobility Header cut off after {len(mh)} octets")
    type_ = mh[2]
    if type_ not in _TYPES:
        raise UnknownType(f"Mobility Header type {type_}", 2)
    if mh[0] != _NO_NEXT_HEADER:
        raise BadHeader(f"Payload Proto is {mh[0]}, not 59", 0)
    end = (mh[1] + 1) * 8
    width = _KIND_WIDTH.get(type_, 0)
    start = HEADER + width
    if width and end < start + 2:
        raise BadHeader(f"Header Len {mh[1]} is too small for message type {type_}", 1)
    kind = int.from_bytes(mh[HEADER:start], "big") if width else None
    cls = _BY_TYPE.get((type_, kind))
    if cls is None:
        raise UnknownType(f"Mobility Header type {type_} has no message {kind}", HEADER)
    fixed = start + cls.SIZE + cls.GAP
    if cls is HomeAgentSwitch:
        fixed += 16 * mh[6]
    if end < fixed:
        raise BadHeader(f"Header Len {mh[1]} is too small for {cls.__name__}", 1)
    if end > len(mh):
        raise BadHeader(f"Header Len {mh[1]} says {end} octets, the packet holds {len(mh)}", 1)
    if cls is ExperimentalMessage:
        message: Message = cls.decode_fields(mh, start, end)
        return message
    if cls is HomeAgentSwitch:
        message = cls.decode_fields(mh, start + cls.GAP, fixed)
    else:
        message = cls.decode_fields(mh, start, start + cls.SIZE)
    _SET_OPTIONS[cls](message, decode_options(mh, fixed, end))
    return message


def encode_message(message: Message, more: tuple[Option, ...] = ()) -> bytes:
    """The Mobility Header with checksum 0, padded to a multiple of 8 octets; `more` are options behind its own. TooLong
    when it exceeds 2048."""
    cls = type(message)
    fields = message.encode_fields()
    if isinstance(message, HomeAgentSwitch):
        if len(message.addresses) > 127:
            raise ValueError(f"HomeAgentSwitch: {len(message.addresses)} addresses do not fit")
        data = bytes((len(message.addresses), 0)) + fields
    else:
        width = _KIND_WIDTH.get(cls.TYPE, 0)
        data = (cls.KIND or 0).to_bytes(width, "big") + fields + bytes(cls.GAP)
    if isinstance(message, ExperimentalMessage):
        data += bytes(-(HEADER + len(data)) % 8)
    else:
        data += encode_options((*message.options, *more), HEADER + len(data))
    total = HEADER + len(data)
    if total > MAXIMUM:
        raise TooLong(f"{cls.__name__}: {total} octets, a Mobility Header holds {MAXIMUM}")
    return bytes((_NO_NEXT_HEADER, total // 8 - 1, cls.TYPE, 0, 0, 0)) + data
