"""The log: one line per event, fields that cannot be mistaken for others, and never a key."""

from __future__ import annotations

import io
import json
from ipaddress import IPv6Address, IPv6Network

import pytest

from mip6.actions import Report
from mip6.system.log import Log


def lines(form: str, level: str, *reports: Report) -> list[str]:
    stream = io.StringIO()
    log = Log(level, form, stream)
    for report in reports:
        log.write(report.event, report.level, report.fields)
    return stream.getvalue().splitlines()


ACCEPTED = Report(
    "binding_accepted",
    fields={"home_address": IPv6Address("2001:db8::5"), "prefixes": (IPv6Network("2001:db8:f::/48"),), "lifetime": 600},
)


def test_text_line_names_time_level_event_and_fields() -> None:
    (line,) = lines("text", "info", ACCEPTED)
    when, rest = line.split(" ", 1)
    assert when.endswith("Z") and len(when) == len("2026-01-01T12:00:00.123Z")
    assert rest == 'info binding_accepted home_address=2001:db8::5 prefixes=["2001:db8:f::/48"] lifetime=600'


def test_json_line_is_one_object() -> None:
    (line,) = lines("json", "info", ACCEPTED)
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "info",
        "event": "binding_accepted",
        "home_address": "2001:db8::5",
        "prefixes": ["2001:db8:f::/48"],
        "lifetime": 600,
    }


def test_a_value_cannot_forge_another_line_or_field() -> None:
    (line,) = lines("text", "info", Report("refused", fields={"identifier": "a b=c\nd"}))
    assert line.endswith('identifier="a b=c\\nd"')


def test_only_levels_from_the_threshold_on_are_written() -> None:
    found = lines("text", "warning", Report("quiet"), Report("loud", "warning"), Report("louder", "error"))
    assert [line.split()[2] for line in found] == ["loud", "louder"]


def test_key_material_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="field key must not be logged"):
        lines("text", "error", Report("node", fields={"key": b"\x01"}))


@pytest.mark.parametrize(("level", "form"), [("chatty", "text"), ("info", "xml")])
def test_unknown_level_or_form_names_the_choices(level: str, form: str) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        Log(level, form)


def test_a_flood_of_warnings_is_cut_and_says_how_much_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = Log("info", "text", stream)
    for _ in range(250):
        log.write("discarded", "warning", {})
        log.write("told", "info", {})
    log.write("another", "warning", {})
    now += 1.0
    log.write("discarded", "warning", {"why": "spi"})
    found = stream.getvalue().splitlines()
    assert [sum(f" {event}" in line for line in found) for event in ("discarded", "told", "another")] == [101, 250, 1]
    assert found[-1].endswith("warning discarded why=spi left_out=150")


def test_a_log_that_cannot_be_written_ends_nobody() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    Log("info", "text", Full()).write("started", "info", {})
