"""Recorded runs: what stands in the file, and that a fresh engine does the same again."""

from __future__ import annotations

import json
from datetime import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from mip6 import cli, events
from mip6.journal import JournalError, named, read_event
from mip6.schedule import Schedule
from mip6.selectors import IPv4Selector, IPv6Selector
from mip6.system import recorder as module
from mip6.system.recorder import Recorded, Recorder
from mip6.udp import UdpEnds
from mobilenode import config
from mobilenode.engine import MobileNode
from mobilenode.settings import Choice, FlowSettings, LastResort, Member

KEY = "0f0e0d0c0b0a09080706050403020100f1e2d3c4"
CONFIG = f"""
[mobilenode]
home_address = "2001:db8:100::5"
home_agent = ["2001:db8:1::1", "2001:db8:1::2"]
home_prefix = "2001:db8:100::/64"
  [mobilenode.key]
  spi = 4096
  key = "{KEY}"
[[link]]
name = "wlan0"
bid = 1
priority = 10
"""
LINK = events.LinkState(
    "wlan0",
    3,
    True,
    1500,
    b"\2\0\0\0\0\1",
    (events.AddressState(IPv6Address("2001:db8:a::5"), 64, valid_lifetime=3600.5),),
    (events.RouterState(IPv6Address("fe80::1"), 1),),
)
EVENTS: list[events.Event] = [
    events.WallClockSet(1_700_000_000.25),
    events.LinksObserved((LINK,)),
    events.TimerExpired(),
    events.PacketReceived(bytes(range(64)), "wlan0", b"\2\0\0\0\0\2"),
    events.PathMtuChanged(IPv6Address("2001:db8:a::5"), IPv6Address("2001:db8:1::1"), 1400),
    events.DuplicateAddressChecked(IPv6Address("2001:db8:100::5"), True),
    events.RouterAdvertised("eth0", IPv6Address("fe80::1"), b"\x86\0"),
    events.OperatorRequest("revoke", {"home_address": "2001:db8:100::5", "bids": [1]}),
    events.ShuttingDown(),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_survives_the_file(event: events.Event) -> None:
    assert read_event(json.loads(json.dumps(named(event)))) == event


def test_a_packet_inside_udp_survives_the_file() -> None:
    ends = UdpEnds(IPv4Address("192.0.2.1"), IPv6Address("2001:db8::2"), 4191, 50000)
    event = events.PacketReceived(b"packet", "eth0", outer=ends)
    assert read_event(json.loads(json.dumps(named(event)))) == event


def test_rules_of_an_operator_survive_the_file() -> None:
    schedule = Schedule(time(22), time(6, 30), frozenset({5, 6}))
    down = Choice(((Member("wlan0", 3), Member("wwan0")),), last_resort=LastResort.DROP)
    rules = (
        FlowSettings(10, 10, "calls", IPv6Selector(source_port=(5000, 5010)), down, None, schedule),
        FlowSettings(20, 20, "four", IPv4Selector(protocol=(17, 17)), Choice()),
    )
    event = events.OperatorRequest("flows", {"rules": rules, "limit": 5.0}, 7)
    values = {"FlowSettings": FlowSettings}
    assert read_event(json.loads(json.dumps(named(event))), values) == event


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"type": "Nothing"}, "no event is called 'Nothing'"),
        ({}, "no event is called None"),
        ({"type": "WallClockSet", "offset": "noon"}, "WallClockSet: expected float, got 'noon'"),
        ({"type": "WallClockSet"}, "offset"),
        ({"type": "PacketReceived", "packet": "zz", "interface": "eth0"}, "PacketReceived"),
        ({"type": "TimerExpired", "key": 1}, "TimerExpired: unknown key"),
        ({"type": "LinksObserved", "links": [7]}, "LinkState: expected an object, got 7"),
    ],
)
def test_what_is_no_event(found: dict[str, Any], problem: str) -> None:
    with pytest.raises(JournalError, match=problem):
        read_event(found)


def play(path: Path, file: Path, limit: int = module.LIMIT) -> None:
    """A short life: registers, is not answered, turns to the second home agent, is told nonsense, stops."""
    recorder = Recorder(path, "mobilenode", limit)
    engine = Recorded(MobileNode(config.load(file), recorder.random()), recorder)
    now = 0.1
    for event in EVENTS[:2]:
        engine.handle(event, now)
    while now < 40 and (deadline := engine.next_deadline()) is not None:
        now = max(now, deadline[0])
        engine.handle(events.TimerExpired(), now)
    with pytest.raises(ValueError, match="knows no command"):
        engine.handle(EVENTS[7], now)
    for event in (EVENTS[3], EVENTS[8]):
        engine.handle(event, now)
    recorder.close()


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path]:
    """The journal of such a life and its configuration."""
    journal, file = tmp_path / "run.jsonl", tmp_path / "mobilenode.toml"
    file.touch(0o600)
    file.write_text(CONFIG)
    play(journal, file)
    return journal, file


def test_a_fresh_engine_does_the_same(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    journal, file = run
    lines = journal.read_text().splitlines()
    assert journal.stat().st_mode & 0o777 == 0o600
    assert KEY not in journal.read_text() and len(lines) > 10
    assert cli.main(["replay", str(journal), "--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{len(lines) - 1} events, all actions the same\n"


def test_the_first_difference_is_shown(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    journal, file = run
    file.write_text(CONFIG.replace("2001:db8:1::2", "2001:db8:1::3"))
    assert cli.main(["replay", str(journal), "--config", str(file)]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("line ") and "TimerExpired\n" in shown
    recorded, replayed = (line for line in shown.splitlines() if line.startswith("  re"))
    assert recorded != replayed and recorded.startswith("  recorded: ") and replayed.startswith("  replayed: ")


def test_the_last_line_may_be_cut_off(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    journal, file = run
    journal.write_text(journal.read_text()[:-20])
    assert cli.main(["replay", str(journal), "--config", str(file)]) == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: "", "not a journal of version 1"),
        (lambda text: text.replace('"journal":1', '"journal":2', 1), "not a journal of version 1"),
        (lambda text: text.replace("mobilenode", "router", 1), "line 1: role or seed is missing"),
        (lambda text: text.replace('"now"', '"then"', 1), "line 2: expected a time"),
        (lambda text: text.replace('"WallClockSet"', '"Clock"', 1), "line 2: no event is called 'Clock'"),
        (lambda text: text.replace('{"now"', '"now"', 1), "line 2: "),
    ],
)
def test_files_that_are_no_journal(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str], change: Any, problem: str
) -> None:
    journal, file = run
    journal.write_text(change(journal.read_text()))
    assert cli.main(["replay", str(journal), "--config", str(file)]) == 2
    assert problem in capsys.readouterr().err


def test_recording_ends_at_its_limit_and_what_is_there_replays(run: tuple[Path, Path], tmp_path: Path) -> None:
    _, file = run
    short = tmp_path / "short.jsonl"
    play(short, file, limit=3000)
    assert 0 < short.stat().st_size <= 3000
    assert cli.main(["replay", str(short), "--config", str(file)]) == 0


def test_former_runs_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for _ in range(6):
        Recorder(path, "homeagent").close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run.jsonl", "run.jsonl.1", "run.jsonl.2", "run.jsonl.3"]
    seeds = {json.loads(one.read_text())["seed"] for one in tmp_path.iterdir()}
    assert len(seeds) == 4


def test_a_file_that_cannot_be_written_does_not_stop_the_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file" / "run.jsonl", "homeagent")
    recorder.write({"now": 1.0})
    assert "not_recorded" in capsys.readouterr().err
