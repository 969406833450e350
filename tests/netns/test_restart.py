"""The data plane goes on without its daemon: killed, restarted, upgraded, stopped; not one packet is lost.

Ten thousand numbered datagrams a second in each direction between the vehicle and the correspondent, meanwhile an agent
is killed with -9 and started again.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from labs.car import CAR
from labs.namespaces import LabNode, NotInTime, missing
from labs.runner import wait_for_addresses
from labs.vehicle import LFN
from tests.netns.flood import Tally, look
from tests.netns.support import LIMIT, Car, car_lab, home_bindings, kernel_state, programs, socket_on

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
PORT, RATE = 7099, 10_000
PORTS = itertools.count(7100)  # of floods
SOME = 5_000  # datagrams: half a second
UNLIMITED = replace(CAR, links=tuple(replace(link, rate=None) for link in CAR.links))
PROGRAMS = {"homeagent": "ha", "mobilenode": "mr"}


CAPABILITIES = "-all,+net_admin,+net_raw,+bpf,+perfmon,+net_bind_service"  # packaging/systemd
NEVER = ("match", "ip", "src", "192.0.2.1/32", "flowid", "1:1")


def everything(node: LabNode) -> dict[str, object]:
    """What an agent may have changed: routes, rules, addresses, proxies, devices, filters and qdiscs, nftables."""
    addresses = node.run("ip", "-6", "-o", "address", "show", "scope", "global").splitlines()
    qdiscs = node.run("tc", "qdisc", "show").splitlines()
    filters = [node.run("tc", "filter", "show", "dev", one, "ingress") for one in kernel_state(node)["links"]]
    return {
        **kernel_state(node),
        "addresses": sorted(re.sub(r"valid_lft.*", "", line) for line in addresses),
        "proxies": node.run("ip", "-6", "neigh", "show", "proxy"),
        "qdiscs": sorted(qdiscs),
        "filters": filters,
        "nftables": node.run("nft", "list", "ruleset"),
    }


def cleanup(node: LabNode) -> subprocess.CompletedProcess[str]:
    command = node.command(sys.executable, "-m", "mip6.cli", "cleanup", "--settings", node.directory / "none.settings")
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture(scope="module")
def fast() -> Iterator[Car]:
    """A lab without limits of rate, both agents with the eBPF data plane, registered; a test that kills one starts it
    again."""
    with car_lab(UNLIMITED) as car:
        car.start(dataplane="ebpf")
        yield car


@pytest.fixture
def brief() -> Iterator[Car]:
    """The same with lifetimes of eight seconds."""
    with car_lab() as car:
        wait_for_addresses(car.lab)
        car["ha"].start_daemon("homeagent", dataplane="ebpf")
        car.home()
        car["mr"].start_daemon("mobilenode", dataplane="ebpf", lifetime=8)
        car.until_registered()
        yield car


class Flood:
    """Both directions of it, between the vehicle and the correspondent."""

    def __init__(self, car: Car) -> None:
        self.lab = car.lab
        self.tallies: list[tuple[Path, Path]] = []
        self.senders, self.receivers = [], []
        port = next(PORTS)
        for source, target in (("lfn", "cn"), ("cn", "lfn")):
            sent, arrived = car[source].directory / "sent", car[target].directory / "arrived"
            log = f"receive-{port}.log"
            receiver = car[target].python("tests.netns.flood", "receive", arrived, str(port), log=log)
            self.receivers.append((car[target], receiver))
            self.lab.until(partial(_listens, car[target].directory / log), LIMIT, "the receiver listens")
            arguments = ("send", sent, car.address(target), str(port), str(RATE))
            self.senders.append((car[source], car[source].python("tests.netns.flood", *arguments, log="send.log")))
            self.tallies.append((sent, arrived))
        self.flows(SOME)

    def arrived(self) -> list[Tally]:
        return [look(arrived) for _, arrived in self.tallies]

    def flows(self, count: int) -> None:
        """Until so many more have arrived, both ways."""
        goals = [one.count + count for one in self.arrived()] if all(a.exists() for _, a in self.tallies) else []
        self.lab.until(
            lambda: all(one.count >= goal for one, goal in zip(self.arrived(), goals, strict=True)),
            LIMIT,
            f"{count} more datagrams arrive, both ways",
        )

    def end(self) -> list[tuple[int, int]]:
        """Stop sending, and wait for what is under way: how many were lost and how many came twice, each way."""
        for node, process in self.senders:
            node.stop(process)
        found = []
        for sent, arrived in self.tallies:
            total = look(sent).count
            with contextlib.suppress(NotInTime):  # what is missing then is what the test is about
                self.lab.until(partial(_is_complete, arrived, total), 3, "everything arrives")
            found.append((total - look(arrived).count, look(arrived).twice))
        for node, process in self.receivers:
            node.stop(process)
        return found


def _is_complete(arrived: Path, total: int) -> bool:
    return look(arrived).count == total


def _listens(log: Path) -> bool:
    return "listening" in log.read_text()


def counted(status: dict[str, Any]) -> int:
    """Packets in all tunnels."""
    bindings = home_bindings(status) if status["role"] == "homeagent" else status["bindings"]
    return sum(one["packets_out"] + one["packets_in"] for one in bindings)


@pytest.mark.alone
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_agent_that_is_killed_and_started_again_loses_no_packet(fast: Car, program: str) -> None:
    """The running programs are the same before and after, and their counters go on."""
    node = fast[PROGRAMS[program]]
    flood = Flood(fast)
    before, status = programs(node), node.status(program)
    assert before
    assert status is not None
    node.stop(node.daemons[program], kill=True)
    flood.flows(2 * RATE)  # nobody is there
    assert programs(node) == before
    node.start_daemon(program, dataplane="ebpf")
    fast.until_registered()
    flood.flows(SOME)
    after = node.status(program)
    assert after is not None
    assert counted(after) >= counted(status) + 4 * RATE
    assert flood.end() == [(0, 0), (0, 0)]
    assert programs(node) == before


@pytest.mark.alone
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_that_cannot_be_had_are_replaced_in_place_without_a_loss(fast: Car, program: str) -> None:
    """With the capabilities of the systemd units: running programs and their maps are out of reach, as are those of
    another version after an upgrade. They go on until the maps of the new ones are filled."""
    node = fast[PROGRAMS[program]]
    flood = Flood(fast)
    before = programs(node)
    node.stop(node.daemons[program], kill=True)
    flood.flows(SOME)
    own = ("--bounding-set", CAPABILITIES, "--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES)
    command = (sys.executable, "-m", program, "--config", node.directory / f"{program}.toml")
    node.daemons[program] = node.popen("setpriv", *own, "--", *command, log=f"{program}.log")
    fast.until_registered()
    flood.flows(SOME)
    assert flood.end() == [(0, 0), (0, 0)]
    after = programs(node)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


def test_a_home_agent_that_is_stopped_forwards_until_the_lifetimes_end(brief: Car) -> None:
    """`on_exit = "keep"`, its default: programs, routes and addresses stay. The mobile router is killed, so that it
    cannot refresh its bindings; by its own clock it stops at the same time."""
    ha, mr = brief["ha"], brief["mr"]
    before = kernel_state(ha)
    ways = {name: number for name, number in programs(ha).items() if "encap_ingress" not in name}
    mr.stop(mr.daemons["mobilenode"], kill=True)
    ends = time.monotonic() + max(one["lifetime_left"] for one in home_bindings(brief.home()))
    assert ha.stop(ha.daemons["homeagent"]) == 0
    assert kernel_state(ha) == before
    assert programs(ha) == ways  # without the short cut: nobody watches the firewall any more
    last = time.monotonic()
    with socket_on(brief["lfn"], PORT) as there, socket_on(brief["cn"]) as here:
        there.settimeout(0.05)
        while time.monotonic() < ends + 1:
            here.sendto(b"still?", (LFN, PORT))
            with contextlib.suppress(TimeoutError):
                there.recv(100)
                last = time.monotonic()
    assert ends - 0.5 < last < ends + 0.5


def test_a_home_agent_that_is_to_clean_up_leaves_nothing() -> None:
    with car_lab() as car:
        wait_for_addresses(car.lab)
        ha = car["ha"]
        before = everything(ha)
        car.start(dataplane="ebpf", on_exit="clean")
        assert everything(ha) != before
        assert ha.stop(ha.daemons["homeagent"]) == 0
        assert everything(ha) == before


def test_a_mobile_router_that_is_to_keep_does_not_deregister() -> None:
    """`on_exit = "keep"`: the tunnels live on at both ends, and the next run takes them over."""
    with car_lab() as car:
        car.start(dataplane="ebpf", on_exit="keep")
        mr = car["mr"]
        before = programs(mr)
        assert mr.stop(mr.daemons["mobilenode"]) == 0
        assert programs(mr).items() < before.items()
        assert len(home_bindings(car.home())) == 2
        assert car.echo(b"without an agent") == b"without an agent"
        mr.start_daemon("mobilenode", dataplane="ebpf")
        car.until_registered()
        assert programs(mr).keys() == before.keys()


def test_cleanup_removes_what_a_killed_agent_has_left_and_nothing_else() -> None:
    """It refuses while the agent runs. Filters and a clsact that others made stay."""
    with car_lab() as car:
        wait_for_addresses(car.lab)
        mr = car["mr"]
        mr.run("tc", "qdisc", "add", "dev", "lan0", "clsact")
        mr.run("tc", "filter", "add", "dev", "lan0", "ingress", "pref", "7", "protocol", "ip", "u32", *NEVER)
        before = everything(mr)
        car.start(dataplane="ebpf")
        refused = cleanup(mr)
        assert refused.returncode == 1
        assert "in use by another process" in refused.stderr
        assert car.echo(b"it goes on") == b"it goes on"
        mr.stop(mr.daemons["mobilenode"], kill=True)
        done = cleanup(mr)
        assert done.returncode == 0, done.stderr
        for what in (
            "decap_ingress at ingress of wlan0",
            "Route: ",
            "Rule: ",
            "LocalAddress: ",
            "table ip6 mip0",
            "mip0",
        ):
            assert what in done.stdout
        assert everything(mr) == before
        assert "nothing of an agent" in cleanup(mr).stdout


def test_userspace_takes_the_place_of_programs_that_an_earlier_run_has_left() -> None:
    with car_lab() as car:
        car.start(dataplane="ebpf")
        for node, program in (("mr", "mobilenode"), ("ha", "homeagent")):
            car[node].stop(car[node].daemons[program], kill=True)
            car[node].start_daemon(program, dataplane="userspace")
        car.until_registered()
        assert programs(car["mr"]) == programs(car["ha"]) == {}
        assert (car.mobile()["dataplane"], car.home()["dataplane"]) == ("userspace", "userspace")
        assert car.echo(b"by hand") == b"by hand"
