"""Where there is no fast path: `auto` goes on in userspace and says in one line why, `ebpf` does not start."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from labs.namespaces import LabNode, missing
from mip6.dataplane.maps import OBJECT
from tests.netns.support import LIMIT, Car, car_lab, programs

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
_CAPABILITIES = "-all,+net_admin,+net_raw"
_WITHOUT_BPF = ("setpriv", "--bounding-set", _CAPABILITIES, "--inh-caps", _CAPABILITIES, "--")


def _hidden(file: str) -> tuple[str, ...]:
    return ("unshare", "--mount", "sh", "-c", f'mount --bind /dev/null "$(readlink -f {file})" && exec "$@"', "sh")


LACKS = {
    "the capability": (_WITHOUT_BPF, "the kernel refuses it: Operation not permitted"),
    "libbpf": (_hidden("/usr/lib/*/libbpf.so.1"), "(Debian package libbpf1)"),
    "the object": (_hidden(str(OBJECT)), "not a BPF object"),
}


@pytest.fixture
def killed() -> Iterator[Car]:
    """The home agent was killed: its configuration is there, and its programs run."""
    with car_lab() as car:
        ha = car["ha"]
        ha.start_daemon("homeagent", dataplane="ebpf")
        car.home()
        ha.stop(ha.daemons["homeagent"], kill=True)
        yield car


def _start(node: LabNode, wrapper: tuple[str, ...], kind: str) -> None:
    config = node.directory / "homeagent.toml"
    config.write_text(config.read_text().replace('dataplane = "ebpf"', f'dataplane = "{kind}"'))
    node.popen(*wrapper, sys.executable, "-m", "homeagent", "--config", config, log="again.log")


@pytest.mark.parametrize("lack", LACKS)
def test_auto_goes_on_in_userspace_and_says_why(killed: Car, lack: str) -> None:
    wrapper, reason = LACKS[lack]
    assert programs(killed["ha"])
    _start(killed["ha"], wrapper, "auto")
    assert killed.home()["dataplane"] == "userspace"
    assert programs(killed["ha"]) == {}
    lines = (killed["ha"].directory / "again.log").read_text().splitlines()
    [chosen] = [line for line in lines if "dataplane_chosen" in line]
    assert "dataplane=userspace" in chosen
    assert reason in chosen


def test_ebpf_does_not_start(killed: Car) -> None:
    wrapper, reason = LACKS["the capability"]
    ha = killed["ha"]
    _start(ha, wrapper, "ebpf")
    process = next(one for one, log in ha.processes.items() if log.name == "again.log")
    assert process.wait(LIMIT) == 1
    ha.stop(process)
    said = (ha.directory / "again.log").read_text()
    assert 'dataplane = \\"ebpf\\", but' in said
    assert reason in said
