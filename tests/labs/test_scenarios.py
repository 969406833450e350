"""Scenarios play, and their checks fail when what they check is not so."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from labs.car import ACCESSES, CAR_SCENARIO, CELLULAR, WLAN
from labs.checks import Check
from labs.namespaces import RUN, labels, missing, node_names, remove
from labs.plain import PLAIN
from labs.result import Report
from labs.runner import Runner
from labs.scenario import Scenario
from labs.scenarios import SCENARIOS
from labs.vehicle import vehicle
from labs.view import View

ROOT = Path(__file__).resolve().parents[2]
BUSY = 5  # times as long, while other stories are played
SHARED = 2  # by itself, on a machine that is not ours alone
ALONE = ("airport", "ambulance", "recovery", "surgery")  # about bandwidth, milliseconds, or many packets a second
MIP6_LAB = [sys.executable, "-m", "mip6.cli", "lab"]


def run(scenario: Scenario) -> tuple[Report, str]:
    """What came of it, and what a person saw."""
    seen = StringIO()
    view = View(seen)
    report = Runner(scenario, view).run()
    view.report(report)
    return report, seen.getvalue()


def passes(scenario: Scenario, patience: float) -> None:
    """Counts and shares as they are; times in milliseconds may be `patience` times as long."""
    report, seen = run(scenario)
    failed = [check for check in report.checks if not check.passed]
    late = [check for check in failed if check.unit == "ms" and check.value <= patience * (check.limit or 0)]
    assert report.error is None and report.checks and failed == late, seen


def by_name(report: Report) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


@pytest.mark.netns
@pytest.mark.skipif(bool(missing()), reason="; ".join(missing()))
class TestInNamespaces:
    @pytest.mark.alone  # the demo: all its limits as they are
    def test_the_car_keeps_its_connections_when_wlan_ends_and_returns(self, tmp_path: Path) -> None:
        file = tmp_path / "car.json"
        started = time.monotonic()
        done = subprocess.run([*MIP6_LAB, "run", "car", "--json", file], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert time.monotonic() - started < 60
        report = json.loads(file.read_text())
        assert (report["scenario"], report["passed"]) == ("car", True)
        assert report["dataplane"] in ("ebpf", "userspace")  # what the kernel takes
        checks = {check["name"]: check for check in report["checks"]}
        assert all(set(check) == {"name", "value", "unit", "limit", "passed"} for check in report["checks"])
        assert checks["both links: care-of addresses registered"]["value"] == 2
        assert checks["WLAN ends: voice lost"]["value"] == 0
        for direction in ("down", "up"):
            assert 0 < checks[f"WLAN ends: probe gap {direction}"]["value"] <= 200

    @pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ("car", "plain", *ALONE)])
    def test_a_story_passes_all_its_checks(self, name: str) -> None:
        passes(SCENARIOS[name], BUSY)

    @pytest.mark.alone
    @pytest.mark.parametrize("name", ALONE)
    def test_a_story_by_itself_passes_all_its_checks(self, name: str) -> None:
        passes(SCENARIOS[name], SHARED)

    def test_without_its_rule_voice_is_counted_on_the_wrong_link(self) -> None:
        phase = replace(CAR_SCENARIO.phases[0], lasts=0.5)
        report, _ = run(replace(CAR_SCENARIO, topology=vehicle("car", ACCESSES), phases=(phase,)))
        assert not report.passed
        assert by_name(report)["both links: voice on cellular"].value == 0
        assert by_name(report)[f"both links: probe on {WLAN}"].passed

    def test_a_stream_over_a_dead_link_is_lost_and_interrupted(self) -> None:
        one, none, again = PLAIN.phases
        strict = replace(none, lossless=("voice",), gap_limit={"voice": 200.0})
        report, _ = run(replace(PLAIN, phases=(one, strict, again)))
        checks = by_name(report)
        assert not report.passed
        # 25 go down and are lost; the mobile router keeps what goes up, waiting for neighbour discovery
        assert 20 <= checks["no link: voice lost"].value <= 60
        for direction in ("down", "up"):
            assert checks[f"no link: voice gap {direction}"].value > 500
        failed = {check.name for check in report.checks if not check.passed}
        assert failed == {"no link: voice lost", "no link: voice gap down", "no link: voice gap up"}

    def test_an_agent_that_refuses_its_configuration_is_quoted(self) -> None:
        report, _ = run(replace(CAR_SCENARIO, topology=vehicle("car", ACCESSES, mobile_router={"home_address": "x"})))
        assert not report.passed
        assert report.error is not None and "mobilenode ended with status" in report.error
        assert "mobilenode.home_address" in report.error
        assert json.loads(report.as_json())["passed"] is False

    def test_a_phase_shows_its_links(self) -> None:
        report, seen = run(replace(PLAIN, phases=(replace(PLAIN.phases[0], lasts=0.5),)))
        assert report.passed, seen
        assert "▸ one link" in seen and "Mbit/s  voice, download" in seen
        assert "PASSED: all" in seen and "\033" not in seen

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_run_that_is_interrupted_takes_everything_away(self, number: signal.Signals) -> None:
        with car_under_traffic() as (process, label):
            process.send_signal(number)
            assert process.wait(20) == 128 + number
            assert label not in labels() and not node_names(label)

    def test_down_takes_away_what_a_killed_run_left(self) -> None:
        with car_under_traffic() as (process, label):
            process.kill()
            process.wait()
            agents = _processes_with(f"{RUN / label}/")
            assert len(agents) >= 4  # both agents, both ends of the traffic, and radvd
            done = subprocess.run([*MIP6_LAB, "down", label], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert label not in labels() and not node_names(label)
            assert not _processes_with(f"{RUN / label}/")

    def test_up_stays_and_shell_sees_the_agents(self) -> None:
        label = own_label()
        try:
            up = subprocess.run([*MIP6_LAB, "up", "car", "--label", label], cwd=ROOT, capture_output=True, text=True)
            assert up.returncode == 0, up.stderr
            assert f"Lab {label} is up." in up.stdout
            for node, role in (("mr", "mobilenode"), ("ha", "homeagent")):
                status = [*MIP6_LAB, "shell", label, node, "--", sys.executable, "-m", "mip6.cli", "status", "--json"]
                done = subprocess.run(status, cwd=ROOT, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
                answer: dict[str, Any] = json.loads(done.stdout)
                assert answer["role"] == role
        finally:
            down = subprocess.run([*MIP6_LAB, "down", label], cwd=ROOT, capture_output=True, text=True)
        assert down.returncode == 0, down.stderr
        assert label not in labels() and not node_names(label)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["shell", "nosuch", "mr"], "no lab nosuch is up"),
        (["down", "nosuch"], "there is no lab nosuch"),
        (["run", "car", "--json", "/nonexistent/file"], "there is no such directory"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(words: list[str], says: str) -> None:
    done = subprocess.run([*MIP6_LAB, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


def test_a_report_passes_only_when_every_check_does() -> None:
    good, bad = Check("gap", 12.0, "ms", 200), Check("gap", 201.0, "ms", 200)
    few = Check("registered", 1, "", 2, at_least=True)
    assert Report("car", "userspace", (good,)).passed
    assert not Report("car", "userspace", (good, bad)).passed
    assert not Report("car", "userspace", (good, few)).passed
    assert not Report("car", "userspace", ()).passed
    assert not Report("car", "userspace", (good,), error="the home agent ended").passed


def test_the_story_of_the_car_ends_as_it_began() -> None:
    first, middle, last = CAR_SCENARIO.phases
    assert first.on_link == last.on_link
    assert set(middle.on_link.values()) == {CELLULAR}


def _processes_with(argument: str) -> list[int]:
    """Processes that have `argument` in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        if argument.encode() in words:
            found.append(int(file.parent.name))
    return found


def own_label() -> str:
    """For a lab that is looked for after its end: a label that another process cannot take as soon as it is free."""
    return f"car-{uuid.uuid4().hex[:8]}"


@contextmanager
def car_under_traffic() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`mip6 lab run car`, in the middle of its story, and the label of its lab; both gone afterwards."""
    label = own_label()
    run_car = [*MIP6_LAB, "run", "car", "--label", label]
    process = subprocess.Popen(run_car, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        try:
            assert any(line.startswith("▸") for line in process.stdout), "it ended before its first phase"
            yield process, label
        finally:
            process.kill()
            process.wait()
            remove(label)
