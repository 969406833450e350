"""Router advertisements of home agents: octets written by hand from RFC 6275 §7, and scapy's reading of ours."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptAdvInterval,
    ICMPv6NDOptHAInfo,
    ICMPv6NDOptPrefixInfo,
    IPv6,
)

from mip6.neighbourdiscovery import (
    AdvertisementInterval,
    HomeAgentInformation,
    PrefixInformation,
    RouterAdvertisement,
    UnknownNeighbourOption,
    build_router_advertisement,
    decode_router_advertisement,
    read_options,
    write_options,
)
from mip6.wire import FormError

LINK_LOCAL, ALL_NODES = IPv6Address("fe80::1"), IPv6Address("ff02::1")
ROUTER = PrefixInformation(64, True, True, True, 0, 86400, 14400, IPv6Address("2001:db8:100::1"))


@pytest.mark.parametrize(
    ("option", "octets"),
    [
        (AdvertisementInterval(70), "0701 0000 00000046"),
        (HomeAgentInformation(False, 0, 10, 1800), "0801 0000 000a 0708"),
        (HomeAgentInformation(True, 0, 65535, 1), "0801 8000 ffff 0001"),
        (ROUTER, "0304 40 e0 00015180 00003840 00000000 20010db8010000000000000000000001"),
        (UnknownNeighbourOption(1, bytes.fromhex("020000000001")), "0101 020000000001"),
    ],
)
def test_options(option: object, octets: str) -> None:
    data = bytes.fromhex(octets)
    assert read_options(data, 0, len(data)) == (option,)
    assert write_options((option,)) == data  # type: ignore[arg-type]


def test_reserved_bits_of_the_advertisement_interval_are_ignored() -> None:
    data = bytes.fromhex("0701 ffff 00000046")
    assert read_options(data, 0, 8) == (AdvertisementInterval(70),)


@pytest.mark.parametrize("octets", ["07", "0700 0000 00000046", "0702 0000 00000046", "0801 0000 000a 0708 08"])
def test_options_that_run_over_the_end(octets: str) -> None:
    data = bytes.fromhex(octets)
    with pytest.raises(FormError):
        read_options(data, 0, len(data))


def test_an_option_of_another_length_than_its_rfc_says() -> None:
    data = bytes.fromhex("0802 0000 000a 0708 0000000000000000")
    with pytest.raises(FormError, match="HomeAgentInformation"):
        read_options(data, 0, len(data))


def test_scapy_reads_what_we_write() -> None:
    options = (ROUTER, AdvertisementInterval(1000), HomeAgentInformation(False, 0, 7, 600))
    packet = build_router_advertisement(
        LINK_LOCAL, ALL_NODES, RouterAdvertisement(64, False, True, True, 1, 0, 1800, options=options)
    )
    read = IPv6(packet)
    assert read[ICMPv6ND_RA].H == 1 and read[ICMPv6ND_RA].M == 0 and read[ICMPv6ND_RA].O == 1
    assert read[ICMPv6ND_RA].prf == 1 and read[ICMPv6ND_RA].routerlifetime == 1800
    assert read[ICMPv6NDOptPrefixInfo].R == 1 and read[ICMPv6NDOptPrefixInfo].prefix == "2001:db8:100::1"
    assert read[ICMPv6NDOptAdvInterval].advint == 1000
    assert (read[ICMPv6NDOptHAInfo].pref, read[ICMPv6NDOptHAInfo].lifetime) == (7, 600)
    checksum = read[ICMPv6ND_RA].cksum
    del read[ICMPv6ND_RA].cksum
    assert IPv6(bytes(read))[ICMPv6ND_RA].cksum == checksum


def test_we_read_what_scapy_writes() -> None:
    written = ICMPv6ND_RA(H=1, prf=3, routerlifetime=9) / ICMPv6NDOptHAInfo(pref=3, lifetime=4)
    read = decode_router_advertisement(bytes(written))
    assert read.home_agent and read.preference == 3 and read.router_lifetime == 9
    assert read.options == (HomeAgentInformation(False, 0, 3, 4),)
