"""STAMP test packets: octets placed by hand as the figures of RFC 8762 have them, round trips, authentication, TLVs."""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mip6.stamp import (
    AUTHENTICATED_SIZE,
    ERROR_ESTIMATE,
    PTP_FORMAT,
    SIZE,
    AuthenticatedProbe,
    AuthenticatedReply,
    Key,
    Probe,
    Reply,
    WrongHmac,
    as_ntp,
    derive_key,
    read_probe,
    read_reply,
    reflect,
    reflected_extensions,
    write_probe,
)
from mip6.wire import FormError

SECRET = bytes(range(32))
KEY = Key(SECRET)
HOME = IPv6Address("2001:db8:100::5")
T1, T2, T3 = 0xE1E2E3E4_A1A2A3A4, 0xE1E2E3E4_B1B2B3B4, 0xE1E2E3E4_C1C2C3C4
WORDS64 = st.integers(0, (1 << 64) - 1)
WORDS32 = st.integers(0, (1 << 32) - 1)
WORDS16 = st.integers(0, (1 << 16) - 1)


def place(size: int, **fields: str) -> bytes:
    """Zeros with hexadecimal fields at their offsets, given as `at_OFFSET`."""
    data = bytearray(size)
    for name, value in fields.items():
        octets, at = bytes.fromhex(value), int(name.removeprefix("at_"))
        data[at : at + len(octets)] = octets
    return bytes(data)


def mac(data: bytes, key: bytes = SECRET) -> bytes:
    return hmac.new(key, data[:96], hashlib.sha256).digest()[:16]


ESTIMATE = f"{ERROR_ESTIMATE:04x}"
PROBE = place(44, at_0="01020304", at_4=f"{T1:016x}", at_12=ESTIMATE, at_14="0a0b")
REPLY = place(
    44, at_0="05060708", at_4=f"{T3:016x}", at_12=ESTIMATE, at_14="0a0b",
    at_16=f"{T2:016x}", at_24="01020304", at_28=f"{T1:016x}", at_36=ESTIMATE, at_40="3f",
)  # fmt: skip
SECURE_PROBE = place(112, at_0="01020304", at_16=f"{T1:016x}", at_24=ESTIMATE, at_26="0a0b")
SECURE_REPLY = place(
    112, at_0="05060708", at_16=f"{T3:016x}", at_24=ESTIMATE, at_26="0a0b", at_32=f"{T2:016x}",
    at_48="01020304", at_64=f"{T1:016x}", at_72=ESTIMATE, at_80="3f",
)  # fmt: skip


def test_unauthenticated_packets_are_laid_out_as_the_rfc_has_them() -> None:
    assert write_probe(0x01020304, T1, 0x0A0B, None) == PROBE
    probe = read_probe(PROBE, None)
    assert (probe.sequence, probe.timestamp, probe.ssid) == (0x01020304, T1, 0x0A0B)
    assert reflect(probe, None, 0x05060708, T2, T3, 63) == REPLY
    reply = read_reply(REPLY, None)
    assert (reply.sequence, reply.timestamp, reply.receive_timestamp) == (0x05060708, T3, T2)
    assert (reply.sender_sequence, reply.sender_timestamp, reply.sender_hop_limit) == (0x01020304, T1, 63)


def test_authenticated_packets_are_laid_out_as_the_rfc_has_them() -> None:
    signed = SECURE_PROBE[:96] + mac(SECURE_PROBE)
    assert write_probe(0x01020304, T1, 0x0A0B, KEY) == signed
    reply = reflect(read_probe(signed, KEY), KEY, 0x05060708, T2, T3, 63)
    assert reply == SECURE_REPLY[:96] + mac(SECURE_REPLY)
    assert read_reply(reply, KEY).receive_timestamp == T2


def test_probes_and_replies_are_of_one_size() -> None:
    assert (Probe.SIZE, Reply.SIZE) == (SIZE, SIZE) == (44, 44)
    assert (AuthenticatedProbe.SIZE, AuthenticatedReply.SIZE) == (AUTHENTICATED_SIZE, AUTHENTICATED_SIZE) == (112, 112)


