"""Authentication option and replay protection of RFC 4285, as pure functions.

The MN-HA authenticator covers care-of address, home address and the Mobility Header up to and including the SPI of the
option, with checksum 0 (RFC 4285 §5.1). The care-of address is the IPv6 source of a Binding Update and the
destination of its acknowledgement, also with BID options, for which RFC 5648 is silent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address

from cryptography.hazmat.primitives import constant_time, hashes, hmac

from mip6.messages import Message, encode_message, options_offset
from mip6.numbers import AuthenticationSubtype, OptionType
from mip6.options import Authentication, Option

NTP_EPOCH = 2208988800  # seconds from 1900 to 1970
FIRST_SPI = 256  # 0..255 are reserved for well-known uses (RFC 4285 §5)


class Algorithm(StrEnum):
    """How the authenticator is made. HMAC-SHA1 is the RFC's; HMAC-SHA256 is agreed upon by SPI."""

    HMAC_SHA1 = "hmac-sha1"
    HMAC_SHA256 = "hmac-sha256"


_HASHES = {Algorithm.HMAC_SHA1: hashes.SHA1(), Algorithm.HMAC_SHA256: hashes.SHA256()}
_LENGTHS = {Algorithm.HMAC_SHA1: 12, Algorithm.HMAC_SHA256: 16}  # RFC 4285 §5.1; RFC 4868 §2.1.1


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """Mobility security association of RFC 4285 §3: what mobile node and home agent share. The key is never printed.

    It is prepared once, which takes as long as the HMAC of a whole message.
    """

    spi: int
    algorithm: Algorithm
    key: bytes = field(repr=False)
    _keyed: hmac.HMAC = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keyed", hmac.HMAC(self.key, _HASHES[self.algorithm]))

    def authenticator(self, data: bytes) -> bytes:
        """The truncated HMAC of `data`."""
        mac = self._keyed.copy()
        mac.update(data)
        return mac.finalize()[: _LENGTHS[self.algorithm]]


def sign(
    message: Message,
    association: SecurityAssociation,
    care_of: IPv6Address,
    home: IPv6Address,
    identity: tuple[Option, ...] = (),
) -> bytes:
    """The encoded Mobility Header (checksum 0) with `identity` and the MN-HA authentication option at its end."""
    length = _LENGTHS[association.algorithm]
    option = Authentication(AuthenticationSubtype.MN_HA, association.spi, bytes(length))
    mh = encode_message(message, (*identity, option))
    covered = mh[:-length]
    return covered + association.authenticator(care_of.packed + home.packed + covered)


def verify(
    mh: bytes, message: Message, association: SecurityAssociation, care_of: IPv6Address, home: IPv6Address
) -> bool:
    """Whether the MN-HA option of a received Mobility Header carries the right authenticator for `association`."""
    found = locate(mh, message)
    if found is None:
        return False
    start, end = found
    covered = mh[:4] + b"\0\0" + mh[6:start]
    expected = association.authenticator(care_of.packed + home.packed + covered)
    return constant_time.bytes_eq(expected, mh[start:end])


def locate(mh: bytes, message: Message) -> tuple[int, int] | None:
    """Where the authenticator of the MN-HA option stands, first octet and the one behind; None: no such option."""
    at, end = options_offset(type(message)), min(len(mh), (mh[1] + 1) * 8)
    pad1, authentication = OptionType.PAD1, OptionType.AUTHENTICATION
    while at + 1 < end:
        number = mh[at]
        if number == pad1:
            at += 1
            continue
        stop = at + 2 + mh[at + 1]
        if number == authentication and stop - at >= 7 and mh[at + 2] == AuthenticationSubtype.MN_HA:
            return at + 7, stop
        at = stop
    return None


def ntp_timestamp(wall: float, noise: int = 0) -> int:
    """The 64-bit NTP timestamp for `wall` seconds since 1970.

    `noise` fills the low 10 bits, which no clock has (RFC 4285 §6).
    """
    whole = int(wall)
    fraction = int((wall - whole) * (1 << 32)) & ~0x3FF | noise & 0x3FF
    return (whole + NTP_EPOCH & 0xFFFFFFFF) << 32 | fraction


def ntp_difference(first: int, second: int) -> float:
    """`first - second` in seconds; both may lie on either side of the era change of 2036 (modulo 2^32 seconds)."""
    difference = (first - second) % (1 << 64)
    if difference >= 1 << 63:
        difference -= 1 << 64
    return difference / (1 << 32)
