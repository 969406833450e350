"""What agents reported when: their logs (`log_format = "json"`) as marks on the clock that everything else goes by."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime

from labs.node import LabNode
from labs.recording import Mark


def agents_reports(node: LabNode) -> Iterator[Mark]:
    """Every event in the logs of a node's daemons, to the millisecond; lines that are no events are left out.

    Right only for daemons without a clock of their own.
    """
    behind = time.time() - time.monotonic()
    for program in node.daemons:
        for line in (node.directory / f"{program}.log").read_text(errors="replace").splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                when = datetime.fromisoformat(event.pop("time")).timestamp()
                yield Mark(round((when - behind) * 1e9), event.pop("event"), node.name, event)
