"""The same agent's state for IPv4 in a real kernel: routes, rules, addresses, proxy ARP, and snapshots of links."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from mip6.actions import KernelState, LocalAddress, ProxyNeighbour, Route, Rule
from mip6.events import LinksObserved, RouterState
from mip6.system.links import LinkWatcher
from mip6.system.netlink import KernelApplier
from tests.system.conftest import Pair

pytestmark = pytest.mark.netns

HOME, CARE_OF, GATEWAY = IPv4Address("192.0.2.5"), IPv4Address("198.51.100.7"), IPv4Address("198.51.100.1")
HALVES = (IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1"))
STATE = KernelState(
    addresses=(LocalAddress(HOME, "mip0", 32),),
    routes=(
        *(Route(half, "mip0", source=HOME, metric=64) for half in HALVES),
        Route(IPv4Network("198.51.100.0/24"), "eth0", table=1000, metric=0),
        Route(IPv4Network("0.0.0.0/0"), "eth0", GATEWAY, table=1000),
        Route(IPv4Network("203.0.113.0/24"), "eth0", IPv4Address("192.0.2.254"), table=1001),  # no neighbour by address
    ),
    rules=(Rule(CARE_OF, 1000, 1000),),
    proxies=(ProxyNeighbour(IPv4Address("192.0.2.9"), "eth0"),),
)


def show(pair: Pair) -> list[str]:
    commands = (
        "ip -4 -o addr show scope global",
        "ip -4 route show table all",
        "ip -4 rule show",
        "ip neigh show proxy",
    )
    lines = [" ".join(line.split()) for command in commands for line in pair.run(command).splitlines()]
    return sorted(line for line in lines if "local" not in line.split()[0] and not line.startswith("broadcast"))


def test_ipv4_state_is_made_kept_over_a_crash_and_taken_away(pair: Pair) -> None:
    pair.run("ip tuntap add dev mip0 mode tun")
    pair.run("ip link set mip0 up")
    pair.run("ip addr add 198.51.100.7/24 dev eth0")
    pair.run("ip route add default via 198.51.100.1 dev eth0")  # metric 0, as many DHCP clients leave it
    before = show(pair)
    applier = KernelApplier("mip0")
    applier.apply(STATE)
    made = show(pair)
    text = "\n".join(made)
    assert "0.0.0.0/1 dev mip0 proto 109" in text and "128.0.0.0/1 dev mip0 proto 109" in text
    assert "default via 198.51.100.1 dev eth0 table 1000 proto 109" in text
    assert "1000: from 198.51.100.7 lookup 1000 proto 109" in text
    assert "192.0.2.9 dev eth0 proxy" in text
    assert "dev mip0 " in pair.run("ip route get 203.0.113.9")  # whatever metric the other default route has
    assert "dev eth0 " in pair.run("ip route get 203.0.113.9 from 198.51.100.7")
    applier.close()
    after_crash = KernelApplier("mip0")
    after_crash.apply(STATE)
    assert show(pair) == made
    after_crash.apply(KernelState(rules=STATE.rules))
    assert "mip0" not in "\n".join(show(pair))
    after_crash.remove_all()
    assert show(pair) == before
    after_crash.close()


def test_a_snapshot_has_both_families(pair: Pair) -> None:
    seen: list[LinksObserved] = []

    async def watch() -> None:
        watcher = LinkWatcher(("eth0",), seen.append)
        watcher.start()
        for command in (
            "ip addr add 198.51.100.7/24 dev eth0",
            "ip addr add 198.51.100.8/24 dev eth0",
            "ip -6 addr add 2001:db8:a::7/64 dev eth0 nodad",
            "ip route add default via 198.51.100.1 dev eth0",
            "ip -6 route add default via fe80::1 dev eth0",
        ):
            pair.run(command)
        wanted = (RouterState(IPv6Address("fe80::1")), RouterState(GATEWAY))
        async with asyncio.timeout(5):
            while set(seen[-1].links[0].routers) != set(wanted):
                await asyncio.sleep(0.01)
        watcher.close()

    asyncio.run(watch())
    (link,) = seen[-1].links
    addresses = {str(one.address): one for one in link.addresses}
    assert list(addresses) == ["2001:db8:a::7", "198.51.100.7", "198.51.100.8"]
    assert not any(one.temporary or one.tentative for one in link.addresses)  # the second one is only "secondary"
    assert addresses["198.51.100.7"].prefix_length == 24
