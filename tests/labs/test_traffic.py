"""The traffic programs with each other, over the loopback device."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from labs.flows import CHUNK, Download, decode_records
from labs.traffic import Spec, ready_file, received_file, sent_file

PAGES = Download("pages", 50080, connections=2, page=4 * CHUNK)
PATIENCE = 20.0


def end(directory: Path, name: str, *, server: bool) -> subprocess.Popen[bytes]:
    spec = Spec(name, server, {6: "::1"}, {6: "::1"}, str(directory), PATIENCE, (PAGES,))
    file = directory / f"{name}.json"
    file.write_text(spec.dump())
    process = subprocess.Popen([sys.executable, "-m", "labs.traffic", str(file)])
    until(ready_file(directory, name).exists)
    return process


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_page_after_page_each_by_a_new_connection(tmp_path: Path) -> None:
    """What was sent has arrived, whole and in order, also where the end came inside a page."""
    server = end(tmp_path, "cn", server=True)
    client = end(tmp_path, "lfn", server=False)
    sent = [sent_file(tmp_path, part, "cn") for part in PAGES.parts]
    received = [received_file(tmp_path, part, "lfn") for part in PAGES.parts]
    until(lambda: all(one.exists() and len(decode_records(one.read_bytes())) > 3 for one in sent))
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == 0
    client.send_signal(signal.SIGTERM)
    assert client.wait(PATIENCE) == 0
    for there, here in zip(sent, received, strict=True):
        pages = [record.number for record in decode_records(there.read_bytes())]
        chunks = [record.number for record in decode_records(here.read_bytes())]
        assert chunks == [CHUNK * (number + 1) for number in range(len(chunks))]
        assert pages[-1] == chunks[-1] and all(page % PAGES.page == 0 for page in pages[:-1])
