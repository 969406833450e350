"""Judgements and reports of a recording made by hand: two links, one of which carries nothing after the event."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from labs import checks, plots
from labs.actions import Advertise, Kill, SetClock, cut, restore
from labs.checks import Check
from labs.flows import DOWN, UP, Download, Record, Stream, Window
from labs.html import page
from labs.plain import PLAIN, WLAN
from labs.recording import Counters, Ends, Mark, Played, Recording, Sample
from labs.render import TOTAL, counter_name
from labs.result import Report
from labs.scenario import Phase

MS = 1_000_000
CELLULAR = "cellular"
VOICE, FILM = Stream("voice", 5004, rate=100), Download("film", 8080, connections=2)


def sample(time: int, **packets: int) -> Sample:
    """Counters of 1,000-octet packets; `wlan_voice=5` is five of them each way."""
    counters: Counters = {}
    for name, count in packets.items():
        link, flow = name.split("_")
        for direction in (DOWN, UP):
            link_name = {"wlan": WLAN, "cellular": CELLULAR}[link]
            counters[counter_name(link_name, flow, direction)] = (count, 1000 * count)
            total = counter_name(link_name, TOTAL, direction)
            before = counters.get(total, (0, 0))
            counters[total] = (before[0] + count, before[1] + 1000 * count)
    return Sample(time, counters)


def stream(*, lost: range = range(0), twice: range = range(0)) -> Ends:
    """A packet every 10 ms for 2 s, each 5 ms under way."""
    sent = [Record(number, number * 10 * MS, 0) for number in range(200)]
    received = [
        Record(record.number, record.sent, record.sent + 5 * MS)
        for record in sent
        if record.number not in lost
        for _ in range(2 if record.number in twice else 1)
    ]
    return Ends(sent, received)


def connection(octets: int) -> Ends:
    return Ends([Record(octets, 0, 2000 * MS)], [Record(octets // 2, 0, 500 * MS), Record(octets, 0, 1500 * MS)])


@pytest.fixture
def recording() -> Recording:
    start, middle = sample(0), sample(1000 * MS, wlan_voice=90, wlan_film=2000, cellular_voice=10)
    end = sample(2000 * MS, wlan_voice=90, wlan_film=2000, cellular_voice=110, cellular_film=500)
    return Recording(
        links={WLAN: (20_000_000, 20_000_000), CELLULAR: (5_000_000, 1_000_000)},
        flows=(VOICE, FILM),
        samples=(start, middle, end),
        marks=(Mark(1000 * MS, "WLAN cut"),),
        reports=(),
        phases=(
            Played("one link", Window(0, 1000 * MS), start, middle),
            Played("no link", Window(1000 * MS, 2000 * MS), middle, end, (1000 * MS,)),
        ),
        streams={("voice", DOWN): stream(lost=range(100, 110)), ("voice", UP): stream(twice=range(150, 152))},
        downloads={"film-0": connection(4_000_000), "film-1": connection(2_000_000)},
    )


def judged(recording: Recording, judge: checks.Judge, phase: int = 1) -> list[tuple[float, bool]]:
    return [(check.value, check.passed) for check in judge(recording, recording.phases[phase])]


def test_a_flow_on_two_links_is_told_by_its_share(recording: Recording) -> None:
    assert judged(recording, checks.carried("voice", WLAN), 0) == [(90.0, False)]
    assert judged(recording, checks.carried("voice", WLAN, at_least=80), 0) == [(90.0, True)]
    assert judged(recording, checks.carried("voice", CELLULAR), 1) == [(100.0, True)]
    assert judged(recording, checks.copied("voice", (WLAN, CELLULAR)), 0) == [(11.11, False)] * 2


def test_what_a_stream_lost_and_for_how_long(recording: Recording) -> None:
    assert judged(recording, checks.lost("voice")) == [(10, False)]
    assert judged(recording, checks.lost("voice"), 0) == [(0, True)]
    assert judged(recording, checks.lost_share("voice", 4)) == [(5.0, False)]
    assert judged(recording, checks.repeated("voice")) == [(2, False)]
    assert judged(recording, checks.gap("voice", 100)) == [(110.0, False), (10.0, True)]
    assert judged(recording, checks.ordered("voice", 0)) == [(0.0, True)]


def test_honest_repeats_are_all_due(recording: Recording) -> None:
    sent = [Record(number // 2, number // 2 * 20 * MS, 0) for number in range(100)]
    arrived = [Record(r.number, r.sent, r.sent + 20 * MS * (i % 2) + MS) for i, r in enumerate(sent)]
    for received, fate in ((arrived, (0, 0)), (arrived[1:], (1, 0)), ([*arrived, arrived[-1]], (0, 1))):
        found = replace(recording, streams={("voice", DOWN): Ends(sent, received), ("voice", UP): stream()})
        report = found.report("voice", DOWN, found.whole)
        assert (report.lost, report.duplicated) == fate


def test_goodput_is_a_multiple_of_another_phase(recording: Recording) -> None:
    film = {
        "film-0": Ends([], [Record(octets, 0, time * MS) for octets, time in ((1000, 10), (9000, 990), (9100, 1100))]),
        "film-1": Ends([], [Record(octets, 0, time * MS) for octets, time in ((1000, 1010), (4900, 1900))]),
    }
    found = replace(recording, downloads=film)
    assert judged(found, checks.goodput(("film",), 1.85, "no link", "both"), 0) == [(2.051, True)]
    assert judged(found, checks.goodput(("film",), 1.85, "one link", "one"), 1) == [(0.487, False)]


def test_the_whole_story_misses_octets_and_finds_repeats(recording: Recording) -> None:
    assert [(check.value, check.passed) for check in checks.whole_story(recording)] == [(0, True), (2, False)]
    short = replace(recording, downloads={**recording.downloads, "film-1": Ends([], connection(2_000_000).received)})
    assert not checks.whole_story(short)[0].passed


def test_a_report_has_everything_in_one_file(recording: Recording) -> None:
    report = Report("plain", "userspace", (Check("no link: voice <lost>", 10, "packets", 0),), None, recording)
    html = page(PLAIN, report, plots.svg(report))
    assert "http" not in re.sub(r'xmlns[:\w]*="[^"]*"', "", html)
    assert "<script" not in html and "voice &lt;lost&gt;" in html and "failed: 0 of 1 checks<" in html
    assert "WLAN cut" in html and "currentColor" in html and "cn ---- core" in html
    assert plots.png(report, "a title").startswith(b"\x89PNG")
    found = json.loads(report.as_json())
    assert found["streams"]["voice down"] == {"sent": 200, "lost": 10, "repeated": 0, "reordered": 0, "gap_ms": 110.0}
    assert found["events"] == [{"time": 1.0, "event": "WLAN cut"}]


def test_a_run_that_never_began_has_a_report_too() -> None:
    report = Report("plain", "none", (), "no root")
    assert "failed: no root" in page(PLAIN, report, plots.svg(report))
    assert plots.png(report, "a title").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (cut(WLAN), "WLAN is not emulated"),
        (restore("DSL"), "no access link is called DSL"),
        (Kill("nobody", "radvd"), "no node is called nobody"),
        (Advertise("elsewhere", "wlan", "", {}), "no node is called elsewhere"),
        (SetClock("2026-06-01T22:00:00"), "does not say what the clock says"),
    ],
)
def test_what_cannot_happen_is_refused_with_the_scenario(action: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(PLAIN, phases=(Phase("p", "", 1, does=(action,)),))  # type: ignore[arg-type]
