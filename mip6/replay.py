"""`mip6 replay`: give a recorded run to a fresh engine and say where it does otherwise.

The configuration file is needed besides: it has the keys, which no journal holds. With another file, or another version
of the software, the first event whose actions differ is shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from ipaddress import IPv6Address
from pathlib import Path
from random import Random
from typing import Any

from mip6.configfile import ConfigurationError
from mip6.journal import VERSION, JournalError, plain_actions, read_event

ENGINES = {"homeagent": "HomeAgent", "mobilenode": "MobileNode"}  # of the package `role`


@dataclass(frozen=True)
class Difference:
    """What a recorded engine did in one line of its journal, and what the fresh one does."""

    line: int
    now: float
    what: str
    recorded: Any
    replayed: Any


def add_parser(commands: Any) -> None:
    """The arguments of the command."""
    parser = commands.add_parser("replay", help="give a recorded run to a fresh engine and compare")
    parser.add_argument("journal", type=Path, metavar="FILE", help="what `record` wrote")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="the configuration of that run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when every action is the same, 1 when one differs, 2 when the files cannot be read."""
    try:
        lines = arguments.journal.read_text(encoding="utf-8").splitlines()
        count, difference = replay(lines, arguments.config)
    except (JournalError, ConfigurationError, OSError, UnicodeDecodeError) as error:
        print(f"mip6 replay: {arguments.journal}: {error}", file=sys.stderr)
        return 2
    if difference is None:
        print(f"{count} events, all actions the same")
        return 0
    print(f"line {difference.line}, at {difference.now:.6f} s: {difference.what}")
    print(f"  recorded: {json.dumps(difference.recorded)}")
    print(f"  replayed: {json.dumps(difference.replayed)}")
    return 1


def replay(lines: list[str], config: Path) -> tuple[int, Difference | None]:
    """How many events were played, and the first difference. JournalError, ConfigurationError: a file is not right."""
    role, seed = _head(lines)
    settings = import_module(f"{role}.config").load(config)
    engine = getattr(import_module(f"{role}.engine"), ENGINES[role])(settings, Random(seed))
    declared = vars(import_module(f"{role}.settings"))
    values = {name: one for name, one in declared.items() if isinstance(one, type) and is_dataclass(one)}
    count = 0
    for number, line in _objects(lines):
        now = line.get("now")
        if not isinstance(now, int | float):
            raise JournalError(f"line {number}: expected a time, got {now!r}")
        recorded: Any = {"raises": line["raises"]} if "raises" in line else line.get("actions")
        try:
            if "restore" in line:
                what, found = "restore", engine.restore(_records(line["restore"]), now)
            else:
                event = read_event(line.get("event") or {}, values)
                what, found = type(event).__name__, engine.handle(event, now)
            replayed: Any = plain_actions(found)
        except JournalError as error:
            raise JournalError(f"line {number}: {error}") from error
        except ValueError as error:  # a request that the engine refuses; anything else is a bug, with its traceback
            replayed = {"raises": repr(error)}
        count += 1
        if replayed != recorded:
            return count, Difference(number, now, what, *_first_difference(recorded, replayed))
    return count, None


def _head(lines: list[str]) -> tuple[str, int]:
    try:
        head = json.loads(lines[0]) if lines else None
    except ValueError:
        head = None
    if not isinstance(head, dict) or head.get("journal") != VERSION:
        raise JournalError(f"not a journal of version {VERSION}")
    if head.get("role") not in ENGINES or not isinstance(head.get("seed"), int):
        raise JournalError("line 1: role or seed is missing")
    return head["role"], head["seed"]


def _objects(lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines behind the head; the last may be cut off, as after a power failure."""
    for number, line in enumerate(lines[1:], start=2):
        try:
            found = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise JournalError(f"line {number}: {error}") from error
        if not isinstance(found, dict):
            raise JournalError(f"line {number}: expected an object")
        yield number, found


def _records(found: Any) -> dict[IPv6Address, Any]:
    try:
        return {IPv6Address(home): record for home, record in found.items()}
    except (AttributeError, ValueError) as error:
        raise JournalError(f"restore: {error}") from error


def _first_difference(recorded: Any, replayed: Any) -> tuple[Any, Any]:
    """Of two lists of actions the first pair that differs, else both as they are."""
    if isinstance(recorded, list) and isinstance(replayed, list):
        for one, other in zip(recorded, replayed, strict=False):
            if one != other:
                return one, other
        shorter = min(len(recorded), len(replayed))
        return recorded[shorter:] or None, replayed[shorter:] or None
    return recorded, replayed
