"""Duplicate address detection and announcements for addresses that a home agent takes over."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv6Address

import pytest

from labs.inside import inside
from labs.namespaces import NETNS
from mip6.numbers import Icmp6Type
from mip6.system.neighbours import ALL_NODES, RETRANS_TIMER, _link_socket, _send, announce, check_duplicate
from tests.system.conftest import Pair, until

pytestmark = pytest.mark.netns

ADDRESS = IPv6Address("2001:db8:100::5")


@pytest.fixture
def link(pair: Pair) -> Iterator[Pair]:
    """Both ends are ready: they carry packets, and have their link-local addresses."""
    ends = ((pair.run, "eth0"), (pair.far, "far0"))
    for run, device in ends:
        run(f"sysctl -qw net.ipv6.conf.{device}.accept_dad=0")
        run(f"ip link set {device} down")
        run(f"ip link set {device} up")
    for run, device in ends:
        until(partial(carries, run, device))
    yield pair


def carries(run: Callable[[str], str], device: str) -> bool:
    return "state UP" in run(f"ip link show {device}") and bool(run(f"ip -6 addr show {device} scope link -tentative"))


def checked(pair: Pair, interface: str = "eth0") -> tuple[bool, float]:
    """The answer and how long it took."""

    async def story() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        return await check_duplicate(ADDRESS, interface), loop.time() - start

    return asyncio.run(story())


def test_a_free_address_is_free_after_a_second(link: Pair) -> None:
    duplicate, seconds = checked(link)
    assert not duplicate
    assert 0.99 <= seconds < 2


def test_an_address_that_a_neighbour_has_is_a_duplicate_at_once(link: Pair) -> None:
    link.give_far(ADDRESS)
    duplicate, seconds = checked(link)
    assert duplicate
    assert seconds < 0.9


def test_an_address_that_a_neighbour_is_testing_is_a_duplicate(link: Pair) -> None:
    async def story() -> bool:
        check = asyncio.create_task(check_duplicate(ADDRESS, "eth0"))
        await asyncio.sleep(0)  # ours is out and we listen
        await asyncio.to_thread(
            subprocess.run, f"ip -n {link.there} addr add {ADDRESS}/64 dev far0".split(), check=True
        )
        return await check

    link.far("sysctl -qw net.ipv6.conf.far0.accept_dad=1 net.ipv6.conf.far0.router_solicitation_delay=0")  # at once
    assert asyncio.run(story())


def test_nothing_else_on_the_link_hides_an_answer(link: Pair) -> None:
    """More of other packets than a socket's queue holds, then the answer, while this process has no turn at all."""
    with inside(NETNS / link.there):
        far = _link_socket("far0")

    async def story() -> bool:
        begin = time.monotonic()
        check = asyncio.create_task(check_duplicate(ADDRESS, "eth0"))
        await asyncio.sleep(0)  # ours is out and we listen
        other = ADDRESS + 1
        for target in (*[other] * 2000, ADDRESS):
            _send(far, "far0", target, ALL_NODES, Icmp6Type.NEIGHBOR_ADVERTISEMENT, 0, target, b"")
        time.sleep(max(0.0, begin + 1.1 * RETRANS_TIMER - time.monotonic()))
        return await check

    with far:
        assert asyncio.run(story())


def test_another_address_of_the_neighbour_does_not_matter(link: Pair) -> None:
    link.give_far(IPv6Address("2001:db8:200::5"))  # the same solicited-node group
    duplicate, _ = checked(link)
    assert not duplicate


def test_what_cannot_be_checked_is_not_taken_over(link: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    duplicate, _ = checked(link, "absent0")
    assert duplicate
    assert "duplicate_address_detection_impossible" in capsys.readouterr().err


@pytest.mark.parametrize("router", [False, True])
def test_an_announcement_moves_the_address_in_the_neighbours_cache(link: Pair, router: bool) -> None:
    link.far("ip -6 neigh add 2001:db8:100::5 lladdr 02:00:00:00:00:99 nud stale dev far0")
    own = link.run("ip -o link show eth0").split("link/ether ")[1].split()[0]
    capture = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            link.there,
            "tcpdump",
            "-i",
            "far0",
            "-c",
            "3",
            "-vn",
            "--immediate-mode",
            "-l",
            "icmp6",
            "and",
            "ip6[40]",
            "==",
            "136",
            "and",
            "dst",
            "ff02::1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert capture.stderr is not None
    while "listening on" not in capture.stderr.readline():
        pass
    asyncio.run(announce(ADDRESS, "eth0", router))
    shown, _ = capture.communicate(timeout=10)
    assert shown.count("neighbor advertisement") == 3
    assert shown.count(f"tgt is {ADDRESS}, Flags [{'router, ' if router else ''}override]") == 3
    assert shown.count("hlim 255") == 3 and "bad" not in shown
    assert own in link.far("ip -6 neigh show 2001:db8:100::5")
