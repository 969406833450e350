"""The systemd units as a user installs them: venv in /opt/mip6, the two files, systemctl. Runs in the guest of test-vm.

The home agent is in the machine's own network namespace, the mobile node in another one (NetworkNamespacePath= in a
drop-in), two veth pairs between them:

    homeagent.service  wlan 2001:db8:a::1 ---- wlan0 2001:db8:a::2  mobilenode.service
    2001:db8:1::1      wwan 2001:db8:b::1 ---- wwan0 2001:db8:b::2  home address 2001:db8:100::5
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FACTOR = float(os.environ.get("MIP6_TIME_FACTOR", "1"))
LIMIT = 15 * FACTOR  # seconds
MIP6 = "/opt/mip6/bin/mip6"
PORT = 7007
ECHO = f"""
import socket
here = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
here.bind(("2001:db8:100::5", 0))
here.settimeout({LIMIT})
for word in (b"one", b"two", b"three"):
    here.sendto(word, ("2001:db8:1::1", {PORT}))
print(*(here.recv(100).decode() for _ in range(3)))
"""
KEY = "0f0e0d0c0b0a09080706050403020100f1e2d3c4"
CAPABILITIES = {"cap_net_bind_service": 10, "cap_net_admin": 12, "cap_net_raw": 13, "cap_perfmon": 38, "cap_bpf": 39}
ALLOWED = sum(1 << number for number in CAPABILITIES.values())
HOME_AGENT = """
[homeagent]
address = "2001:db8:1::1"
home_prefixes = ["2001:db8:100::/64"]
[[node]]
home_address = "2001:db8:100::5"
  [[node.key]]
  spi = 4096
  key_file = "node.key"
"""
MOBILE_NODE = """
[mobilenode]
home_address = "2001:db8:100::5"
home_agent = "2001:db8:1::1"
home_prefix = "2001:db8:100::/64"
  [mobilenode.key]
  spi = 4096
  key_file = "node.key"
