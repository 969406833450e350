"""The store keeps what it said it kept: through kill -9, a full disk, and files that went bad."""

from __future__ import annotations

import asyncio
import io
import json
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from homeagent.store import Store, StoreError
from mip6.system import log

HOME = IPv6Address("2001:db8:100::5")
OTHER = IPv6Address("2001:db8:100::6")
RECORD: dict[str, object] = {"sequence": 1}


@pytest.fixture
def logged() -> Iterator[Callable[[], list[dict[str, object]]]]:
    """The lines of the log so far, as objects."""
    stream = io.StringIO()
    log.configure(form="json", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.configure()


async def put(store: Store, *records: tuple[IPv6Address, dict[str, object] | None]) -> list[bool]:
    """What the store said of each record, once it has spoken of all."""
    answers: list[asyncio.Future[bool]] = []
    for home, record in records:
        answers.append(asyncio.get_running_loop().create_future())
        store.put(home, record, answers[-1].set_result)
    return await asyncio.wait_for(asyncio.gather(*answers), 30)


def run(path: Path, *records: tuple[IPv6Address, dict[str, object] | None]) -> list[bool]:
    """Open, put all at once, close."""

    async def life() -> list[bool]:
        store = Store(path)
        writer = asyncio.create_task(store.run())
        try:
            return await put(store, *records)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await store.close()

    return asyncio.run(life())


def reopened(path: Path) -> dict[IPv6Address, dict[str, object]]:
    async def life() -> dict[IPv6Address, dict[str, object]]:
        store = Store(path)
        try:
            return store.records(lambda home, record: record["sequence"])
        finally:
            await store.close()

    return asyncio.run(life())


def test_records_are_there_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "homeagent.sqlite"
    assert run(path, (HOME, {"sequence": 1}), (OTHER, {"sequence": 2}), (HOME, {"sequence": 3})) == [True] * 3
    assert reopened(path) == {HOME: {"sequence": 3}, OTHER: {"sequence": 2}}
    assert run(path, (OTHER, None)) == [True]
    assert reopened(path) == {HOME: {"sequence": 3}}
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_queued_together_is_one_transaction(tmp_path: Path) -> None:
    """A thousand registrations that arrive during one commit need one more, not a thousand."""
    path = tmp_path / "homeagent.sqlite"
    commits: list[int] = []

    class Counted(Store):
        def _write(self, batch: object) -> None:
            super()._write(batch)  # type: ignore[arg-type]
            commits.append(len(batch))  # type: ignore[arg-type]

    async def life() -> None:
        store = Counted(path)
        writer = asyncio.create_task(store.run())
        await put(store, (HOME, {"sequence": 0}))
        homes = [IPv6Address(int(HOME) + number) for number in range(1000)]
        assert all(await put(store, *((home, RECORD) for home in homes)))
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await store.close()

    asyncio.run(life())
    assert commits == [1, 1000]
    assert len(reopened(path)) == 1000


VICTIM = """
import asyncio, sys
from ipaddress import IPv6Address
from pathlib import Path
from homeagent.store import Store

async def life():
    store = Store(Path(sys.argv[1]))
    writer = asyncio.create_task(store.run())
    first = int(IPv6Address("2001:db8:100::"))
    told, room = 0, asyncio.Event()

    def stored(written, sequence):
        nonlocal told
        told += 1
        room.set()
        print(sequence, flush=True)

    for sequence in range(1000000):
        while sequence - told > 2000:  # however slow the disk is, what is told keeps up with what is put
            room.clear()
            await room.wait()
        home = IPv6Address(first + sequence % 100)
        store.put(home, {"sequence": sequence}, lambda written, s=sequence: stored(written, s))
        if sequence % 10 == 9:
            await asyncio.sleep(0)

asyncio.run(life())
"""


@pytest.mark.parametrize("acknowledged", [1, 200, 3000])
def test_a_killed_daemon_has_everything_it_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "homeagent.sqlite"
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(path)], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    with victim.stdout as output:
        told = [int(output.readline()) for _ in range(acknowledged)]
        victim.send_signal(signal.SIGKILL)
        told += [int(line) for line in output if line.endswith("\n")]
    assert victim.wait(10) == -signal.SIGKILL
    latest = {IPv6Address(int(IPv6Address("2001:db8:100::")) + number % 100): number for number in told}
    found = reopened(path)
    for home, sequence in latest.items():
        kept = found[home]["sequence"]
        assert isinstance(kept, int) and kept >= sequence
    assert not list(tmp_path.glob("*.damaged-*"))


