"""A metered link on the running agents: its volume is counted by the kernel, kept on disk, and used up by traffic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labs.car import VOICE_PORT
from labs.namespaces import missing
from labs.runner import wait_for_addresses
from labs.vehicle import CN
from tests.netns.support import CELLULAR_BID, LIMIT, WLAN_BID, Car, socket_on

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
COUNTED = 25.0  # seconds: two looks at the counters, and some time


def test_a_link_whose_volume_is_used_up_is_left(parked: Car) -> None:
    lab, node = parked.lab, parked["mr"]
    wait_for_addresses(lab)
    lab.start_daemons()
    parked.until_registered()
    node.stop(node.daemons["mobilenode"])
    state, file = node.directory / "volumes.json", node.directory / "mobilenode.toml"
    text = file.read_text().replace("[mobilenode]\n", f'[mobilenode]\nstate = "{state}"\n', 1)
    file.write_text(text.replace('name = "wwan0"\n', 'name = "wwan0"\nvolume = "1 MB"\n', 1))
    node.python("mobilenode", "--config", file, log="mobilenode.log")
    parked.until_registered()
    lab.until(state.exists, LIMIT, "the volume is written")
    assert voice(parked) == [CELLULAR_BID]
    with socket_on(node, VOICE_PORT) as here:

        def spend() -> bool:
            """A little more of it, well below the rate of the link."""
            here.sendto(bytes(1200), (CN, VOICE_PORT))
            return used(state) > 1_000_000

        lab.until(spend, COUNTED, "the volume is used up, and that is on disk")
    log = node.directory / "mobilenode.log"
    lab.until(lambda: "monthly volume used up" in log.read_text(), LIMIT, "the log says so")
    assert voice(parked) == [WLAN_BID]
    lab.until(lambda: parked.home()["nodes"][0]["flows"][0]["bids"] == [WLAN_BID], LIMIT, "the home agent follows")


def voice(car: Car) -> list[int]:
    """Where the voice flow goes up."""
    [flow] = car.mobile()["flows"]
    bids: list[int] = flow["bids"]
    return bids


def used(state: Path) -> int:
    """The octets of this month that are on disk."""
    return int(json.loads(state.read_text())["wwan0"]["used"])
