"""The log: one line per event, with the RFCs' words for what happened and the fields that belong to it.

    2026-01-01T12:00:00.123Z info binding_accepted home_address=2001:db8:100::5 bid=1 lifetime=600

or the same as one JSON object. Field names that would carry key material are refused, so that no line ever has one.
Warnings are what strangers can cause, so each has its rate; the next line that is written says how many were not.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from mip6.actions import Report
from mip6.ratelimit import RateLimit

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
WARNINGS_PER_SECOND, WARNINGS_AT_ONCE = 10, 100  # of one event
SECRET_NAMES = frozenset({"key", "keys", "secret", "password", "key_file", "authenticator"})


class Log:
    """Writes events of `level` and above to `stream` (default: standard error), as `text` or `json`."""

    def __init__(self, level: str = "info", form: str = "text", stream: TextIO | None = None) -> None:
        if level not in LEVELS:
            raise ValueError(f"log level {level!r}: expected one of {', '.join(LEVELS)}")
        if form not in FORMATS:
            raise ValueError(f"log format {form!r}: expected one of {', '.join(FORMATS)}")
        self._threshold = LEVELS.index(level)
        self._write_line = _json_line if form == "json" else _text_line
        self._stream = stream
        self._limits: dict[str, RateLimit] = {}  # of warnings; the names are those of the code
        self._left_out: dict[str, int] = {}

    def write(self, event: str, level: str, fields: Mapping[str, object]) -> None:
        """One line, if `level` is high enough. ValueError for a field whose name says that it is a key.

        What cannot be written (a full disk, a reader that is gone) is lost: no agent ends for the sake of its log.
        """
        if secret := SECRET_NAMES.intersection(fields):
            raise ValueError(f"log event {event}: field {', '.join(sorted(secret))} must not be logged")
        if LEVELS.index(level) < self._threshold:
            return
        if level == "warning":
            limit = self._limits.setdefault(event, RateLimit(WARNINGS_PER_SECOND, WARNINGS_AT_ONCE))
            if not limit.allow(time.monotonic()):
                self._left_out[event] = self._left_out.get(event, 0) + 1
                return
            if left_out := self._left_out.pop(event, 0):
                fields = {**fields, "left_out": left_out}
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError):
            stream.write(self._write_line(_now(), event, level, fields) + "\n")
            stream.flush()


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


def _plain(value: object) -> object:
    """What JSON knows, as it is; addresses and the like as they print themselves."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)


def _json_line(when: str, event: str, level: str, fields: Mapping[str, object]) -> str:
    return json.dumps({"time": when, "level": level, "event": event} | {name: _plain(fields[name]) for name in fields})


def _text_line(when: str, event: str, level: str, fields: Mapping[str, object]) -> str:
    return " ".join([when, level, event, *(f"{name}={_text(_plain(value))}" for name, value in fields.items())])


def _text(value: object) -> str:
    """A value without blanks as it is; anything that could be mistaken for a second field or line as JSON."""
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value)


_log = Log()


def configure(level: str = "info", form: str = "text", stream: TextIO | None = None) -> None:
    """Set the level (`debug` ... `error`) and form (`text` or `json`) of every line that follows."""
    global _log
    _log = Log(level, form, stream)


def event(name: str, level: str = "info", **fields: object) -> None:
    """Log what the system layer or a daemon saw."""
    _log.write(name, level, fields)


def report(action: Report) -> None:
    """Log what an engine reports."""
    _log.write(action.event, action.level, action.fields)
