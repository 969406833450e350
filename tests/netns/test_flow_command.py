"""`mip6 flow` on the running agents: a flow moves under traffic both ways, and not one packet is lost or comes twice.

The voice flow starts on cellular and is moved to WLAN and back, by the command, while numbered packets go each way.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from labs.car import VOICE_PORT
from labs.namespaces import missing
from labs.vehicle import CN, LFN
from tests.netns.support import CELLULAR_BID, LIMIT, WLAN_BID, Car, home_bindings, socket_on

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
INTERVAL = 0.005  # seconds between packets each way
MOST = 1000  # packets each way


def command(car: Car, *words: str, status: int = 0) -> str:
    """What `mip6 flow` says, as a person at the mobile router types it."""
    node = car["mr"]
    line = node.command(sys.executable, "-m", "mip6.cli", "flow", *words, "--control", node.control("mobilenode"))
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status, done
    return done.stdout + done.stderr


class Talk:
    """Numbered packets each way on the voice ports until it is over; what came, in its order."""

    def __init__(self, lfn: socket.socket, cn: socket.socket) -> None:
        self.sent = {"up": 0, "down": 0}
        self.received: dict[str, list[int]] = {"up": [], "down": []}
        self._over = threading.Event()
        ends = (("up", lfn, CN, cn), ("down", cn, LFN, lfn))
        self._senders = [threading.Thread(target=self._send, args=(way, sock, to)) for way, sock, to, _ in ends]
        self._readers = [threading.Thread(target=self._read, args=(way, sock)) for way, _, _, sock in ends]
        for thread in (*self._readers, *self._senders):
            thread.start()

    def _send(self, way: str, sock: socket.socket, to: str) -> None:
        for number in range(MOST):
            if self._over.is_set():
                return
            sock.sendto(number.to_bytes(4, "big"), (to, VOICE_PORT))
            self.sent[way] += 1
            time.sleep(INTERVAL)

    def _read(self, way: str, sock: socket.socket) -> None:
        while (data := sock.recv(64)) != b"end":
            self.received[way].append(int.from_bytes(data, "big"))

    def goes_on(self) -> Callable[[], bool]:
        """Whether packets have come each way since this was asked."""
        before = {way: len(numbers) for way, numbers in self.received.items()}
        return lambda: all(len(self.received[way]) > before[way] + 20 for way in before)

    def end(self, lfn: socket.socket, cn: socket.socket) -> None:
        """Stop sending, and read what is still under way."""
        self._over.set()
        for thread in self._senders:
            thread.join(LIMIT)
        lfn.sendto(b"end", (CN, VOICE_PORT))
        cn.sendto(b"end", (LFN, VOICE_PORT))
        for thread in self._readers:
            thread.join(LIMIT)
            assert not thread.is_alive(), "the end never came"


def packets(car: Car, bid: int) -> tuple[int, int]:
    """Inner packets sent over a binding so far: by the mobile router, by the home agent."""
    [mobile] = [one["packets_out"] for one in car.mobile()["bindings"] if one["bid"] == bid]
    [home] = [one["packets_out"] for one in home_bindings(car.home()) if one["bid"] == bid]
    return mobile, home


def test_a_flow_is_moved_under_traffic(car: Car) -> None:
    with socket_on(car["lfn"], VOICE_PORT) as lfn, socket_on(car["cn"], VOICE_PORT) as cn:
        talk = Talk(lfn, cn)
        car.lab.until(talk.goes_on(), LIMIT, "packets go both ways")
        for link, bid, other in (("wlan0", WLAN_BID, CELLULAR_BID), ("wwan0", CELLULAR_BID, WLAN_BID)):
            assert "moved at both ends" in command(car, "move", "voice", link)
            left, began = packets(car, other), packets(car, bid)
            car.lab.until(talk.goes_on(), LIMIT, "packets go both ways")
            assert packets(car, other) == left  # nothing went the old way since the command came back
            assert all(now > before for now, before in zip(packets(car, bid), began, strict=True))
        talk.end(lfn, cn)
    for way, numbers in talk.received.items():
        assert len(numbers) == talk.sent[way], f"{way}: {talk.sent[way] - len(numbers)} lost"
        assert sorted(numbers) == list(range(talk.sent[way])), f"{way}: some came twice"


def test_rules_are_added_listed_and_deleted(car: Car) -> None:
    assert "web: added at both ends" in command(car, "add", "web", "--app", "web", "--share", "wlan0=3,wwan0=1")
    rules = {one["name"]: one for one in json.loads(command(car, "list", "--json"))}
    assert rules["web"]["live"] and rules["web"]["down"] == "share wlan0:3 + wwan0:1"
    assert rules["web"]["up_bids"] == rules["web"]["down_bids"] == [WLAN_BID, CELLULAR_BID]
    [node] = car.home()["nodes"]
    assert [one["weights"] for one in node["flows"] if one["fid"] in rules["web"]["fids"]] == [[3, 1]] * 4
    assert "web: deleted at both ends" in command(car, "del", "web")
    [node] = car.home()["nodes"]
    assert [one["fid"] for one in node["flows"]] == [10]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("move", "voice", "wlan9"), "rule voice.via[0]: expected the name of a [[link]] (wlan0, wwan0), got 'wlan9'"),
        (("move", "vioce", "wlan0"), "there is no rule vioce; the rules are: voice"),
        (("add", "x", "--proto", "upd", "--via", "wlan0"), "rule.proto: expected a number from 0 to 255 or a protocol"),
    ],
)
def test_a_wrong_rule_is_refused_and_nothing_changes(car: Car, words: tuple[str, ...], error: str) -> None:
    before = car.mobile()["flows"]
    said = command(car, *words, status=1)
    assert said.startswith("mip6 flow: nothing was changed: ") and error in said
    assert car.mobile()["flows"] == before


def reload(car: Car, status: int, name: str = "mr", role: str = "mobilenode") -> str:
    node = car[name]
    line = node.command(sys.executable, "-m", "mip6.cli", "reload", "--control", node.control(role))
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status, done
    return done.stdout + done.stderr


def test_the_file_is_read_again_and_a_wrong_one_changes_nothing(car: Car) -> None:
    [file] = car["mr"].directory.glob("mobilenode*.toml")
    right = file.read_text()
    try:
        file.write_text(right + '\n[[flow]]\nname = "mail"\napp = "mial"\nvia = ["wlan0"]\n')
        assert "flow[1].app: expected one of voip, video, web" in reload(car, 1)
        file.write_text(right.replace("bid = 2", "bid = 3"))
        assert "links: changed, which needs a restart" in reload(car, 1)
        assert [one["fid"] for one in car.home()["nodes"][0]["flows"]] == [10]
        file.write_text(right + '\n[[flow]]\nname = "dns"\nprotocol = "udp"\nsource_port = 53\nvia = ["wlan0"]\n')
        assert "the rules of the file hold" in reload(car, 0)
        assert [one["fid"] for one in car.home()["nodes"][0]["flows"]] == [10, 20]
    finally:
        file.write_text(right)
        reload(car, 0)
    assert [one["fid"] for one in car.home()["nodes"][0]["flows"]] == [10]


def test_a_home_agent_reads_its_file_again_and_loses_no_binding(car: Car) -> None:
    [file] = car["ha"].directory.glob("homeagent*.toml")
    right = file.read_text()
    before = car.home()["nodes"][0]["bindings"]
    assert len(before) == 2
    try:
        file.write_text(right + '\n[[node]]\nhome_address = "2001:db8:999::1"\nreplay = "never"\n')
        said = reload(car, 1, "ha", "homeagent")
        assert "node[1].home_address: expected an address of" in said or "node[1].replay: expected one of" in said
        file.write_text(right.replace("[homeagent]", "[homeagent]\nudp_zero_checksum = true"))
        assert "udp_zero_checksum: changed, which needs a restart" in reload(car, 1, "ha", "homeagent")
        key = "ab" * 20
        node = '\n[[node]]\nhome_address = "2001:db8:100::99"\n[[node.key]]\nspi = 4096\nalgorithm = "hmac-sha1"\n'
        file.write_text(right + node + f'key = "{key}"\n')
        assert "1 nodes new" in reload(car, 0, "ha", "homeagent")
        nodes = car.home()["nodes"]
        assert {one["home_address"] for one in nodes} >= {"2001:db8:100::99"} and len(nodes) == 2
        assert [one["care_of_address"] for one in nodes[0]["bindings"]] == [one["care_of_address"] for one in before]
    finally:
        file.write_text(right)
        reload(car, 0, "ha", "homeagent")
