"""What the binding cache is made of: addresses that can be bound, and their form in stable storage."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address

import pytest

from homeagent.bindingcache import Binding, BindingCacheEntry, from_record
from homeagent.registration import is_unicast_routable
from mip6.forwarding import Encapsulation


@pytest.mark.parametrize("text", ["::", "::1", "fe80::", "febf:ffff::1", "ff00::", "ff02::1", "ffff::"])
def test_ipv6_addresses_that_nothing_can_be_sent_to_across_routers(text: str) -> None:
    assert not is_unicast_routable(IPv6Address(text))


@pytest.mark.parametrize("text", ["::2", "2001:db8::1", "fc00::1", "fe7f:ffff::1", "fec0::1", "feff:ffff::1"])
def test_ipv6_addresses_beside_them_are_unicast(text: str) -> None:
    assert is_unicast_routable(IPv6Address(text))


@pytest.mark.parametrize("text", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"])
def test_ipv4_addresses_that_nothing_can_be_sent_to_across_routers(text: str) -> None:
    assert not is_unicast_routable(IPv4Address(text))


def test_an_entry_comes_back_from_its_record_as_it_was() -> None:
    bindings = (
        Binding(1, IPv6Address("2001:db8::7"), 1, 600, 700.0),
        Binding(2, IPv6Address("::ffff:192.0.2.1"), 2, 600, 700.0),
        Binding(3, IPv4Address("192.0.2.1"), 3, 600, 700.0, Encapsulation.UDP, 5000, IPv4Address("10.0.0.1")),
    )
    entry = BindingCacheEntry(IPv6Address("2001:db8:100::5"), False, 7, 1 << 63, bindings)
    record = json.loads(json.dumps(entry.to_record(1000.0)))
    assert from_record(entry.home_address, record, 1000.0) == entry


def test_a_record_of_an_older_version_with_shortened_addresses_is_read() -> None:
    entry = BindingCacheEntry(
        IPv6Address("2001:db8:100::5"), False, 7, 0, (Binding(1, IPv6Address("2001:db8::7"), 1, 600, 700.0),)
    )
    record = entry.to_record(0.0)
    record["bindings"][0][1] = "2001:db8::7"
    assert from_record(entry.home_address, record, 0.0) == entry
