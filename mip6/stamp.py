"""Test packets of path measurement: STAMP (RFC 8762), unauthenticated and authenticated, with Session Identifier and
TLVs of RFC 8972.

A Session-Sender sends a `Probe`, a Session-Reflector answers each with a `Reply` of equal size. Both are declared once
per mode; `read_probe`, `read_reply`, `write_probe` and `reflect` take a key for the authenticated mode, or None. Total:
octets give a value or `FormError`; a wrong HMAC is a `FormError` too. Timestamps are 64-bit numbers in the NTP format
(RFC 5905 §6) in units of 2^-32 s; what another implementation sends in the PTP format is turned into it by `as_ntp`.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from cryptography.hazmat.primitives import constant_time, hashes, hmac

from mip6.wire import Declared, FormError, bits, declared, octets, octets_tail, rest

REFLECTOR_PORT = 862  # RFC 8762 §4.1
HMAC_LENGTH = 16  # RFC 8762 §4.4: HMAC-SHA-256 cut to 128 bits
KEY_LABEL = b"mip6 STAMP"
MASK64 = (1 << 64) - 1

SYNCHRONISED, PTP_FORMAT = 0x8000, 0x4000  # S and Z of an error estimate (RFC 8762 §4.2.1)
ERROR_ESTIMATE = 0x0001 | 22 << 8  # not synchronised, NTP format, 2^-32 * 2^22 s: about a millisecond

UNRECOGNISED, MALFORMED, INTEGRITY = 0x80, 0x40, 0x20  # TLV flags (RFC 8972 §4)
EXTRA_PADDING = 1  # TLV type (RFC 8972 §4.1)
_TLV_HEADER = 4
_LARGEST = 65535
_EXTENSIONS = octets_tail(0, _LARGEST)


class WrongHmac(FormError):
    """The packet has the right length, but not the right key."""


@declared
class Probe(Declared):
    """Session-Sender packet without authentication (RFC 8762 §4.2.1). `ssid` 0: a sender that knows no RFC 8972."""

    sequence: int = bits(32)
    timestamp: int = bits(64)
    error_estimate: int = bits(16)
    ssid: int = bits(16)
    extensions: bytes = rest(_EXTENSIONS, default=b"", reserved=28 * 8)


@declared
class AuthenticatedProbe(Declared):
    """Session-Sender packet in authenticated mode (RFC 8762 §4.2.2)."""

    sequence: int = bits(32)
    timestamp: int = bits(64, reserved=12 * 8)
    error_estimate: int = bits(16)
    ssid: int = bits(16)
    hmac: bytes = octets(HMAC_LENGTH, reserved=68 * 8)
    extensions: bytes = rest(_EXTENSIONS, default=b"")


@declared
class Reply(Declared):
    """Session-Reflector packet without authentication (RFC 8762 §4.3.1). What is called `sender_` is copied."""

    sequence: int = bits(32)
    timestamp: int = bits(64)
    error_estimate: int = bits(16)
    ssid: int = bits(16)
    receive_timestamp: int = bits(64)
    sender_sequence: int = bits(32)
    sender_timestamp: int = bits(64)
    sender_error_estimate: int = bits(16)
    sender_hop_limit: int = bits(8, reserved=16)
    extensions: bytes = rest(_EXTENSIONS, default=b"", reserved=3 * 8)


@declared
class AuthenticatedReply(Declared):
    """Session-Reflector packet in authenticated mode (RFC 8762 §4.3.2)."""

    sequence: int = bits(32)
    timestamp: int = bits(64, reserved=12 * 8)
    error_estimate: int = bits(16)
    ssid: int = bits(16)
    receive_timestamp: int = bits(64, reserved=4 * 8)
    sender_sequence: int = bits(32, reserved=8 * 8)
    sender_timestamp: int = bits(64, reserved=12 * 8)
    sender_error_estimate: int = bits(16)
    sender_hop_limit: int = bits(8, reserved=6 * 8)
    hmac: bytes = octets(HMAC_LENGTH, reserved=15 * 8)
    extensions: bytes = rest(_EXTENSIONS, default=b"")


AnyProbe = Probe | AuthenticatedProbe
AnyReply = Reply | AuthenticatedReply

SIZE = Probe.SIZE  # 44 octets, of both kinds
TWAMP_SIZE = 14  # sequence number, timestamp and error estimate: the shortest TWAMP-Test packet (RFC 5357 §4.1.2)
AUTHENTICATED_SIZE = AuthenticatedProbe.SIZE  # 112 octets, of both kinds
COVERED = AUTHENTICATED_SIZE - HMAC_LENGTH  # what the HMAC is about (RFC 8762 §4.4)


class Key:
    """A key of the authenticated mode, prepared: that halves the time for a packet. It is never printed."""

    __slots__ = ("_prepared",)

    def __init__(self, secret: bytes) -> None:
        self._prepared = hmac.HMAC(secret, hashes.SHA256())

    def authenticator(self, data: bytes) -> bytes:
        """The HMAC field of a test packet (RFC 8762 §4.4)."""
        mac = self._prepared.copy()
        mac.update(data[:COVERED])
        return mac.finalize()[:HMAC_LENGTH]


def derive_key(secret: bytes, home_address: IPv6Address) -> Key:
    """The key of the probes of one mobile node, from the key of its mobility security association (RFC 4285).

    HMAC-SHA-256 of a label and the home address: nothing else that is made with that key is of this form.
    """
    mac = hmac.HMAC(secret, hashes.SHA256())
    mac.update(KEY_LABEL + home_address.packed)
    return Key(mac.finalize())


def write_probe(sequence: int, timestamp: int, ssid: int, key: Key | None) -> bytes:
    """A test packet of the Session-Sender."""
    if key is None:
        return Probe(sequence, timestamp, ERROR_ESTIMATE, ssid).encode_fields()
    blank = AuthenticatedProbe(sequence, timestamp, ERROR_ESTIMATE, ssid, bytes(HMAC_LENGTH)).encode_fields()
    return blank[:COVERED] + key.authenticator(blank)


def read_probe(data: bytes, key: Key | None) -> AnyProbe:
    """A test packet as the Session-Reflector receives it; without authentication also the shorter one of TWAMP Light,
    which is answered with a whole base packet (RFC 8762 §4.6)."""
    if key is None:
        if TWAMP_SIZE <= len(data) < SIZE:
            data = data[:TWAMP_SIZE].ljust(SIZE, b"\0")
        return Probe.decode_fields(data, 0, len(data))  # type: ignore[no-any-return]
    probe: AuthenticatedProbe = AuthenticatedProbe.decode_fields(data, 0, len(data))
    _verify(data, probe.hmac, key)
    return probe


def reflect(probe: AnyProbe, key: Key | None, sequence: int, received: int, timestamp: int, hop_limit: int) -> bytes:
    """The answer to a probe that was `received` then and is answered at `timestamp`; `sequence` is the reflector's own
    count (stateful mode)."""
    extensions = reflected_extensions(probe.extensions) if probe.extensions else b""
    copied = probe.sequence, probe.timestamp, probe.error_estimate, hop_limit
    if key is None:
        reply = Reply(sequence, timestamp, ERROR_ESTIMATE, probe.ssid, received, *copied, extensions)
        return reply.encode_fields()
    blank = AuthenticatedReply(
        sequence, timestamp, ERROR_ESTIMATE, probe.ssid, received, *copied, bytes(HMAC_LENGTH)
    ).encode_fields()
    return blank[:COVERED] + key.authenticator(blank) + extensions


def read_reply(data: bytes, key: Key | None) -> AnyReply:
    """A reflected test packet as the Session-Sender receives it."""
    if key is None:
        return Reply.decode_fields(data, 0, len(data))  # type: ignore[no-any-return]
    reply: AuthenticatedReply = AuthenticatedReply.decode_fields(data, 0, len(data))
    _verify(data, reply.hmac, key)
    return reply


def _verify(data: bytes, found: bytes, key: Key) -> None:
    if not constant_time.bytes_eq(key.authenticator(data), found):
        raise WrongHmac("HMAC is wrong", COVERED)


def reflected_extensions(octets: bytes) -> bytes:
    """The TLVs of a reply to a probe with these: all copied, padding recognised, the rest marked U, what is cut off
    marked M (RFC 8972 §4). No HMAC TLV is sent back: nothing in it was recognised."""
    result = bytearray(octets)
    at = 0
    while at < len(octets):
        whole = at + _TLV_HEADER <= len(octets)
        end = at + _TLV_HEADER + int.from_bytes(octets[at + 2 : at + 4], "big")
        if not whole or end > len(octets):
            result[at] = octets[at] & UNRECOGNISED | MALFORMED
            break
        result[at] = 0 if octets[at + 1] == EXTRA_PADDING else UNRECOGNISED
        at = end
    return bytes(result)


def as_ntp(timestamp: int, error_estimate: int) -> int:
    """A timestamp with fractions of 2^-32 s, whatever format its error estimate says. The seconds stay those of its own
    epoch: only differences of timestamps of one clock mean anything."""
    if not error_estimate & PTP_FORMAT:
        return timestamp
    seconds, nanoseconds = timestamp >> 32, timestamp & 0xFFFFFFFF
    return (seconds << 32) + (nanoseconds << 32) // 1_000_000_000 & MASK64
