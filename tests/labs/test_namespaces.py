"""Labs in real namespaces: they come up as declared and leave nothing behind, however they end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labs.namespaces import RUN, Lab, LabError, NotInTime, labels, missing, node_names, remove
from labs.plain import plain_topology
from labs.runner import wait_for_addresses
from labs.topology import Topology
from tests.conftest import MakeLab

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
ROOT = Path(__file__).resolve().parents[2]
RATE = 20_000_000  # bit/s


@pytest.fixture
def label() -> Iterator[str]:
    """A label of this test's own; nothing of it is left afterwards."""
    name = f"t{uuid.uuid4().hex[:6]}"
    yield name
    remove(name)


@pytest.fixture
def topology() -> Topology:
    return plain_topology(RATE)


def nothing_left(label: str) -> bool:
    return label not in labels() and not node_names(label) and not (RUN / label).exists()


def serve(lab: Lab) -> None:
    """The correspondent serves the files of its directory."""
    lab["cn"].python("http.server", "--bind", "2001:db8:c::2", "--directory", lab["cn"].directory, log="http.log")
    lab.until(lambda: lab["cn"].run("ss", "-Hltn", "sport = :8000"), 5, "the server listens")


def fetch(lab: Lab, name: str) -> str:
    """A file of the correspondent, as the node in the vehicle gets it."""
    program = f"import urllib.request as u; print(u.urlopen('http://[2001:db8:c::2]:8000/{name}').read().decode())"
    return lab["lfn"].run(sys.executable, "-c", program, limit=10).strip()


def eventually(condition: Callable[[], object], limit: float) -> bool:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_addresses_come_by_router_advertisement_and_packets_pass(topology: Topology, label: str) -> None:
    with Lab(topology, label) as lab:
        wait_for_addresses(lab)
        [address] = lab["mr"].addresses("wlan0")
        assert address["local"].startswith("2001:db8:a:")
        assert [found["local"] for found in lab["lfn"].addresses("eth0")] == ["2001:db8:f00:1::10"]
        (lab["cn"].directory / "greeting").write_text("hello")
        serve(lab)
        assert fetch(lab, "greeting") == "hello"
    assert nothing_left(label)


@pytest.mark.alone
def test_rate_is_as_declared_in_both_directions(topology: Topology, label: str) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("needs the command iperf3")
    with Lab(topology, label) as lab:
        wait_for_addresses(lab)
        server = lab["cn"].popen("iperf3", "-s", log="iperf3.log")
        lab.until(lambda: lab["cn"].run("ss", "-Hltn", "sport = :5201"), 5, "iperf3 listens")
        for direction in ([], ["-R"]):
            result = json.loads(lab["lfn"].run("iperf3", "-6", "-J", "-t2", "-c", "2001:db8:c::2", *direction))
            ratio = result["end"]["sum_received"]["bits_per_second"] / RATE
            assert 0.8 < ratio < 1.05, direction
        lab["cn"].stop(server)


def test_two_labs_at_once_do_not_meet(topology: Topology, label: str) -> None:
    other = f"{label}-b"
    with Lab(topology, other) as second:
        with Lab(topology, label) as first:
            assert node_names(label) == node_names(other) == sorted(first.nodes)
            for lab in (first, second):  # the same addresses, ports and files; only the content tells them apart
                wait_for_addresses(lab)
                (lab["cn"].directory / "name").write_text(lab.label)
                serve(lab)
            assert [fetch(lab, "name") for lab in (first, second)] == [label, other]
            first["ar1"].set_link("wlan", up=False)
            assert fetch(second, "name") == other
        assert nothing_left(label)
        assert fetch(second, "name") == other
    assert nothing_left(other)


def test_a_label_is_taken_once(topology: Topology, label: str) -> None:
    with Lab(topology, label) as lab:
        with pytest.raises(LabError, match="exists already"), Lab(topology, label):
            pass
        assert node_names(label) == sorted(lab.nodes)


def test_nothing_is_left_after_a_failure(topology: Topology, label: str) -> None:
    with pytest.raises(LabError, match="status 1"), Lab(topology, label) as lab:
        lab["cn"].run("false")
    assert nothing_left(label)


def test_a_process_that_ends_is_told(topology: Topology, lab: MakeLab) -> None:
    network = lab(topology)
    network["cn"].popen("sh", "-c", "echo the reason; exit 3", log="short.log")
    with pytest.raises(LabError, match=r"(?s)short ended with status 3.*the reason"):
        network.until(lambda: False, 5, "never")


def test_a_condition_that_does_not_come_is_named(topology: Topology, lab: MakeLab) -> None:
    with pytest.raises(NotInTime, match=r"waited 0.1 s in vain: rain"):
        lab(topology).until(lambda: False, 0.1, "rain")


HOLD = """
import signal, sys, time
from labs.namespaces import Lab
from labs.plain import plain_topology
with Lab(plain_topology(), sys.argv[1]):
    print("up", flush=True)
    signal.pause()
"""


def hold(label: str) -> subprocess.Popen[str]:
    """A process that keeps a lab up until a signal ends it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, label], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_nothing_is_left_after_ctrl_c(label: str) -> None:
    process = hold(label)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert nothing_left(label)


def test_down_removes_what_a_killed_run_has_left(label: str) -> None:
    process = hold(label)
    process.kill()
    process.communicate(timeout=20)
    assert node_names(label)
    done = subprocess.run([sys.executable, "-m", "mip6.cli", "lab", "down", label], cwd=ROOT)
    assert done.returncode == 0
    assert nothing_left(label)


def lab_of(process: int) -> str | None:
    """The label of the lab that this process has made."""
    for file in RUN.glob("*/lab.json"):
        if (text := file.read_text()) and json.loads(text)["pid"] == process:
            return file.parent.name
    return None


def test_sigterm_to_a_running_scenario_removes_its_lab() -> None:
    command = [sys.executable, "-m", "mip6.cli", "lab", "run", "plain"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: lab_of(process.pid), 10)
        label = lab_of(process.pid)
        assert label is not None
    finally:
        process.terminate()
        status = process.wait(20)
    assert status == 128 + signal.SIGTERM
    assert nothing_left(label)
