"""The binding cache on disk: one row per mobile node, so that a restart forgets nothing that was acknowledged.

SQLite in WAL mode with synchronous=FULL: a commit reaches the disk before it is reported, so an acknowledged
registration survives a power failure too (NORMAL would lose the last ones). A sync is dear; one transaction takes
everything queued meanwhile, so a registration waits for its commit but commits do not wait for each other.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from mip6.system import log
from mip6.system.command import UnusableError

VERSION = 1  # PRAGMA user_version
RETRY = 1.0  # seconds between attempts to write while the disk refuses
BUSY_LIMIT = 2.0  # seconds to wait for another process that has the file locked
_SCHEMA = """
    CREATE TABLE node (home_address TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE unreadable (home_address, record, found TEXT);
"""
_json = json.JSONEncoder(separators=(",", ":")).encode
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PASSING = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
}

Stored = Callable[[bool], None]


class StoreError(UnusableError):
    """The file cannot be opened; the text says which and why."""


class Store:
    """The file `path`, made if it is missing. One that is damaged is moved aside to NAME.damaged-TIME and reported."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: dict[IPv6Address, str | None] = {}
        self._waiting: list[Stored] = []
        self._wanted = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._connection = self._open()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: {error}") from error

    def records(self, read: Callable[[IPv6Address, dict[str, Any]], object]) -> dict[IPv6Address, dict[str, Any]]:
        """All records. Those that are not JSON objects, or that `read` makes nothing of, are kept aside in the table
        `unreadable`, where no later registration overwrites them, and reported."""
        found: dict[IPv6Address, dict[str, Any]] = {}
        # as octets: text that is not UTF-8 passes the check of the file, and could not be read at all
        rows = self._connection.execute("SELECT CAST(home_address AS BLOB), CAST(record AS BLOB) FROM node").fetchall()
        for key, octets in rows:
            home, text = (one.decode(errors="backslashreplace") for one in (key, octets))
            try:
                record = json.loads(text)
                if not isinstance(record, dict):
                    raise ValueError(f"expected a JSON object, got {type(record).__name__}")
                read(IPv6Address(home), record)
                found[IPv6Address(home)] = record
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
                log.event("record_unreadable", "error", file=self._path, home_address=home, error=repr(error))
                with self._connection:
                    self._connection.execute("INSERT INTO unreadable VALUES (?, ?, ?)", (home, text, _timestamp()))
                    self._connection.execute("DELETE FROM node WHERE CAST(home_address AS BLOB) = ?", (key,))
        return found

    def put(self, home_address: IPv6Address, record: Mapping[str, Any] | None, stored: Stored | None = None) -> None:
        """Queue a record, None deletes it. `stored(True)` is called in the loop once it is on disk.

        `stored(False)` says that the disk refused: the record stays queued and is tried again, but nothing may be
        acknowledged. Calls come in the order of `put`.
        """
        self._pending[home_address] = None if record is None else _json(record)
        if stored is not None:
            self._waiting.append(stored)
        self._wanted.set()

    async def run(self) -> None:
        """Write what is queued, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not await self._flush():
                await asyncio.sleep(RETRY)
                self._wanted.set()

    async def close(self) -> None:
        """Write what is still queued and close the file; the task of `run` is cancelled before."""
        if self._pending:
            await self._flush()
        self._thread.shutdown()
        self._connection.close()

    async def _flush(self) -> bool:
        batch, self._pending = self._pending, {}
        waiting, self._waiting = self._waiting, []
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)
            written = True
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _PASSING:
                raise
            log.event("store_failed", "error", file=self._path, nodes=len(batch), error=str(error))
            self._pending = batch | self._pending  # what was queued meanwhile is newer
            written = False
        for stored in waiting:
            stored(written)
        return written

    def _write(self, batch: Mapping[IPv6Address, str | None]) -> None:
        """In the thread: one transaction, and nothing of it if it fails."""
        kept = [(str(home), text) for home, text in batch.items() if text is not None]
        gone = [(str(home),) for home, text in batch.items() if text is None]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO node VALUES (?, ?)", kept)
            self._connection.executemany("DELETE FROM node WHERE home_address = ?", gone)

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGE:
                raise
            aside = _move_aside(self._path)
            log.event("store_damaged", "error", file=self._path, error=str(error), kept_as=aside)
        self._path.touch(mode=0o600)
        return _connect(self._path)


def _connect(path: Path) -> sqlite3.Connection:
    """An open and checked file. DatabaseError without an error code when the check finds damage."""
    connection = sqlite3.connect(path, timeout=BUSY_LIMIT, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        problems: Iterable[tuple[str]] = connection.execute("PRAGMA quick_check(1)").fetchall()
        if (found := "; ".join(problem for (problem,) in problems)) != "ok":
            raise sqlite3.DatabaseError(found)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0 and not tables:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise StoreError(f"{path}: version {version} of the file is not {VERSION}, the one known here")
        elif not {"node", "unreadable"} <= tables:
            raise sqlite3.DatabaseError("a table is missing")
    except BaseException:
        connection.close()
        raise
    return connection


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{_timestamp()}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _timestamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
