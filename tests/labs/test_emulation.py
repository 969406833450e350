"""Emulated links do what was asked, measured on real packets; carriers as on a cable; a modem's raw IP."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest

from labs import render
from labs.emulation import Channel, Quality
from labs.flows import Record, Stream, decode_records
from labs.links import has_netem
from labs.namespaces import Lab, missing
from labs.topology import Link, Node, Topology, advertise, interface
from labs.traffic import Spec, ready_file, received_file, sent_file
from tests.conftest import KERNEL_FEATURE

NEAR, PREFIX = "2001:db8:1::1", "2001:db8:1::/64"
PORT = 6000


# The meaning, without packets


def channel(**figures: object) -> Channel:
    return Channel(Quality(**figures), Random(7).random)  # type: ignore[arg-type]


def test_packets_leave_at_the_rate_and_arrive_after_the_delay() -> None:
    line = channel(rate=8_000_000, delay=0.05)  # 1000 octets take a millisecond
    assert [line.offer(1000, 10.0) for _ in range(3)] == pytest.approx([10.051, 10.052, 10.053])
    assert line.offer(1000, 20.0) == pytest.approx(20.051)


def test_what_finds_the_queue_full_is_dropped() -> None:
    line = channel(rate=8_000_000, queue=2500)
    assert [line.offer(1000, 0.0) is None for _ in range(4)] == [False, False, True, True]
    assert (line.passed, line.overflowed, line.lost) == (2, 2, 0)
    assert line.offer(1000, 0.001) is not None


def test_jitter_spreads_the_delay_and_keeps_the_order() -> None:
    line = channel(delay=0.1, jitter=0.02)
    apart = [line.offer(100, now) or 0.0 for now in range(500)]
    delays = [out - now for now, out in enumerate(apart)]
    assert 0.08 <= min(delays) < 0.085 and 0.115 < max(delays) <= 0.12
    close = [line.offer(100, 1000 + now / 1000) or 0.0 for now in range(500)]
    assert close == sorted(close)


def test_loss_is_a_share_and_the_same_in_every_run() -> None:
    fates = [[line.offer(100, now) for now in range(5000)] for line in (channel(loss=0.05), channel(loss=0.05))]
    assert fates[0] == fates[1]
    assert 200 < fates[0].count(None) < 300


def test_nothing_passes_a_cut() -> None:
    assert channel(cut=True).offer(100, 0.0) is None


@pytest.mark.parametrize(
    ("figures", "says"), [({"loss": 5}, "share"), ({"jitter": 1.0}, "up to the delay"), ({"rate": 0}, "more than 0")]
)
def test_impossible_figures_are_refused_with_the_topology(figures: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Link("a:x", "b:x", **figures)  # type: ignore[arg-type]


def test_netem_is_told_the_same_figures() -> None:
    command = render.netem_command("wlan0", Quality(rate=20_000_000, delay=0.25, jitter=0.01, loss=0.05), 1500)
    assert command.startswith("qdisc replace dev wlan0 root netem limit ")
    assert command.endswith("rate 20000000bit delay 250000us 10000us loss 5.0000%")
    assert render.netem_command("wlan0", Quality(cut=True), 1500).endswith("loss 100.0000%")


# Real packets


def topology(link: Link) -> Topology:
    router = interface("x", f"{NEAR}/64", "fe80::1/64", advertises=advertise(PREFIX))
    return Topology(
        "emulated",
        nodes=(Node("a", (router,), forwarding=True), Node("b", (interface("x", autoconf=True, dad=True),))),
        links=(link,),
    )


@contextmanager
def emulated(link: Link, *, netem: bool = False) -> Iterator[Lab]:
    """A lab of this one link, as soon as the far end has its address."""
    if netem and not has_netem():
        pytest.skip(f"{KERNEL_FEATURE}netem")
    with Lab(topology(link), netem=netem) as lab:
        lab.until(lambda: lab["b"].addresses("x"), 10, "an address by router advertisement")
        yield lab


def traffic(lab: Lab, stream: Stream, seconds: float) -> dict[str, tuple[int, list[Record]]]:
    """Packets sent, and what arrived of them, of each direction."""
    far = lab["b"].addresses("x")[0]["local"]
    processes = []
    for end, local, remote in (("a", NEAR, far), ("b", far, NEAR)):
        spec = Spec(end, end == "a", {6: local}, {6: remote}, str(lab.directory), 60, (stream,))
        (path := lab[end].directory / "traffic.json").write_text(spec.dump())
        processes.append((end, lab[end].python("labs.traffic", path, log="traffic.log")))
        lab.until(ready_file(lab.directory, end).exists, 10, f"traffic at {end}")
    sent = [sent_file(lab.directory, stream.name, end) for end in ("a", "b")]
    wanted = seconds * stream.rate
    lab.until(lambda: all(len(decode_records(file.read_bytes())) >= wanted for file in sent), seconds + 20, "traffic")
    for end, process in processes:
        assert lab[end].stop(process) == 0
    arrived = [decode_records(received_file(lab.directory, stream.name, end).read_bytes()) for end in ("b", "a")]
    # What was still under way when the receiver ended, or was sent before it began, tells nothing.
    judged = []
    for sender, receiver in zip(sent, arrived, strict=True):
        span = range(receiver[0].sent, receiver[-1].sent + 1)
        judged.append((sum(record.sent in span for record in decode_records(sender.read_bytes())), receiver))
    return dict(zip(("down", "up"), judged, strict=True))


def delays(records: list[Record]) -> list[float]:
    """Of every packet, in milliseconds, sorted."""
    return sorted((record.arrived - record.sent) / 1e6 for record in records)


EMULATORS = pytest.mark.parametrize("netem", [False, True], ids=["relay", "netem"])
KINDS = pytest.mark.parametrize("modem", [False, True], ids=["cable", "modem"])
alone = pytest.mark.alone  # delays to the millisecond, rates to the per cent


@pytest.mark.netns
@pytest.mark.skipif(bool(missing()), reason="; ".join(missing()))
class TestOnRealPackets:
    @alone
    @EMULATORS
    def test_delay_jitter_and_loss_are_those_asked_for_in_each_direction(self, netem: bool) -> None:
        link = Link("a:x", "b:x", delay=0.06, jitter=0.02, loss=0.1, up=Quality(delay=0.015), name="L")
        with emulated(link, netem=netem) as lab:
            found = traffic(lab, Stream("probe", PORT, rate=200), seconds=4)
        (sent_down, down), (sent_up, up) = found["down"], found["up"]
        # 800 packets of which a tenth is lost: a standard deviation is 8.5 packets
        assert 0.06 < 1 - len(down) / sent_down < 0.14
        assert len(up) == sent_up
        spread = delays(down)
        assert spread[0] >= 39.9
        assert 40 <= spread[len(spread) // 20] < 60 < spread[-len(spread) // 20] < 84
        # A late wake-up on a busy machine only adds; half of the packets have none.
        assert delays(up)[0] >= 14.9
        assert 15 <= statistics.median(delays(up)) < 17.5
        assert [record.number for record in up] == sorted(record.number for record in up)

    @alone
    @EMULATORS
    def test_rate_is_as_asked_with_a_delay(self, netem: bool) -> None:
        if shutil.which("iperf3") is None:
            pytest.skip("needs the command iperf3")
        rates = {"down": 20_000_000, "up": 4_000_000}
        link = Link("a:x", "b:x", rate=rates["down"], delay=0.01, up=Quality(rate=rates["up"], delay=0.01), name="L")
        with emulated(link, netem=netem) as lab:
            server = lab["a"].popen("iperf3", "-s", log="iperf3.log")
            lab.until(lambda: lab["a"].run("ss", "-Hltn", "sport = :5201"), 5, "iperf3 listens")
            for direction, option in (("down", ["-R"]), ("up", [])):
                result = json.loads(lab["b"].run("iperf3", "-6", "-J", "-t2", "-O1", "-c", NEAR, *option))
                ratio = result["end"]["sum_received"]["bits_per_second"] / rates[direction]
                assert 0.8 < ratio < 1.05, direction
            lab["a"].stop(server)

    @alone
    @EMULATORS
    def test_a_cut_is_silent_and_figures_change_under_way(self, netem: bool) -> None:
        with emulated(Link("a:x", "b:x", emulated=True, name="L"), netem=netem) as lab:
            assert reaches(lab)
            lab.change_link("L", up={"cut": True})
            assert not reaches(lab)
            assert "LOWER_UP" in flags(lab, "a") and "LOWER_UP" in flags(lab, "b")
            lab.change_link("L", down={"delay": 0.03}, up={"cut": False, "delay": 0.02})
            assert reaches(lab)
            found = traffic(lab, Stream("probe", PORT, rate=100), seconds=1)
        assert 30 <= statistics.median(delays(found["down"][1])) < 33
        assert 20 <= statistics.median(delays(found["up"][1])) < 23

    @KINDS
    def test_an_end_that_is_down_takes_the_carrier_of_the_other(self, modem: bool) -> None:
        with emulated(Link("a:x", "b:x", delay=0.005, name="L", modem=modem)) as lab:
            for down, other in (("a", "b"), ("b", "a")):
                assert "LOWER_UP" in flags(lab, other)
                lab[down].set_link("x", up=False)
                await_flag(lab, other, "NO-CARRIER")
                lab[down].set_link("x", up=True)
                await_flag(lab, other, "LOWER_UP")
            for end in ("a", "b"):
                lab[end].set_link("x", up=False)
            for end in ("a", "b"):
                lab[end].set_link("x", up=True)
            for end in ("a", "b"):
                await_flag(lab, end, "LOWER_UP")

    @alone
    def test_a_modem_is_raw_ip_with_an_address_by_router_advertisement(self) -> None:
        link = Link("a:x", "b:x", rate=10_000_000, delay=0.03, name="L", modem=True, mtu=1400)
        with emulated(link) as lab:
            [device] = json.loads(lab["b"].run("ip", "-j", "link", "show", "x"))
            assert (device["link_type"], device["mtu"]) == ("none", 1400)
            assert lab["b"].addresses("x")[0]["local"].startswith("2001:db8:1:")
            assert "default via fe80::" in lab["b"].run("ip", "-6", "route")
            found = traffic(lab, Stream("probe", PORT, rate=100), seconds=1)
        for sent, arrived in found.values():
            assert len(arrived) == sent
            assert 30 <= statistics.median(delays(arrived)) < 33

    def test_what_is_not_emulated_cannot_be_changed(self) -> None:
        with Lab(topology(Link("a:x", "b:x", rate=1_000_000, name="L"))) as lab:
            assert lab.links is not None and lab.links.relay is None
            with pytest.raises(Exception, match="link L is not emulated"):
                lab.change_link("L", down={"cut": True})


def flags(lab: Lab, end: str) -> list[str]:
    [device] = json.loads(lab[end].run("ip", "-j", "link", "show", "x"))
    found: list[str] = device["flags"]
    return found


def reaches(lab: Lab) -> bool:
    """A UDP packet from the far end arrives at the near one, within a quarter of a second."""
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        f"s.connect(('{NEAR}', 9)); s.settimeout(0.25); s.send(b'x')\n"
        "try: s.recv(9)\n"
        "except TimeoutError: print('lost')\n"
        "except ConnectionRefusedError: print('answered')\n"
    )
    return lab["b"].run("python3", "-c", program).strip() == "answered"


def await_flag(lab: Lab, end: str, flag: str) -> None:
    lab.until(lambda: flag in flags(lab, end), 10, f"{end} has the flag {flag}")
