"""LinkWatcher against the kernel: real router advertisements, carrier loss, duplicate addresses."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from mip6.events import LinksObserved, LinkState
from mip6.system.links import LinkWatcher
from mip6.system.rtnetlink import Requests
from mip6.system.sysctl import HomeLinkSettings, settings_warnings
from mobilenode.linkcounts import link_counts
from tests.system.conftest import Pair, sysctl

pytestmark = pytest.mark.netns

PREFIX = IPv6Network("2001:db8:a::/64")
RADVD = """
interface far0 {
  AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultPreference high;
  prefix 2001:db8:a::/64 { AdvValidLifetime 300; AdvPreferredLifetime 200; };
};
"""


class Observer:
    """Collects snapshots and waits for one that tells something."""

    def __init__(self, *names: str) -> None:
        self.seen: list[LinksObserved] = []
        self._news = asyncio.Event()
        self.watcher = LinkWatcher(names or ("eth0",), self._observed)
        self.watcher.start()

    def _observed(self, links: LinksObserved) -> None:
        self.seen.append(links)
        self._news.set()

    async def until(self, tells: Callable[[LinkState], bool], limit: float = 15.0) -> LinkState:
        async with asyncio.timeout(limit):
            while not (self.seen and self.seen[-1].links and tells(self.seen[-1].links[0])):
                self._news.clear()
                await self._news.wait()
        return self.seen[-1].links[0]

    async def quiet(self, seconds: float) -> None:
        """For `seconds` no snapshot may come."""
        self._news.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)


def observing(story: Callable[[Observer], Coroutine[Any, Any, None]], *names: str) -> None:
    async def run() -> None:
        observer = Observer(*names)
        try:
            await story(observer)
        finally:
            observer.watcher.close()

    asyncio.run(run())


def test_a_router_is_learned_from_its_advertisements(pair: Pair, tmp_path: Path) -> None:
    pair.far("sysctl -qw net.ipv6.conf.all.forwarding=1")
    router = IPv6Address(pair.far("ip -6 -o addr show dev far0 scope link").split()[3].partition("/")[0])
    (tmp_path / "radvd.conf").write_text(RADVD)
    pair.far_daemon("radvd", "-n", "-C", str(tmp_path / "radvd.conf"), "-p", str(tmp_path / "radvd.pid"), "-m", "none")

    async def story(observer: Observer) -> None:
        link = await observer.until(lambda link: bool(link.addresses and link.routers))
        (address,), (found,) = link.addresses, link.routers
        assert address.address in PREFIX and address.prefix_length == 64
        assert address.valid_lifetime is not None and 290 < address.valid_lifetime <= 300
        assert not (address.temporary or address.deprecated or address.dad_failed)
        assert (found.address, found.preference) == (router, 1)
        assert link.up and link.mtu == 1500 and len(link.link_layer_address) == 6

        link = await observer.until(lambda link: not any(state.tentative for state in link.addresses))
        assert link.addresses[0].address == address.address
        tentative = [s.links[0].addresses[0].tentative for s in observer.seen if s.links[0].addresses]
        assert tentative[0] and not tentative[-1]  # it was seen on its way through duplicate address detection

    observing(story)


@pytest.mark.alone
def test_carrier_loss_is_reported_within_milliseconds(pair: Pair) -> None:
    async def story(observer: Observer) -> None:
        reactions = []
        for _ in range(5):
            await observer.until(lambda link: link.up)
            pair.far("ip link set far0 down")
            lost = time.perf_counter()
            await observer.until(lambda link: not link.up)
            reactions.append(1000 * (time.perf_counter() - lost))
            pair.far("ip link set far0 up")
        print("carrier loss reported after ms:", *(f"{reaction:.1f}" for reaction in reactions))
        assert (
            sorted(reactions)[2] < 100
        )  # the median; the kernel holds news of a flapping link back, so carrier is polled

    observing(story)


def test_changes_are_news_and_mere_ageing_is_not(pair: Pair) -> None:
    pair.run("ip addr add 2001:db8:b::1/64 dev eth0 nodad valid_lft 100 preferred_lft 100")

    async def story(observer: Observer) -> None:
        await observer.until(lambda link: len(link.addresses) == 1 and link.up)
        await asyncio.sleep(2.2)  # link-local duplicate address detection ends; lifetimes age
        count = len(observer.seen)
        pair.run("ip addr change 2001:db8:b::1/64 dev eth0 valid_lft 98 preferred_lft 98")  # what is left of it anyway
        await observer.quiet(0.2)
        assert len(observer.seen) == count

        pair.run("ip addr change 2001:db8:b::1/64 dev eth0 valid_lft 200 preferred_lft 0")
        link = await observer.until(lambda link: link.addresses[0].deprecated)
        assert link.addresses[0].valid_lifetime in (199.0, 200.0)

        pair.run(
            "ip route add default proto static metric 2000 nexthop via fe80::1 dev eth0 nexthop via fe80::2 dev eth0"
        )
        link = await observer.until(lambda link: len(link.routers) == 2)
        assert {str(router.address) for router in link.routers} == {"fe80::1", "fe80::2"}

        pair.run("ip route add default via fe80::9 dev eth0 proto 109 metric 64")  # the agent's own is no router
        await observer.quiet(0.2)

        pair.run("ip link set eth0 mtu 1400")
        await observer.until(lambda link: link.mtu == 1400)
        pair.run("ip link set eth0 down")
        link = await observer.until(lambda link: not link.up)
        pair.run("ip link del eth0")
        await wait_for(lambda: observer.seen[-1] == LinksObserved(()))

    observing(story)


def test_an_address_that_somebody_else_has_is_marked(pair: Pair) -> None:
    pair.give_far(IPv6Address("2001:db8:b::7"))

    async def story(observer: Observer) -> None:
        await observer.until(lambda link: link.up)
        pair.run("ip addr add 2001:db8:b::7/64 dev eth0")
        link = await observer.until(lambda link: any(state.dad_failed for state in link.addresses))
        assert [str(state.address) for state in link.addresses] == ["2001:db8:b::7"]

    observing(story)


def test_links_come_in_the_order_of_their_names_and_absent_ones_are_left_out(pair: Pair) -> None:
    async def story(observer: Observer) -> None:
        assert [link.name for link in observer.seen[0].links] == ["eth0", "lo"]
        pair.run("ip tuntap add dev tun9 mode tun")
        await wait_for(lambda: [link.name for link in observer.seen[-1].links] == ["tun9", "eth0", "lo"])
        assert not observer.seen[-1].links[0].up

    observing(story, "tun9", "eth0", "lo", "wlan7")


def test_a_link_whose_name_is_no_text_hides_no_other(pair: Pair) -> None:
    pair.run("ip tuntap add dev odd\udcff mode tun")

    async def story(observer: Observer) -> None:
        assert [link.name for link in observer.seen[0].links] == ["eth0"]

    observing(story)
    assert "eth0" in link_counts()


def test_links_that_change_while_they_are_read_are_read_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [OSError(errno.EAGAIN, "interrupted")] * 3
    dump = Requests.raw_dump

    def interrupted(requests: Requests, type_: int, body: bytes) -> list[bytes]:
        if refusals:
            raise refusals.pop()
        return dump(requests, type_, body)

    monkeypatch.setattr(Requests, "raw_dump", interrupted)

    async def story(observer: Observer) -> None:
        await observer.until(lambda link: link.name == "eth0")

    observing(story)


def test_settings_of_a_home_link_are_given_back(pair: Pair, tmp_path: Path) -> None:
    proxy, delay = sysctl("conf/eth0/proxy_ndp"), sysctl("neigh/eth0/proxy_delay")
    before = proxy.read_text(), delay.read_text()
    settings = HomeLinkSettings("eth0", tmp_path / "settings")
    assert (proxy.read_text().strip(), delay.read_text().strip()) == ("1", "0") != before
    settings.restore()
    assert (proxy.read_text(), delay.read_text()) == before
    assert not (tmp_path / "settings").exists()


def test_settings_of_a_home_link_are_given_back_by_the_run_after_a_crash(pair: Pair, tmp_path: Path) -> None:
    proxy, delay = sysctl("conf/eth0/proxy_ndp"), sysctl("neigh/eth0/proxy_delay")
    before = proxy.read_text(), delay.read_text()
    HomeLinkSettings("eth0", tmp_path / "settings")  # this run never comes to restore
    HomeLinkSettings("eth0", tmp_path / "settings").restore()
    assert (proxy.read_text(), delay.read_text()) == before


def test_a_damaged_note_of_the_old_settings_does_not_stop_the_home_agent(pair: Pair, tmp_path: Path) -> None:
    before = sysctl("conf/eth0/proxy_ndp").read_text()
    (tmp_path / "settings").write_text('{"conf/eth0/pro')
    HomeLinkSettings("eth0", tmp_path / "settings").restore()
    assert sysctl("conf/eth0/proxy_ndp").read_text() == before


def test_wrong_settings_come_with_the_command_that_mends_them(pair: Pair) -> None:
    warnings = settings_warnings(True, ["eth0", "absent0"], ipv4=True)
    assert [warning.split()[0] for warning in warnings] == ["IPv6", "IPv4", "eth0"]
    assert settings_warnings(True, ["eth0", "absent0"]) == [warnings[0], warnings[2]]
    for warning in warnings:
        pair.run(warning.partition(": ")[2])
    assert settings_warnings(True, ["eth0", "absent0"], ipv4=True) == []
    assert settings_warnings(False, ["eth0"]) == []


async def wait_for(condition: Callable[[], bool], limit: float = 5.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.01)