@given(WORDS32, WORDS64, WORDS16, WORDS16, st.binary(max_size=40))
def test_a_probe_is_read_as_it_was_written(seq: int, stamp: int, estimate: int, ssid: int, tail: bytes) -> None:
    probe = Probe(seq, stamp, estimate, ssid, tail)
    assert read_probe(probe.encode_fields(), None) == probe


@given(WORDS32, WORDS64, WORDS16, WORDS64, WORDS32, st.integers(0, 255), st.sampled_from([None, KEY]))
def test_a_reply_repeats_the_probe(
    seq: int, sent: int, ssid: int, now: int, count: int, hops: int, key: Key | None
) -> None:
    probe = read_probe(write_probe(seq, sent, ssid, key), key)
    reply = read_reply(reflect(probe, key, count, now, now, hops), key)
    assert (reply.sender_sequence, reply.sender_timestamp, reply.ssid) == (seq, sent, ssid)
    assert (reply.sequence, reply.timestamp, reply.receive_timestamp) == (count, now, now)
    assert (reply.sender_error_estimate, reply.sender_hop_limit) == (ERROR_ESTIMATE, hops)


@given(st.integers(0, AUTHENTICATED_SIZE - 1), st.integers(0, 7))
def test_every_bit_of_an_authenticated_packet_counts(at: int, bit: int) -> None:
    data = bytearray(write_probe(7, T1, 9, KEY))
    data[at] ^= 1 << bit
    with pytest.raises(WrongHmac):
        read_probe(bytes(data), KEY)


def test_another_key_or_another_mode_is_refused() -> None:
    reply = reflect(read_probe(write_probe(1, T1, 2, KEY), KEY), KEY, 3, T2, T3, 64)
    with pytest.raises(WrongHmac):
        read_reply(reply, Key(bytes(32)))
    with pytest.raises(FormError):
        read_probe(PROBE, KEY)


def test_reserved_octets_are_ignored_on_receipt() -> None:
    """RFC 8762 §4.2.1: MBZ; in the authenticated mode the HMAC covers them."""
    noisy = bytearray(PROBE)
    noisy[16:44] = b"\xff" * 28
    assert read_probe(bytes(noisy), None).sequence == 0x01020304
    covered = bytearray(SECURE_PROBE)
    covered[4:16] = b"\xff" * 12
    assert read_probe(bytes(covered[:96]) + mac(bytes(covered)), KEY).timestamp == T1


@pytest.mark.parametrize("size", [14, 20, 43])
def test_the_short_probe_of_twamp_light_gets_a_whole_base_packet(size: int) -> None:
    probe = read_probe(PROBE[:size], None)
    assert (probe.sequence, probe.timestamp, probe.ssid) == (0x01020304, T1, 0)
    assert len(reflect(probe, None, 1, T2, T3, 64)) == 44


def test_tlvs_come_back_marked() -> None:
    """RFC 8972 §4: padding is recognised, everything else not, what is cut off is malformed."""
    padding, location = bytes.fromhex("80010002aaaa"), bytes.fromhex("80020004 00000000")
    probe = read_probe(PROBE + padding + location, None)
    assert read_reply(reflect(probe, None, 1, T2, T3, 64), None).extensions == b"\0" + padding[1:] + location
    assert reflected_extensions(location + bytes.fromhex("80010009aa")) == location + bytes.fromhex("c0010009aa")
    assert reflected_extensions(bytes.fromhex("8001")) == bytes.fromhex("c001")


@given(st.binary(max_size=60))
def test_tlvs_keep_their_size(octets: bytes) -> None:
    assert len(reflected_extensions(octets)) == len(octets)


def test_ptp_timestamps_count_nanoseconds() -> None:
    assert as_ntp(T1, ERROR_ESTIMATE) == T1
    assert as_ntp(5 << 32 | 500_000_000, PTP_FORMAT) == 5 << 32 | 1 << 31


def test_the_key_belongs_to_one_node_and_one_use() -> None:
    expected = hmac.new(SECRET, b"mip6 STAMP" + HOME.packed, hashlib.sha256).digest()
    data = write_probe(1, T1, 2, derive_key(SECRET, HOME))
    assert data[96:] == mac(data, expected)
    with pytest.raises(WrongHmac):
        read_probe(data, derive_key(SECRET, HOME + 1))
