"""What came of a run: its checks and their verdict, and the recording that they were judged by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from labs.checks import Check
from labs.flows import Stream
from labs.recording import Recording


@dataclass(frozen=True)
class Report:
    """`error` is why it could not be played to its end; there may be no recording then."""

    scenario: str
    dataplane: str
    checks: tuple[Check, ...]
    error: str | None = None
    recording: Recording | None = None

    @property
    def passed(self) -> bool:
        return self.error is None and bool(self.checks) and all(check.passed for check in self.checks)

    def as_json(self) -> str:
        checks = [
            {"name": c.name, "value": c.value, "unit": c.unit, "limit": c.limit, "passed": c.passed}
            for c in self.checks
        ]
        if self.error is not None:
            checks.append({"name": "played to its end", "value": 0, "unit": "", "limit": 1, "passed": False})
        whole: dict[str, Any] = {"scenario": self.scenario, "dataplane": self.dataplane, "passed": self.passed}
        whole["checks"] = checks
        if self.error is not None:
            whole["error"] = self.error
        if self.recording is not None and self.recording.phases:
            whole |= _measured(self.recording)
        return json.dumps(whole, indent=2) + "\n"


def _measured(recording: Recording) -> dict[str, Any]:
    """The story in numbers: times in seconds from its start."""
    start = recording.whole.start

    def seconds(moment: int) -> float:
        return round((moment - start) / 1e9, 4)

    streams = {}
    for flow in recording.flows:
        if isinstance(flow, Stream):
            for direction in flow.directions:
                report = recording.report(flow.name, direction, recording.whole)
                streams[f"{flow.name} {direction}"] = {
                    "sent": report.sent,
                    "lost": report.lost,
                    "repeated": report.duplicated,
                    "reordered": report.reordered,
                    "gap_ms": round(report.gap, 2),
                }
    return {
        "phases": [
            {"name": played.name, "start": seconds(played.window.start), "end": seconds(played.window.end)}
            for played in recording.phases
        ],
        "events": [{"time": seconds(mark.time), "event": mark.says} for mark in recording.marks],
        "streams": streams,
        "octets": {flow.name: recording.octets(flow.name, recording.whole) for flow in recording.flows},
    }
