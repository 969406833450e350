"""Monthly volumes: counted over restarts of everything, a last resort when used up, fresh on the day of the month."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mip6.events import LinkCounted, VolumeRestored
from mobilenode.linkcounts import link_counts
from mobilenode.settings import via
from mobilenode.volumes import Volume, Volumes
from mobilenode.volumestore import VolumeStore
from tests.mobilenode.support import BOTH, NOON, SETTINGS, VOICE, registered

GB = 10**9
METERED = replace(SETTINGS.links[1], priority=5, metered=True, volume=2 * GB, volume_day=20)
LIMITED = replace(SETTINGS, links=(SETTINGS.links[0], METERED), flows=(replace(VOICE, down=via("wwan0", "wlan0")),))
BEGUN = datetime(2023, 10, 20, tzinfo=UTC).timestamp()  # NOON is 14 November 2023
NEXT = datetime(2023, 11, 20, tzinfo=UTC).timestamp()


def test_a_link_past_its_volume_is_a_last_resort_at_both_ends() -> None:
    world = registered(LIMITED)
    assert world.node().rules[0].bids == (2,) and world.node().tunnels[0].bid == 2
    world.give(LinkCounted("wwan0", 5 * GB))  # what it carried before is not of this run
    world.give(LinkCounted("wwan0", 7 * GB - 1))
    assert world.node().rules[0].bids == (2,)
    world.give(LinkCounted("wwan0", 7 * GB))
    assert world.node().rules[0].bids == (1,) and world.node().tunnels[0].bid == 1
    assert world.sent[-1].flows() == {10: (1,)}
    assert world.reports().count("monthly volume used up") == 1
    world.answer()
    world.links(BOTH[1])
    assert world.usable() == [2] and world.node().rules[0].bids == (2,)  # the last one there is


def test_a_new_month_begins_by_itself() -> None:
    world = registered(LIMITED)
    world.give(VolumeRestored("wwan0", BEGUN, 3 * GB, 0))
    assert world.node().rules[0].bids == (1,)
    world.answer()
    volumes = Volumes(LIMITED.links, UTC)
    volumes.restore({"wwan0": Volume(BEGUN, 3 * GB, 0), "gone0": Volume(BEGUN, 1, 1)})
    assert volumes.next_change(NOON) == NEXT and set(volumes.found) == {"wwan0"}
    volumes.turn(NEXT - 1)
    assert volumes.spent() == {"wwan0"}
    volumes.turn(NEXT)
    assert volumes.spent() == frozenset() and volumes.next_change(NEXT) is None
    volumes.turn(0.0)  # a clock that went back ends no month
    assert volumes.found["wwan0"].begun == NEXT


def ticking(volumes: Volumes, start: float, seconds: int) -> None:
    for second in range(0, seconds + 1, 10):
        volumes.turn(start + second)


def test_a_month_that_a_wrong_clock_put_into_the_future_ends_with_the_present_one() -> None:
    now, begun, end = (datetime(2026, *day, tzinfo=UTC).timestamp() for day in ((11, 25), (11, 20), (12, 20)))
    volumes = Volumes(LIMITED.links, UTC)
    volumes.restore({"wwan0": Volume(datetime(2038, 1, 20, tzinfo=UTC).timestamp(), 3 * GB, 0)})
    ticking(volumes, now, 890)
    assert volumes.found["wwan0"].begun > end  # it may be this clock that is wrong
    ticking(volumes, now + 890, 20)
    assert volumes.found["wwan0"] == Volume(begun, 3 * GB, 0)
    volumes.turn(end)
    assert volumes.found["wwan0"] == Volume(end, 0, 0)


def test_a_clock_that_was_never_set_makes_no_month_begin_earlier() -> None:
    volumes = Volumes(LIMITED.links, UTC)
    volumes.restore({"wwan0": Volume(BEGUN, 3 * GB, 0)})
    ticking(volumes, 100.0, 7200)
    volumes.turn(NOON)
    assert volumes.found["wwan0"] == Volume(BEGUN, 3 * GB, 0)


def test_a_link_that_was_made_anew_counts_from_nothing() -> None:
    volumes = Volumes(LIMITED.links, UTC)
    for counter in (100, 300, 50, 60):
        volumes.count({"wwan0": counter, "wlan0": 9 * GB}, NOON)
    assert volumes.found == {"wwan0": Volume(BEGUN, 200 + 50 + 10, 60)}


def test_the_file_keeps_them_and_a_damaged_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"wwan0": Volume(BEGUN, 12, 34)}
    store = VolumeStore(tmp_path / "new" / "state.json", ["wwan0"], lambda: found)
    assert store.read() == []
    store.write(store.text())
    assert store.read() == [VolumeRestored("wwan0", BEGUN, 12, 34)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state.json"]
    (tmp_path / "new" / "state.json").write_text(json.dumps({"wwan0": 3}))
    assert store.read() == []


def test_the_kernel_counts_a_link_and_knows_no_other() -> None:
    counts = link_counts()
    assert counts["lo"].received >= 0 and "absent0" not in counts
