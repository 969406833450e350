"""`mip6 status` shows people what the control socket says."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from threading import Thread

import pytest

from mip6 import cli, status
from mip6.system.control import ControlError

TRAFFIC = {"packets_out": 10, "bytes_out": 12000, "packets_in": 7, "bytes_in": 560}
MOBILE_NODE = {
    "role": "mobilenode",
    "home_address": "2001:db8:100::5",
    "home_agent": "2001:db8:100::1",
    "device": "mip0",
    "dataplane": "userspace",
    "state": "registered",
    "uptime": 3725.0,
    "prefixes": ["2001:db8:f00::/56"],
    "bindings": [
        {"bid": 1, "link": "wlan0", "care_of_address": "2001:db8:1::a", "priority": 10, "lifetime": 600}
        | {"lifetime_left": 571.2, "state": "registered"} | TRAFFIC,
        {"bid": 2, "link": "wwan0", "care_of_address": "2001:db8:2::b", "priority": 20, "lifetime": 600}
        | {"lifetime_left": None, "state": "down"} | TRAFFIC,
    ],
    "flows": [{"fid": 10, "name": "voice", "priority": 10, "selector": "udp", "bids": [2, 1], "active": True}],
    "drops": {"source_not_owned": 3},
    "signalling": {"accepted": 5},
}  # fmt: skip


def test_a_mobile_router_is_shown_in_aligned_tables() -> None:
    assert status.render(MOBILE_NODE) == "\n".join(
        [
            "mobile node 2001:db8:100::5, home agent 2001:db8:100::1: registered, device mip0, data plane userspace, "
            "up 1h02m",
            "",
            "prefixes: 2001:db8:f00::/56",
            "",
            "bindings:",
            "  BID  LINK   CARE-OF ADDRESS  PRI  LEFT   STATE       PACKETS OUT  BYTES OUT  PACKETS IN  BYTES IN",
            "    1  wlan0  2001:db8:1::a     10  9m31s  registered           10      12000           7       560",
            "    2  wwan0  2001:db8:2::b     20  -      down                 10      12000           7       560",
            "",
            "flows:",
            "  FID  PRI  NAME   BIDS  ACTIVE  SELECTOR",
            "   10   10  voice  2,1   yes     udp",
            "",
            "drops:",
            "  source_not_owned  3",
            "",
            "signalling:",
            "  accepted  5",
        ]
    )


def test_a_home_agent_shows_each_mobile_node() -> None:
    node = {name: MOBILE_NODE[name] for name in ("home_address", "prefixes", "flows")}
    node |= {"identifier": "mr@example.com", "mobile_router": True, "bindings": []}
    text = status.render(
        {"role": "homeagent", "address": "2001:db8:100::1", "device": "mip0", "dataplane": "userspace", "uptime": 59.9}
        | {"nodes": [node], "drops": {}, "signalling": {}}
    )
    lines = text.splitlines()
    assert lines[0] == "home agent 2001:db8:100::1: device mip0, data plane userspace, up 59s"
    assert "mobile router 2001:db8:100::5 (mr@example.com)" in lines
    assert "no bindings" in lines and "drops:" not in lines


def test_the_socket_is_found_when_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no control socket"):
        status.find_socket(directory=tmp_path / "absent")
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(str(tmp_path / "homeagent.sock"))
        assert status.find_socket(directory=tmp_path) == tmp_path / "homeagent.sock"
        second.bind(str(tmp_path / "mobilenode.sock"))
        with pytest.raises(ControlError, match="several control sockets"):
            status.find_socket(directory=tmp_path)
        assert status.find_socket("homeagent", tmp_path) == tmp_path / "homeagent.sock"


def test_nobody_there_is_a_failure_that_names_the_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--json", "--control", str(tmp_path / "absent.sock")]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and f"{tmp_path / 'absent.sock'}: No such file or directory" in shown.err


def test_json_is_what_the_daemon_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mobilenode.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as lines:
                assert json.loads(lines.readline()) == {"command": "status"}
                lines.write(json.dumps(MOBILE_NODE).encode() + b"\n")

        server = Thread(target=answer)
        server.start()
        assert cli.main(["status", "--json", "--control", str(path)]) == 0
        server.join()
    assert json.loads(capsys.readouterr().out) == MOBILE_NODE


def test_a_terminal_is_redrawn_in_place_and_never_scrolls() -> None:
    """Each line over the old one; what is too much for the window is said in its last row."""
    short = status.screen("one\ntwo", 24)
    assert short == "\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J"
    long = status.screen("\n".join(str(number) for number in range(30)), 10)
    shown = long.replace("\x1b[K", "").removeprefix("\x1b[H").removesuffix("\x1b[J").splitlines()
    assert shown[:8] == [str(number) for number in range(8)] and len(shown) == 9
    assert shown[8].startswith("... 22 more lines")


def test_measured_paths_are_shown_with_both_directions() -> None:
    path = {
        "state": "up", "since": 75.2, "rtt_ms": 43.21, "variation_out_ms": 1.26, "variation_in_ms": 0.4,
        "loss_out_percent": 0.0, "loss_in_percent": 2.5,
    }  # fmt: skip
    unmeasured = (
        dict.fromkeys(path, None)
        | {"state": "unmeasured", "since": 3.0}
        | dict.fromkeys(("loss_out_percent", "loss_in_percent"), 0.0)
    )
    shown = MOBILE_NODE["bindings"]
    assert isinstance(shown, list)
    wlan, cellular = shown
    bindings = [wlan | {"path": path}, wlan | {"bid": 3, "path": unmeasured}, cellular | {"path": None}]
    lines = status.render(MOBILE_NODE | {"bindings": bindings}).splitlines()
    head = lines.index("bindings:") + 1
    assert [line[36:98].rstrip() for line in lines[head : head + 4]] == [
        "LEFT   STATE       PATH           RTT MS  VARIATION MS  LOSS %",
        "9m31s  registered  up 1m15s       43.2    1.3/0.4       0.0/2.",
        "9m31s  registered  unmeasured 3s  -       -/-           0.0/0.",
        "-      down        -              -       -             -",
    ]


def test_what_came_first_over_which_link_and_what_was_eliminated() -> None:
    shown = MOBILE_NODE["bindings"]
    assert isinstance(shown, list)
    counted = [
        one | {"packets_first": first, "packets_duplicate": again}
        for one, first, again in zip(shown, (75, 25), (20, 70), strict=True)
    ]
    lines = status.render(MOBILE_NODE | {"bindings": counted}).splitlines()
    head = lines.index("n-cast packets received:")
    assert lines[head + 1 : head + 4] == [
        "  BID  LINK   FIRST  DUPLICATE  FIRST %",
        "    1  wlan0     75         20  75.0",
        "    2  wwan0     25         70  25.0",
    ]
    assert "n-cast packets received:" not in status.render(MOBILE_NODE)


def test_balanced_links_are_shown_with_what_their_weights_follow() -> None:
    way = {"factor": 5, "rate": 18_000_000, "capacity": 20_000_000, "queue_ms": 41.7, "full": True, "loss_percent": 2.5}
    shown = MOBILE_NODE["bindings"]
    assert isinstance(shown, list)
    wlan, cellular = shown
    bindings = [wlan | {"load": {"up": None, "down": way}}, cellular | {"load": None}]
    flow = {"fid": 10, "priority": 10, "selector": "tcp", "active": True, "bids": [1, 2], "weights": [1, 1]}
    flows = [flow | {"down_bids": [1, 2], "down_weights": [5, 100]}]
    text = status.render(MOBILE_NODE | {"bindings": bindings, "flows": flows})
    lines = text.splitlines()
    head = lines.index("load:")
    assert lines[head + 1 : head + 4] == [
        "  LINK   WAY   FACTOR  MBIT/S  CAPACITY  QUEUE MS   LOST %",
        "  wlan0  up    -       -       -         -          -",
        "  wlan0  down  5.0     18.0    20.0      42 (full)  2.5",
    ]
    assert "up 1:1,2:1 down 1:5,2:100" in text