[[link]]
name = "wlan0"
bid = 1
priority = 10
[[link]]
name = "wwan0"
bid = 2
priority = 20
"""
NETWORK = """
ip netns add mobile
ip link set lo up
ip -6 address add 2001:db8:1::1/128 dev lo
ip netns exec mobile ip link set lo up
metric=1024
for link in wlan:a wwan:b; do
    name=${link%:*} net=${link#*:} metric=$((metric + 1))
    ip link add $name type veth peer ${name}0 netns mobile
    ip link set $name up
    ip netns exec mobile ip link set ${name}0 up
    ip -6 address add 2001:db8:$net::1/64 dev $name nodad
    ip -6 address add fe80::1/64 dev $name nodad
    ip netns exec mobile ip -6 address add 2001:db8:$net::2/64 dev ${name}0 nodad
    ip netns exec mobile ip -6 route add default via fe80::1 dev ${name}0 metric $metric
done
sysctl -q -w net.ipv6.conf.all.forwarding=1
"""


def run(*command: str, fails: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def journal(unit: str) -> str:
    return run("journalctl", "-o", "cat", "-n", "60", "-u", unit)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"not within {LIMIT} s: {what}\n{journal('homeagent')}\n{journal('mobilenode')}"
        time.sleep(0.2)


def shown(unit: str, name: str) -> str:
    return run("systemctl", "show", "-P", name, unit).strip()


def status(role: str) -> dict[str, object]:
    """As root with no more rights than the unit has: the control socket asks for none."""
    command = (MIP6, "status", "--json", "--control", f"/run/mip6/{role}.sock")
    text = run("setpriv", "--inh-caps=-all", "--bounding-set=-all", *command)
    found: dict[str, object] = json.loads(text)
    return found


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """As README says it."""
    run("/usr/bin/python3", "-m", "venv", "/opt/mip6")
    run("/opt/mip6/bin/pip", "install", "-q", "--no-index", "--find-links", "/wheels", "mip6")
    etc = Path("/etc/mip6")
    etc.mkdir(mode=0o700)
    for name, text in (("homeagent.toml", HOME_AGENT), ("mobilenode.toml", MOBILE_NODE), ("node.key", KEY)):
        file = etc / name
        file.touch(0o600)
        file.write_text(text)
    for unit in ("homeagent", "mobilenode"):
        shutil.copy(ROOT / f"packaging/systemd/{unit}.service", "/etc/systemd/system/")
    drop_in = Path("/etc/systemd/system/mobilenode.service.d/namespace.conf")
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nNetworkNamespacePath=/run/netns/mobile\n")
    run("sh", "-e", "-c", NETWORK)
    run("systemctl", "daemon-reload")
    yield
    run("systemctl", "stop", "mobilenode", "homeagent")


def test_systemd_finds_nothing_wrong_with_them() -> None:
    assert run("systemd-analyze", "verify", "homeagent.service", "mobilenode.service").strip() == ""


def test_a_wrong_file_keeps_the_unit_from_starting_and_the_journal_says_why() -> None:
    file = Path("/etc/mip6/homeagent.toml")
    file.write_text(HOME_AGENT.replace("address", "adress", 1))
    run("systemctl", "start", "homeagent", fails=True)
    assert "homeagent.adress: unknown key; did you mean address?" in journal("homeagent")
    file.write_text(HOME_AGENT)
    run("systemctl", "stop", "homeagent")


def test_they_start_and_say_when_they_are_ready() -> None:
    """Type=notify: `systemctl start` comes back when the daemon has said READY=1, and not before."""
    run("systemctl", "start", "homeagent")
    assert shown("homeagent", "ActiveState") == "active" and status("homeagent")["role"] == "homeagent"
    run("systemctl", "start", "mobilenode")
    assert shown("mobilenode", "ActiveState") == "active"
    until(lambda: status("mobilenode")["state"] == "registered", "the mobile node is registered")
    (node,) = status("homeagent")["nodes"]  # type: ignore[misc]
    assert [one["bid"] for one in node["bindings"]] == [1, 2]


@pytest.mark.parametrize("unit", ["homeagent", "mobilenode"])
def test_five_capabilities_and_no_more(unit: str) -> None:
    pid = shown(unit, "MainPID")
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sets = {name: int(value, 16) for name, _, value in (line.partition(":\t") for line in lines) if name[:3] == "Cap"}
    assert sets["CapBnd"] == ALLOWED and sets["CapEff"] == ALLOWED and sets["CapPrm"] == ALLOWED
    assert "NoNewPrivs:\t1" in lines and "Seccomp:\t2" in lines


def test_packets_cross_the_tunnel() -> None:
    """Three datagrams from the home address to the home agent's machine, and their echo."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as here:
        here.bind(("2001:db8:1::1", PORT))
        here.settimeout(LIMIT)
        command = ("ip", "netns", "exec", "mobile", "/usr/bin/python3", "-c", ECHO)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as there:
            for _ in range(3):
                data, sender = here.recvfrom(100)
                assert sender[0] == "2001:db8:100::5"
                here.sendto(data, sender)
            assert there.communicate(timeout=LIMIT)[0].strip() == "one two three"
    (node,) = status("homeagent")["nodes"]  # type: ignore[misc]
    assert sum(one["packets_in"] for one in node["bindings"]) >= 3


@pytest.mark.parametrize("unit", ["homeagent", "mobilenode"])
def test_what_is_killed_is_started_again(unit: str) -> None:
    before = shown(unit, "MainPID")
    run("systemctl", "kill", "-s", "KILL", unit)
    until(lambda: shown(unit, "ActiveState") == "active" and shown(unit, "MainPID") not in ("0", before), "a restart")
    until(lambda: status("mobilenode")["state"] == "registered", "the mobile node is registered")
    until(lambda: len(status("homeagent")["nodes"][0]["bindings"]) == 2, "both bindings")  # type: ignore[index]
    assert int(shown(unit, "NRestarts")) == 1
    bindings = status("homeagent")["nodes"][0]["bindings"]  # type: ignore[index]
    assert sum(one["packets_in"] for one in bindings) >= 3  # of test_packets_cross_the_tunnel


def test_restart_and_stop() -> None:
    run("systemctl", "restart", "homeagent", "mobilenode")
    until(lambda: status("mobilenode")["state"] == "registered", "the mobile node is registered")
    run("systemctl", "stop", "mobilenode")
    assert shown("mobilenode", "Result") == "success"
    until(lambda: status("homeagent")["nodes"][0]["bindings"] == [], "deregistered")  # type: ignore[index]
    assert "mip0" not in run("ip", "netns", "exec", "mobile", "ip", "-o", "link")
    run("systemctl", "stop", "homeagent")
    assert shown("homeagent", "Result") == "success"