@contextmanager
def files_end_at(octets: int) -> Iterator[None]:
    """No file of this process can grow beyond this size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_acknowledges_nothing_and_is_tried_again(
    tmp_path: Path, logged: Callable[[], list[dict[str, object]]]
) -> None:
    path = tmp_path / "homeagent.sqlite"
    assert run(path, (HOME, {"sequence": 1})) == [True]

    async def life() -> None:
        store = Store(path)
        writer = asyncio.create_task(store.run())
        with files_end_at(4096):
            assert await put(store, (HOME, {"sequence": 2, "filler": "x" * 20000})) == [False]
            assert not writer.done(), "the daemon goes on"
        assert await put(store, (OTHER, {"sequence": 1})) == [True]
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await store.close()

    asyncio.run(life())
    failures = [line for line in logged() if line["event"] == "store_failed"]
    assert failures and failures[0]["level"] == "error" and failures[0]["file"] == str(path)
    found = reopened(path)
    assert found[OTHER] == {"sequence": 1}
    assert found[HOME]["sequence"] == 2, "what was refused is written once there is room"


@pytest.mark.parametrize("damage", ["garbage", "middle"])
def test_a_damaged_file_is_moved_aside_whole(
    tmp_path: Path, logged: Callable[[], list[dict[str, object]]], damage: str
) -> None:
    path = tmp_path / "homeagent.sqlite"
    homes = [IPv6Address(int(HOME) + number) for number in range(500)]
    run(path, *((home, {"sequence": 1, "filler": "x" * 100}) for home in homes))
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        content[:100] = b"?" * 100
    else:
        content[4096:40960] = b"?" * 36864
    path.write_bytes(content)
    assert reopened(path) == {}
    (aside,) = tmp_path.glob("homeagent.sqlite.damaged-*Z")
    assert aside.read_bytes() == content
    (line,) = logged()
    assert (line["event"], line["level"], line["kept_as"]) == ("store_damaged", "error", str(aside))
    assert run(path, (HOME, {"sequence": 2})) == [True], "the new file works"


def test_a_single_bad_record_is_kept_aside_and_the_rest_is_read(
    tmp_path: Path, logged: Callable[[], list[dict[str, object]]]
) -> None:
    path = tmp_path / "homeagent.sqlite"
    run(path, (HOME, {"sequence": 1}), (OTHER, {"sequence": 2}))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE node SET record = '{\"sequence' WHERE home_address = ?", (str(OTHER),))
    connection.close()
    assert reopened(path) == {HOME: {"sequence": 1}}
    assert [(line["event"], line["home_address"]) for line in logged()] == [("record_unreadable", str(OTHER))]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT home_address, record FROM unreadable").fetchall() == [(str(OTHER), '{"sequence')]
    connection.close()


def test_a_record_that_the_home_agent_cannot_read_is_kept_aside(
    tmp_path: Path, logged: Callable[[], list[dict[str, object]]]
) -> None:
    """Its node registers anew, which writes the row."""
    path = tmp_path / "homeagent.sqlite"
    run(path, (HOME, RECORD), (OTHER, {"timestamp": 9}))
    assert reopened(path) == {HOME: RECORD}
    assert [(line["event"], line["home_address"]) for line in logged()] == [("record_unreadable", str(OTHER))]
    run(path, (OTHER, RECORD))
    with sqlite3.connect(path) as file:
        kept = file.execute("SELECT home_address, record FROM unreadable").fetchall()
    file.close()
    assert kept == [(str(OTHER), '{"timestamp":9}')]


def test_a_file_of_another_version_is_refused_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "homeagent.sqlite"
    run(path, (HOME, {"sequence": 1}))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="version 99 of the file is not 1"):
        reopened(path)
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_record_that_is_no_text_is_kept_aside(tmp_path: Path, logged: Callable[[], list[dict[str, object]]]) -> None:
    """One octet that went bad within a text passes SQLite's own check of the file."""
    path = tmp_path / "homeagent.sqlite"
    run(path, (HOME, RECORD), (OTHER, RECORD))
    with sqlite3.connect(path) as file:
        file.execute("UPDATE node SET record = CAST(x'7bff7d' AS TEXT) WHERE home_address = ?", (str(HOME),))
    file.close()
    assert reopened(path) == {OTHER: RECORD}
    assert [line["event"] for line in logged()] == ["record_unreadable"]
    assert reopened(path) == {OTHER: RECORD} and len(logged()) == 1  # it is out of the way
