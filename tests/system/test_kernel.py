"""KernelApplier: the kernel becomes as the state says, again after a crash, and nobody else's state is touched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest

from mip6.actions import KernelState, LocalAddress, ProxyNeighbour, Route, Rule
from mip6.system import rtnetlink
from mip6.system.netlink import KernelApplier
from tests.system.conftest import Pair

pytestmark = pytest.mark.netns

HOME, CARE_OF = IPv6Address("2001:db8:100::5"), IPv6Address("2001:db8:a::77")
ROUTER = IPv6Address("fe80::1")
DEFAULT = IPv6Network("::/0")
WANTED = KernelState(
    addresses=(LocalAddress(HOME, "mip0"), LocalAddress(IPv6Address("2001:db8:100::6"), "eth0")),
    routes=(
        Route(DEFAULT, "mip0", source=HOME, metric=64),
        Route(DEFAULT, "eth0", ROUTER, table=1000),
        Route(IPv6Network("2001:db8:a::/64"), "eth0", table=1000),
    ),
    rules=(Rule(CARE_OF, 1000, 100),),
    proxies=(
        ProxyNeighbour(IPv6Address("2001:db8:100::8"), "eth0"),
        ProxyNeighbour(IPv6Address("2001:db8:100::9"), "eth0", router=True),
    ),
)
FOREIGN = (
    "ip addr add 2001:db8:a::1/64 dev eth0 nodad",
    "ip route add 2001:db8:f::/48 via fe80::2 dev eth0 table 1000 proto static",
    "ip route add default via fe80::3 dev eth0 proto ra metric 1024",
    "ip rule add from 2001:db8:a::1 lookup 1000 pref 99",
    "ip neigh add proxy 2001:db8:100::7 dev eth0",
)


@pytest.fixture
def kernel(pair: Pair) -> Iterator[Pair]:
    """With a device mip0 and things in place that are not the agent's."""
    pair.run("ip tuntap add dev mip0 mode tun")
    pair.run("ip link set mip0 up")
    for command in FOREIGN:
        pair.run(command.replace("ip ", "ip -6 ", 1))
    yield pair


@pytest.fixture
def applier(kernel: Pair) -> Iterator[KernelApplier]:
    applier = KernelApplier("mip0")
    yield applier
    applier.close()


def contents(pair: Pair) -> dict[str, list[str]]:
    """Addresses, routes, rules and proxies as iproute2 prints them."""
    commands = {
        "addresses": "ip -6 -o addr show scope global",
        "routes": "ip -6 route show table all",
        "rules": "ip -6 rule show",
        "proxies": "ip -6 neigh show proxy",
    }
    return {
        kind: sorted(
            " ".join(line.split())
            for line in pair.run(command).splitlines()
            if not line.split()[0].startswith(("fe80:", "local", "anycast", "multicast")) and "proto kernel" not in line
        )
        for kind, command in commands.items()
    }


def added(pair: Pair, before: dict[str, list[str]]) -> str:
    assert all(set(lines) <= set(contents(pair)[kind]) for kind, lines in before.items())  # nothing was taken away
    return "\n".join(line for kind, lines in contents(pair).items() for line in lines if line not in before[kind])


def test_a_state_is_put_in_and_taken_out(kernel: Pair, applier: KernelApplier) -> None:
    before = contents(kernel)
    applier.apply(WANTED)
    found = added(kernel, before)
    for what in (
        "inet6 2001:db8:100::5/128 scope global",
        "inet6 2001:db8:100::6/128 scope global",
        "default dev mip0 proto 109 src 2001:db8:100::5 metric 64",
        "default via fe80::1 dev eth0 table 1000 proto 109 metric 1024",
        "2001:db8:a::/64 dev eth0 table 1000 proto 109 metric 1024",
        "100: from 2001:db8:a::77 lookup 1000 proto 109",
        "2001:db8:100::8 dev eth0 proxy proto 109",
        "2001:db8:100::9 dev eth0 router proxy proto 109",
    ):
        assert what in found, f"{what!r} is missing in\n{found}"
    assert "tentative" not in found
    applier.remove_all()
    assert contents(kernel) == before


def test_applying_again_asks_nothing_of_the_kernel(kernel: Pair, applier: KernelApplier) -> None:
    """In a moment without news: a link that comes up, and what `apply` itself adds, rightly make it ask again."""
    news = rtnetlink.Notifications(
        rtnetlink.GROUP_LINK, rtnetlink.GROUP_IPV6_ADDRESS, rtnetlink.GROUP_IPV6_ROUTE, rtnetlink.GROUP_IPV6_RULE
    )
    limit = time.monotonic() + 10
    quiet = False
    while not quiet:
        assert time.monotonic() < limit, "the kernel never came to rest"
        news.drain()
        applier.apply(WANTED)
        once = contents(kernel)
        requests = applier._requests._sequence
        applier.apply(WANTED)
        again = applier._requests._sequence
        quiet = not news.drain(applier._requests.port)
    assert again == requests
    assert contents(kernel) == once
    news.close()


