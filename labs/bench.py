"""`make bench`: every benchmark in one run, as a table and in build/bench.json."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from labs import bench_agent, bench_dataplane, bench_fastpath, bench_probes, bench_userspace

OUTPUT = Path("build/bench.json")


def main() -> int:
    """Measure, print, write; the data plane only as root, which is said where it is left out."""
    rows = bench_agent.measure()
    if os.geteuid() == 0 and Path("/dev/net/tun").exists():
        rows += bench_dataplane.measure()
        rows += bench_fastpath.measure()
        rows += bench_userspace.measure()
        rows += bench_probes.measure()
    else:
        print("bench: the data plane needs root and /dev/net/tun: not measured", file=sys.stderr)
    for row in rows:
        ratio = "" if row["ratio_to_plain"] is None else f"{row['ratio_to_plain']:8.3f} of plain"
        print(f"{row['name']:28} {row['value']:14,.2f} {row['unit']:10}{ratio}")
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"written to {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
