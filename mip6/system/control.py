"""The control socket: a unix stream socket, one JSON object per line in, one out.

The server is the daemon's, the client function the command line's. Only the owner of the socket may connect (mode
0600). A socket file that a dead process left is replaced; one that a live process answers on is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

MAXIMUM_LINE = 64 * 1024  # octets of a request
MAXIMUM_ANSWER = 256 * 1024 * 1024  # octets of an answer: the status of a very large home agent
IDLE_LIMIT = 60.0  # seconds until a silent client is hung up on

Answer = Mapping[str, Any] | Awaitable[Mapping[str, Any]]
Handler = Callable[[Mapping[str, Any]], Answer]


class ControlError(Exception):
    """The control socket could not be opened or asked; the text says which and why."""


class ControlServer:
    """Answers each request with what `handle` returns. `handle` runs in the loop, so what takes time it returns as an
    awaitable.

    A request that is not a JSON object is answered `{"ok": false, "error": ...}` here, as is a ValueError of `handle`.
    """

    def __init__(self, path: str | Path, handle: Handler) -> None:
        self._path = Path(path)
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Open the socket; ControlError when another process answers on it or the place is taken by a file."""
        self._clear_the_place()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old_mask = os.umask(0o177)  # the socket file must never exist with a wider mode, however briefly
        try:
            listener.bind(str(self._path))
        except OSError as error:
            listener.close()
            raise ControlError(f"control socket {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(old_mask)
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAXIMUM_LINE)

    async def close(self) -> None:
        """Hang up on everybody and remove the socket file, unless somebody else has put theirs in its place."""
        if self._server is None:
            return
        self._server.close()
        for client in list(self._clients):
            client.close()
        await self._server.wait_closed()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _clear_the_place(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            return
        if not self._path.is_socket():
            raise ControlError(f"control socket {self._path}: there is a file of that name that is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:  # its process is dead
                self._path.unlink()
                return
            except OSError as error:
                raise ControlError(f"control socket {self._path}: {error.strerror or error}") from error
        raise ControlError(
            f"control socket {self._path}: another process answers on it; is the daemon running already?"
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while True:
                try:
                    line = await asyncio.wait_for(reader.readline(), IDLE_LIMIT)
                except ValueError:  # no end of line within the limit of the reader
                    await _write(writer, _failure(f"request longer than {MAXIMUM_LINE} octets"))
                    return
                if not line.endswith(b"\n"):
                    return
                await asyncio.wait_for(_write(writer, await self._answer(line)), IDLE_LIMIT)
        except (TimeoutError, ConnectionError):
            return
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            return _failure(f"request is not JSON: {error}")
        if not isinstance(request, dict):
            return _failure(f"request is a JSON {type(request).__name__}, expected an object")
        try:
            answer = self._handle(request)
            return await answer if isinstance(answer, Awaitable) else answer
        except ValueError as error:
            return _failure(str(error))


def _failure(text: str) -> dict[str, Any]:
    return {"ok": False, "error": text}


async def _write(writer: asyncio.StreamWriter, answer: Mapping[str, Any]) -> None:
    writer.write(json.dumps(answer, separators=(",", ":"), default=str).encode() + b"\n")
    await writer.drain()


def request(path: str | Path, message: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
    """Ask the daemon behind the socket `path`; `timeout` in seconds, for each step. ControlError says why not."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(json.dumps(message).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(MAXIMUM_ANSWER)
    except TimeoutError as error:
        raise ControlError(f"control socket {path}: no answer within {timeout:g} s") from error
    except OSError as error:
        hint = "; is the daemon running?" if isinstance(error, FileNotFoundError | ConnectionRefusedError) else ""
        raise ControlError(f"control socket {path}: {error.strerror or error}{hint}") from error
    if not line.endswith(b"\n"):
        raise ControlError(f"control socket {path}: the connection ended before the answer did")
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ControlError(f"control socket {path}: the answer is not a JSON object")
    return answer