def test_a_second_life_removes_what_the_first_one_left(kernel: Pair, applier: KernelApplier) -> None:
    before = contents(kernel)
    applier.apply(WANTED)
    applier.close()  # as a crash would
    second = KernelApplier("mip0")
    kept = KernelState(addresses=WANTED.addresses[:1], rules=WANTED.rules)
    second.apply(kept)
    assert "2001:db8:100::5/128" in added(kernel, before) and "109" in added(kernel, before)
    assert contents(kernel)["proxies"] == before["proxies"]
    second.apply(KernelState())
    assert contents(kernel) == before
    second.close()


def test_changes_in_place(kernel: Pair, applier: KernelApplier) -> None:
    """Gateway, source, prefix length and router flag change: one of each is there afterwards, the new one."""
    before = contents(kernel)
    applier.apply(WANTED)
    applier.apply(
        KernelState(
            addresses=(LocalAddress(IPv6Address("2001:db8:100::6"), "eth0", 64), LocalAddress(CARE_OF, "mip0")),
            routes=(
                Route(DEFAULT, "mip0", source=CARE_OF, metric=64),
                Route(DEFAULT, "eth0", IPv6Address("fe80::2"), table=1000),
            ),
            rules=(Rule(CARE_OF, 1000, 101),),
            proxies=(ProxyNeighbour(IPv6Address("2001:db8:100::8"), "eth0", router=True),),
        )
    )
    found = added(kernel, before)
    assert found.count("default") == 2
    assert "default dev mip0 proto 109 src 2001:db8:a::77 metric 64" in found
    assert "default via fe80::2 dev eth0 table 1000 proto 109" in found
    assert "2001:db8:100::6/64" in found and "2001:db8:100::6/128" not in found
    assert "101: from 2001:db8:a::77" in found and "100: from" not in found
    assert "2001:db8:100::8 dev eth0 router proxy proto 109" in found and "100::9" not in found
    applier.remove_all()
    assert contents(kernel) == before


def test_what_others_removed_is_put_back_and_what_they_left_is_no_error(kernel: Pair, applier: KernelApplier) -> None:
    applier.apply(WANTED)
    complete = contents(kernel)
    kernel.run("ip -6 route del default dev mip0 metric 64")
    kernel.run("ip -6 rule del pref 100")
    applier.apply(WANTED)
    assert contents(kernel) == complete
    kernel.run("ip -6 rule del pref 100")
    kernel.run("ip link del mip0")
    applier.remove_all()
    assert not any("proto 109" in line for lines in contents(kernel).values() for line in lines)


def test_routes_that_fell_with_their_link_return_with_it(
    kernel: Pair, applier: KernelApplier, capsys: pytest.CaptureFixture[str]
) -> None:
    route = KernelState(routes=WANTED.routes[1:2])
    kernel.run("ip link set eth0 down")
    applier.apply(route)
    applier.apply(route)
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 1 and "kernel_refused" in complaints[0] and "Network is down" in complaints[0]
    kernel.run("ip link set eth0 up")
    applier.apply(route)
    assert "via fe80::1" in kernel.run("ip -6 route show table 1000")
    kernel.run("ip link set eth0 down")
    kernel.run("ip link set eth0 up")
    assert "via fe80::1" not in kernel.run("ip -6 route show table 1000")
    applier.apply(route)
    assert "via fe80::1" in kernel.run("ip -6 route show table 1000")


def test_a_route_of_somebody_else_in_our_place_stays_theirs(kernel: Pair, applier: KernelApplier) -> None:
    theirs = KernelState(routes=(Route(IPv6Network("2001:db8:f::/48"), "eth0", IPv6Address("fe80::2"), table=1000),))
    before = contents(kernel)
    applier.apply(theirs)
    applier.remove_all()
    assert contents(kernel) == before


def test_a_thousand_proxies(kernel: Pair, applier: KernelApplier) -> None:
    before = contents(kernel)
    many = tuple(ProxyNeighbour(HOME + 256 + number, "eth0") for number in range(1000))
    applier.apply(KernelState(proxies=many))
    assert len(contents(kernel)["proxies"]) == len(before["proxies"]) + 1000
    applier.apply(KernelState(proxies=many[1:]))
    applier.remove_all()
    assert contents(kernel) == before
