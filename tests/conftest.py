"""Fixtures for all tests.

`lab` makes networks of a topology, each gone when the test ends, however it ends:

    @pytest.mark.netns
    def test_registration(lab):
        car = lab(CAR)                                     # up: namespaces, links, routes, router advertisements
        wait_for_addresses(car)
        car.start_daemons(dataplane="userspace")           # all of them; or car["ha"].start_daemon("homeagent")
        car.until(lambda: car["mr"].status("mobilenode")["state"] == "registered", 10, "registration")
        car["lfn"].run("command", "argument")              # its standard output; LabError when it fails
        car["cn"].popen("command", log="some.log")         # goes on; ended with the lab
        car["ar1"].set_link("access", up=False)            # the mobile router loses its carrier
        car["ha"].stop(car["ha"].daemons["homeagent"], kill=True)

More of a node's and a lab's abilities: `labs.namespaces`.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from labs.flows import Flow
from labs.namespaces import Lab, missing
from labs.topology import Topology

# how long one example takes says nothing here: machines are shared, and the suite runs on all cores
settings.register_profile("shared", deadline=None, print_blob=True)
settings.load_profile("shared")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # from the background of a shell; what tests start must hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(50_000, 20, 20)  # by default a tenth of the simulation's time is spent looking for garbage

MakeLab = Callable[..., Lab]


@pytest.fixture
def lab() -> Iterator[MakeLab]:
    """`lab(topology, flows=())`: the topology made real, with `flows` counted on its access links."""
    if lacks := missing():
        pytest.skip("; ".join(lacks))
    with ExitStack() as labs:

        def make(topology: Topology, flows: Iterable[Flow] = ()) -> Lab:
            return labs.enter_context(Lab(topology, flows=flows))

        yield make


WITH_NAMESPACES = ("dataplane", "labs", "netns", "system")
"""Where tests marked `netns` may be: `tools/test` looks for them nowhere else."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """UsageError for a test that `tools/test` would not find."""
    for item in items:
        directory = item.path.relative_to(Path(__file__).parent).parts[0]
        if item.get_closest_marker("netns") is not None and directory not in WITH_NAMESPACES:
            raise pytest.UsageError(f"{item.nodeid}: tests in network namespaces are in {', '.join(WITH_NAMESPACES)}")


TOGETHER = (
    "tests/dataplane/test_fastpath.py",
    "tests/dataplane/test_fastpath_memory.py",
    "tests/dataplane/test_straight.py",
    "tests/labs/test_happenings.py",
    "tests/netns/test_fastpath.py",
    "tests/netns/test_flow_command.py",
    "tests/netns/test_paths.py",
    "tests/netns/test_traffic.py",
)
"""Files with a lab, or with loaded programs, for all their tests."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """With `--dist loadscope` a file that is to be kept together goes to one process, any other test to whichever is
    free; the long ones first. (The groups of pytest-xdist 3.8 do nothing under pytest 9.2.)"""
    return Scheduling(config, log) if config.getoption("dist") == "loadscope" else None


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """What is handed out as a whole: by number of tests, the largest first."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        return file if file in TOGETHER else nodeid


KERNEL_FEATURE = "kernel feature missing: "
"""How the reason of a skip begins that CI accepts."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped quietly: a skip fails unless it names a kernel feature that this machine lacks."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if KERNEL_FEATURE not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report
