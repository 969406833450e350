"""One end of a lab's traffic, a process of its own inside a node: `python -m labs.traffic SPEC.json`.

It sends and receives every stream of the specification and is one end of every download, and appends what happened to
record files (`labs.flows.Record`) in the specification's directory. SIGTERM ends it: what is being sent comes to a
proper end. It also ends by itself after the seconds that the specification allows. Content that is not what was sent,
a broken connection or a refused packet make it fail with a traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import asyncio_dgram

from labs.flows import CHUNK, STAMP, Download, Flow, Record, Stream, content

FLUSH = 0.05  # seconds until a record is in its file


@dataclass(frozen=True, slots=True)
class Spec:
    """What one end does. `server` is the end that downloads come from; `seconds` bounds its life."""

    end: str
    server: bool
    local: str
    remote: str
    directory: str
    seconds: float
    flows: tuple[Flow, ...]

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Spec:
        fields = json.loads(text)
        kinds = {"udp": Stream, "tcp": Download}
        fields["flows"] = tuple(kinds[flow["protocol"]](**flow) for flow in fields["flows"])
        return cls(**fields)


def sent_file(directory: Path, flow: str, end: str) -> Path:
    return directory / f"{flow}.{end}.sent"


def received_file(directory: Path, flow: str, end: str) -> Path:
    return directory / f"{flow}.{end}.received"


def ready_file(directory: Path, end: str) -> Path:
    """Exists as soon as the end is bound and listening."""
    return directory / f"{end}.ready"


class Traffic:
    """The running end. `stopping` is set when nothing new is to be sent."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.directory = Path(spec.directory)
        self.stopping = asyncio.Event()
        self.open = contextlib.ExitStack()
        self.files: list[BinaryIO] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.call_later(self.spec.seconds, self.stopping.set)
        with self.open:
            async with self._servers(), asyncio.TaskGroup() as group:
                background = [group.create_task(self._flush())]
                for flow in self.spec.flows:
                    if isinstance(flow, Stream):
                        stream = await asyncio_dgram.bind((self.spec.local, flow.port))
                        background.append(group.create_task(self._receive(flow, stream)))
                        group.create_task(self._send(flow, stream))
                    elif not self.spec.server:
                        background.append(group.create_task(self._download(flow)))
                ready_file(self.directory, self.spec.end).touch()
                await self.stopping.wait()
                for task in background:
                    task.cancel()

    @contextlib.asynccontextmanager
    async def _servers(self) -> AsyncIterator[None]:
        """Serve the downloads; on leaving, wait for those under way to end."""
        serving: set[asyncio.Task[None]] = set()
        servers = []
        for flow in self.spec.flows:
            if isinstance(flow, Download) and self.spec.server:

                def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Download = flow) -> None:
                    serving.add(asyncio.create_task(self._serve(flow, writer)))

                servers.append(await asyncio.start_server(accept, self.spec.local, flow.port))
        yield
        for server in servers:
            server.close()
        await asyncio.gather(*serving)

    async def _send(self, flow: Stream, stream: asyncio_dgram.aio.DatagramServer) -> None:
        records = self._append(sent_file(self.directory, flow.name, self.spec.end))
        loop = asyncio.get_running_loop()
        start = loop.time()
        padding = bytes(flow.size - STAMP.size)
        number = 0
        while not self.stopping.is_set():
            now = time.monotonic_ns()
            await stream.send(STAMP.pack(number, now) + padding, (self.spec.remote, flow.port))
            records.write(Record(number, now, 0).encode())
            number += 1
            await asyncio.sleep(start + number / flow.rate - loop.time())

    async def _receive(self, flow: Stream, stream: asyncio_dgram.aio.DatagramServer) -> None:
        records = self._append(received_file(self.directory, flow.name, self.spec.end))
        while True:
            data, _ = await stream.recv()
            number, sent = STAMP.unpack_from(data)
            records.write(Record(number, sent, time.monotonic_ns()).encode())

    async def _serve(self, flow: Download, writer: asyncio.StreamWriter) -> None:
        total = 0
        while not self.stopping.is_set():
            writer.write(content(total, CHUNK))
            total += CHUNK
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        records = self._append(sent_file(self.directory, flow.name, self.spec.end))
        records.write(Record(total, 0, time.monotonic_ns()).encode())

    async def _download(self, flow: Download) -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, flow.window)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (self.spec.remote, flow.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=CHUNK)
        records = self._append(received_file(self.directory, flow.name, self.spec.end))
        total = 0
        try:
            while True:
                if await reader.readexactly(CHUNK) != content(total, CHUNK):
                    raise ValueError(f"{flow.name}: wrong content in the {CHUNK} octets from {total}")
                total += CHUNK
                records.write(Record(total, 0, time.monotonic_ns()).encode())
        except asyncio.IncompleteReadError as end:  # the sender writes whole chunks, so this is its end, or a loss
            if end.partial:
                raise ValueError(f"{flow.name}: connection ended inside a chunk, after {total} octets") from end
        finally:
            writer.close()

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            for file in self.files:
                file.flush()

    def _append(self, path: Path) -> BinaryIO:
        file = self.open.enter_context(path.open("ab"))
        self.files.append(file)
        return file


def main() -> None:
    """Run one end as the specification file, the only argument, says."""
    [path] = sys.argv[1:]
    asyncio.run(Traffic(Spec.load(Path(path).read_text())).run())


if __name__ == "__main__":
    main()
