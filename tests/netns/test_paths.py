"""Path measurement on real packets: each probe in its own tunnel, what is lost and how long it takes, silent cuts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from labs.namespaces import LabNode, missing
from labs.vehicle import CN, LFN
from tests.netns.support import CELLULAR_BID, LIMIT, PORT, WLAN_BID, Car, car_lab, home_bindings, socket_on

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
RATE = 500  # packets per second each way
GAP_LIMIT = 0.35  # seconds that a silent loss of a path may interrupt traffic, with default settings
HOLD = 3.0
CUT = "cut"  # name of the nft table that loses packets
EVERYTHING = "ip6 version 6"  # were it tunnels only, the mobile router would go on inside UDP


@pytest.fixture
def driving() -> Iterator[Car]:
    with car_lab() as car:
        car.start()
        yield car


@pytest.fixture(scope="module")
def measuring() -> Iterator[Car]:
    """Idle paths are probed as often as busy ones, so that no other traffic is needed. A test leaves it as it was."""
    with car_lab(paths={"idle_interval": 0.1}) as car:
        car.start()
        yield car


def lose(router: LabNode, *rules: str) -> None:
    """Lose packets that the access router forwards, by nft expressions; carrier and router advertisements stay."""
    chain = "\n".join(f"{rule} counter name lost drop" for rule in rules)
    forward = f"chain forward {{ type filter hook forward priority -10; {chain}\n }}"
    router.run("nft", "-f", "-", stdin=f"table ip6 {CUT} {{ counter lost {{ }}\n {forward}\n }}")


def lost(router: LabNode) -> int:
    """How many packets it has lost so far."""
    listing = router.run("nft", "list", "counter", "ip6", CUT, "lost")
    return int(listing.split("packets")[1].split()[0])


def _loses(router: LabNode) -> bool:
    return lost(router) > 4


def lose_nothing(router: LabNode) -> int:
    """Take that back; how many packets were lost."""
    count = lost(router)
    router.run("nft", "delete", "table", "ip6", CUT)
    return count


def paths(status: dict[str, Any]) -> dict[int, Any]:
    """What an agent says of its paths, by BID."""
    bindings = home_bindings(status) if status["role"] == "homeagent" else status["bindings"]
    return {one["bid"]: one["path"] for one in bindings}


def _fate(path: dict[str, Any]) -> int:
    """How many probes are known to have been answered or lost: all up to the newest that was answered."""
    known: int = path["probes_answered"] + path["probes_lost_out"] + path["probes_lost_in"]
    return known


def states(status: dict[str, Any]) -> dict[int, str | None]:
    return {bid: path["state"] if path else None for bid, path in paths(status).items()}


def settled(car: Car) -> None:
    """Both paths up at both ends, and nothing in suspense."""
    both = {WLAN_BID: "up", CELLULAR_BID: "up"}
    car.lab.until(lambda: states(car.mobile()) == states(car.home()) == both, LIMIT, "both paths are up at both ends")


def changes(car: Car, node: str, program: str) -> list[str]:
    """The states that paths of an agent entered, with their BID, from its log."""
    lines = (car[node].directory / f"{program}.log").read_text().splitlines()
    words = [
        dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines if "path changed" in line
    ]
    return [f"{one['bid']} {one['state']}" for one in words]


class Stream:
    """Numbered packets at a steady rate from one node to another, and when each of them came."""

    def __init__(self, source: socket.socket, target: socket.socket, address: str) -> None:
        self._source, self._target, self._address = source, target, address
        self._over = threading.Event()
        self.sent = 0
        self.arrivals: list[tuple[float, int]] = []
        self._threads = [threading.Thread(target=one) for one in (self._send, self._receive)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        begin = time.monotonic()
        while not self._over.is_set():
            due = int((time.monotonic() - begin) * RATE)
            while self.sent < due:
                self._source.sendto(self.sent.to_bytes(4, "big") + bytes(96), (self._address, PORT))
                self.sent += 1
            self._over.wait(1 / RATE)

    def _receive(self) -> None:
        self._target.settimeout(0.1)
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                number = int.from_bytes(self._target.recv(2048)[:4], "big")
                self.arrivals.append((time.monotonic(), number))

    def gap(self, since: float) -> float:
        """The longest time without an arrival."""
        times = [when for when, _ in self.arrivals if when >= since - 0.1]
        assert len(times) > RATE / 4, "hardly anything arrives"
        return max(later - earlier for earlier, later in pairwise(times))

    def missing(self, since: float) -> int:
        """How many of the packets did not arrive that were sent later than the last one before `since`."""
        numbers = [number for when, number in self.arrivals if when >= since]
        return max(numbers) - min(numbers) + 1 - len(set(numbers))


@contextlib.contextmanager
def traffic(car: Car) -> Iterator[tuple[Stream, Stream]]:
    """Both ways between the vehicle and the correspondent: by the default binding, WLAN."""
    with socket_on(car["lfn"], PORT) as here, socket_on(car["cn"], PORT) as there:
        up, down = Stream(here, there, CN), Stream(there, here, LFN)
        for stream in (up, down):
            stream.start()
        try:
            yield up, down
        finally:
            for stream in (up, down):
                stream.stop()


def test_probes_take_their_own_tunnel_and_are_counted_exactly(measuring: Car) -> None:
    """What the access router of one link loses, that path has lost, in that direction, and the other path nothing."""
    car = measuring
    settled(car)
    for router, bid, other in (("ar2", CELLULAR_BID, WLAN_BID), ("ar1", WLAN_BID, CELLULAR_BID)):
        for direction, interface in (("in", "core"), ("out", "access")):
            before = paths(car.mobile())
            lose(car[router], f"iifname {interface} meta l4proto 41 numgen inc mod 4 == 0")
            car.lab.until(partial(_loses, car[router]), LIMIT, "probes are lost")
            dropped = lose_nothing(car[router])
            sent = paths(car.mobile())[bid]["probes_sent"]

            def fate_known(bid: int = bid, sent: int = sent) -> bool:
                return _fate(paths(car.mobile())[bid]) > sent

            car.lab.until(fate_known, LIMIT, "a probe after the loss is answered")
            after, home = paths(car.mobile()), paths(car.home())
            opposite = "out" if direction == "in" else "in"
            counted = after[bid][f"probes_lost_{direction}"] - before[bid][f"probes_lost_{direction}"]
            own = home[bid][f"probes_lost_{opposite}"]  # the home agent's few probes and answers went the same way
            assert dropped - own <= counted + own <= dropped + own
            assert counted >= dropped - own - 1
            assert after[bid][f"probes_lost_{opposite}"] - before[bid][f"probes_lost_{opposite}"] <= own
            for name in ("probes_lost_out", "probes_lost_in"):
                assert after[other][name] == before[other][name]
    assert car.mobile()["probes"] == car.home()["probes"] == {}


def test_delays_are_measured_at_both_ends(measuring: Car) -> None:
    """At the home agent of the path that carries traffic: of an idle one it leaves that to the mobile router."""
    settled(measuring)

    def measured() -> list[dict[str, Any]]:
        return [*paths(measuring.mobile()).values(), paths(measuring.home())[WLAN_BID]]

    with traffic(measuring):
        measuring.lab.until(
            lambda: all(path["variation_in_ms"] is not None for path in measured()), LIMIT, "delays are measured"
        )
        for path in measured():
            assert 0 < path["rtt_minimum_ms"] <= path["rtt_ms"] < 200
            assert path["variation_out_ms"] < 100 and path["variation_in_ms"] < 100


@pytest.mark.alone
def test_a_silent_cut_moves_both_directions_in_time_and_the_flows_return_later(driving: Car) -> None:
    """Nobody is told that WLAN is dead: probes find out, at both ends; when it is back it is held back for a while."""
    car = driving
    settled(car)
    with traffic(car) as (up, down):
        time.sleep(2.0)
        cut = time.monotonic()
        lose(car["ar1"], EVERYTHING)
        down_now = {WLAN_BID: "down", CELLULAR_BID: "up"}
        car.lab.until(lambda: states(car.mobile()) == states(car.home()) == down_now, LIMIT, "WLAN is down")
        time.sleep(1.0)
        gaps = up.gap(cut), down.gap(cut)
        print(f"gap up {gaps[0] * 1000:.0f} ms, down {gaps[1] * 1000:.0f} ms")
        assert max(gaps) <= GAP_LIMIT
        bindings = {one["bid"]: one for one in home_bindings(car.home())}
        assert bindings[WLAN_BID]["priority"] == 127 and bindings[WLAN_BID]["state"] == "active"
        mended = time.monotonic()
        lose_nothing(car["ar1"])
        car.lab.until(lambda: states(car.mobile())[WLAN_BID] == "up", LIMIT, "WLAN is up")
        assert time.monotonic() - mended >= HOLD
        settled(car)
        time.sleep(1.0)
        assert up.missing(mended) == down.missing(mended) == 0, "to come back loses nothing"
        busy = {bid: path["busy"] for bid, path in paths(car.mobile()).items()}
        assert busy[WLAN_BID]


def test_a_flapping_path_is_left_alone(driving: Car) -> None:
    car = driving
    settled(car)
    for _ in range(3):
        lose(car["ar1"], EVERYTHING)
        car.lab.until(lambda: states(car.mobile())[WLAN_BID] == "down", LIMIT, "WLAN is down")
        lose_nothing(car["ar1"])
        car.lab.until(lambda: states(car.mobile())[WLAN_BID] == "recovering", LIMIT, "WLAN answers")
    seen = changes(car, "mr", "mobilenode")
    assert seen.count(f"{WLAN_BID} up") == 1, "at the start"
    assert seen.count(f"{WLAN_BID} down") == 3
    assert f"{CELLULAR_BID} down" not in seen


def test_a_restarted_home_agent_is_no_paths_fault(driving: Car) -> None:
    car = driving
    settled(car)
    with traffic(car) as (up, down):
        time.sleep(1.0)
        ha = car["ha"]
        ha.stop(ha.daemons["homeagent"], kill=True)
        car.lab.until(lambda: set(states(car.mobile()).values()) == {"silent"}, LIMIT, "nothing is heard on any path")
        ha.start_daemon("homeagent")
        car.home()
        back = time.monotonic()
        settled(car)
        time.sleep(1.0)
        assert up.missing(back + 0.5) == down.missing(back + 0.5) == 0
    assert not [one for one in changes(car, "mr", "mobilenode") if "down" in one or "recovering" in one]
    assert {one["priority"] for one in home_bindings(car.home())} == {10, 20}


def test_a_restarted_mobile_router_is_measured_anew(driving: Car) -> None:
    car = driving
    settled(car)
    mr = car["mr"]
    mr.stop(mr.daemons["mobilenode"], kill=True)
    mr.start_daemon("mobilenode")
    car.until_registered()
    settled(car)
    for path in paths(car.mobile()).values():
        assert path["probes_lost_out"] + path["probes_lost_in"] <= 1
    assert not [one for one in changes(car, "ha", "homeagent") if "down" in one]
