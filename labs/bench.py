"""`make bench`: every benchmark in one run, as a table and in build/bench.json.

A run goes part by part. What has been measured is written after each, so that a part that fails costs its own rows
only: it is named, the others go on, and the exit status is 1. `--only PART` measures that part anew and leaves the
other rows of build/bench.json as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from labs import bench_agent, bench_dataplane, bench_fastpath, bench_keepalives, bench_probes, bench_userspace

OUTPUT = Path("build/bench.json")
Row = dict[str, Any]

ANYWHERE: Mapping[str, Callable[[], list[Row]]] = {
    "codecs": bench_agent.codecs,
    "registrations": bench_agent.registrations,
}
AS_ROOT: Mapping[str, Callable[[], list[Row]]] = {
    "tcp": bench_dataplane.tcp,
    "udp": bench_dataplane.udp,
    "pps-64": partial(bench_dataplane.packets, 64),
    "pps-1200": partial(bench_dataplane.packets, 1200),
    "packet-time": bench_dataplane.packet_time,
    "delay": bench_dataplane.delay,
    "many-nodes": bench_dataplane.many_nodes,
    "both-paths": bench_dataplane.both_paths,
    "fastpath": bench_fastpath.measure,
    "userspace": bench_userspace.measure,
    "probes": bench_probes.measure,
    "keepalives": bench_keepalives.measure,
}
PARTS = {**ANYWHERE, **AS_ROOT}


def main() -> int:
    """Measure, print, write; what needs root only as root, which is said where it is left out."""
    parser = argparse.ArgumentParser(prog="labs.bench", description="Run the benchmarks.")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    chosen: list[str] = parser.parse_args().only or list(PARTS)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # in order: namespaces are removed
    rows = _written() if set(chosen) != set(PARTS) else {}
    refused = [part for part in chosen if part in AS_ROOT and not _root()]
    if refused:
        print(f"bench: needs root and /dev/net/tun, not measured: {', '.join(refused)}", file=sys.stderr)
    failed = []
    for part in chosen:
        if part in refused:
            continue
        print(f"{part}:", flush=True)
        start = time.monotonic()
        try:
            found = PARTS[part]()
        except (OSError, subprocess.SubprocessError, RuntimeError, ValueError) as error:
            print(f"bench: {part} failed, nothing of it is written: {error}", file=sys.stderr)
            failed.append(part)
            continue
        for row in found:
            print(f"  {_line(row)}", flush=True)
        rows |= {row["name"]: row for row in found}
        _write(rows)
        print(f"  ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"written to {OUTPUT}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _root() -> bool:
    return os.geteuid() == 0 and Path("/dev/net/tun").exists()


def _line(row: Row) -> str:
    """A row of the table: name, value, unit, and its ratios."""
    ratios = {key.removeprefix("ratio_to_").replace("_", " "): row[key] for key in row if key.startswith("ratio_to_")}
    shown = ", ".join(f"{value:.3f} of {what}" for what, value in ratios.items() if value is not None)
    return f"{row['name']:28} {row['value']:14,.2f} {row['unit']:14} {shown}".rstrip()


def _written() -> dict[str, Row]:
    """The rows of former runs by name, in their order."""
    if not OUTPUT.exists():
        return {}
    return {row["name"]: row for row in json.loads(OUTPUT.read_text())}


def _write(rows: Mapping[str, Row]) -> None:
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
