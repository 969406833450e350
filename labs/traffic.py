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
import selectors
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from labs.flows import CHUNK, DOWN, RECORD, STAMP, UP, Download, Flow, Record, Stream, content

FLUSH = 0.05  # seconds until a record is in its file
_RECEIVE_BUFFER = 4 * 1024 * 1024  # octets
_FAMILIES = {6: socket.AF_INET6, 4: socket.AF_INET}
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_TIMESPEC = struct.Struct("qq")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size)


@dataclass(frozen=True, slots=True)
class Spec:
    """What one end does: its own and the far end's address by version of IP, and the flows between them.

    `server` is the correspondent: what it sends goes down, and downloads come from it. `seconds` bounds its life.
    """

    end: str
    server: bool
    local: Mapping[int, str]
    remote: Mapping[int, str]
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
        for end in ("local", "remote"):  # JSON has no numbers for keys
            fields[end] = {int(family): address for family, address in fields[end].items()}
        return cls(**fields)


def sent_file(directory: Path, flow: str, end: str) -> Path:
    return directory / f"{flow}.{end}.sent"


def received_file(directory: Path, flow: str, end: str) -> Path:
    return directory / f"{flow}.{end}.received"


def last_record(path: Path) -> Record | None:
    """The last whole record of a file, None while there is none."""
    with path.open("rb") as file:
        whole = file.seek(0, 2) // RECORD.size
        if not whole:
            return None
        file.seek((whole - 1) * RECORD.size)
        return Record(*RECORD.unpack(file.read(RECORD.size)))


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
        self.served: Counter[str] = Counter()  # octets of the parts of downloads that have pages
        self.failure: BaseException | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._fail)
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.call_later(self.spec.seconds, self.stopping.set)
        sends, receives = (DOWN, UP) if self.spec.server else (UP, DOWN)
        with self.open:
            async with self._servers(), asyncio.TaskGroup() as group:
                background = [group.create_task(self._flush())]
                for flow in self.spec.flows:
                    if isinstance(flow, Stream):
                        sock = self._bind(flow)
                        if receives in flow.directions:
                            self._receive(flow, sock)
                        if sends in flow.directions:
                            group.create_task(self._send(flow, sock))
                    elif not self.spec.server:
                        background += [
                            group.create_task((self._pages if flow.page else self._download)(flow, number))
                            for number in range(flow.connections)
                        ]
                ready_file(self.directory, self.spec.end).touch()
                await self.stopping.wait()
                for task in background:
                    task.cancel()
        if self.failure is not None:
            raise self.failure

    def _fail(self, _: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self.failure = context.get("exception") or RuntimeError(context["message"])
        self.stopping.set()

    def _bind(self, flow: Stream) -> socket.socket:
        sock = socket.socket(_FAMILIES[flow.family], socket.SOCK_DGRAM)
        self.open.callback(sock.close)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        sock.bind((self.spec.local[flow.family], flow.port))
        return sock

    @contextlib.asynccontextmanager
    async def _servers(self) -> AsyncIterator[None]:
        """Serve the downloads; on leaving, wait for those under way to end."""
        serving: set[asyncio.Task[None]] = set()
        servers = []
        for flow in self.spec.flows:
            if isinstance(flow, Download) and self.spec.server:

                def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Download = flow) -> None:
                    served = self._serve_page(flow, reader, writer) if flow.page else self._serve(flow, writer)
                    serving.add(asyncio.create_task(served))

                servers.append(await asyncio.start_server(accept, self.spec.local[flow.family], flow.port))
        yield
        for server in servers:
            server.close()
        await asyncio.gather(*serving)

    async def _send(self, flow: Stream, sock: socket.socket) -> None:
        records = self._append(sent_file(self.directory, flow.name, self.spec.end))
        loop = asyncio.get_running_loop()
        remote = (self.spec.remote[flow.family], flow.port)
        padding = bytes(flow.size - STAMP.size)
        start, count, packet, record = loop.time(), 0, b"", b""
        while not self.stopping.is_set():
            if count % flow.repeats == 0:
                number, now = count // flow.repeats, time.monotonic_ns()
                packet, record = STAMP.pack(number, now) + padding, Record(number, now, 0).encode()
            with contextlib.suppress(BlockingIOError):  # nothing takes it: it is lost
                sock.sendto(packet, remote)
            records.write(record)
            count += 1
            await asyncio.sleep(start + count / flow.rate - loop.time())

    def _receive(self, flow: Stream, sock: socket.socket) -> None:
        """Arrivals are recorded with the kernel's time of each, however late we come to look."""
        records = self._append(received_file(self.directory, flow.name, self.spec.end))

        def read() -> None:
            behind = time.time_ns() - time.monotonic_ns()
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, ancillary, _, _ = sock.recvmsg(flow.size, _ANCILLARY)
                    number, sent = STAMP.unpack_from(data)
                    [(_, _, stamp)] = ancillary
                    seconds, nanoseconds = _TIMESPEC.unpack(stamp)
                    records.write(Record(number, sent, seconds * 10**9 + nanoseconds - behind).encode())

        loop = asyncio.get_running_loop()
        loop.add_reader(sock.fileno(), read)
        self.open.callback(loop.remove_reader, sock.fileno())

    async def _serve(self, flow: Download, writer: asyncio.StreamWriter) -> None:
        total, (_, port, *_) = 0, writer.get_extra_info("peername")
        while not self.stopping.is_set():
            writer.write(content(total, CHUNK))
            total += CHUNK
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        part = flow.parts[port - flow.port]
        records = self._append(sent_file(self.directory, part, self.spec.end))
        records.write(Record(total, 0, time.monotonic_ns()).encode())

    async def _download(self, flow: Download, number: int) -> None:
        sock = socket.socket(_FAMILIES[flow.family], socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, flow.window)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # flows may have ports next to each other
        sock.bind((self.spec.local[flow.family], flow.port + number))  # it tells the connections apart
        await asyncio.get_running_loop().sock_connect(sock, (self.spec.remote[flow.family], flow.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=CHUNK)
        records = self._append(received_file(self.directory, flow.parts[number], self.spec.end))
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

    async def _serve_page(self, flow: Download, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One page of the part whose number the far end says, or what there is time for."""
        part = flow.parts[int.from_bytes(await reader.readexactly(4), "big")]
        for _ in range(flow.page // CHUNK):
            if self.stopping.is_set():
                break
            writer.write(content(self.served[part], CHUNK))
            self.served[part] += CHUNK
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        with sent_file(self.directory, part, self.spec.end).open("ab") as records:
            records.write(Record(self.served[part], 0, time.monotonic_ns()).encode())

    async def _pages(self, flow: Download, number: int) -> None:
        """Page after page, until one is not whole or the server has gone."""
        records = self._append(received_file(self.directory, flow.parts[number], self.spec.end))
        total, whole = 0, True
        while whole:
            sock = socket.socket(_FAMILIES[flow.family], socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, flow.window)
            sock.setblocking(False)
            sock.bind((self.spec.local[flow.family], 0))
            try:
                await asyncio.get_running_loop().sock_connect(sock, (self.spec.remote[flow.family], flow.port))
            except ConnectionRefusedError:  # the server went between two pages
                sock.close()
                return
            reader, writer = await asyncio.open_connection(sock=sock, limit=CHUNK)
            writer.write(number.to_bytes(4, "big"))
            start = total
            try:
                while total < start + flow.page:
                    if await reader.readexactly(CHUNK) != content(total, CHUNK):
                        raise ValueError(f"{flow.name}: wrong content in the {CHUNK} octets from {total}")
                    total += CHUNK
                    records.write(Record(total, 0, time.monotonic_ns()).encode())
            except asyncio.IncompleteReadError as over:
                if over.partial:
                    raise ValueError(f"{flow.name}: page ended inside a chunk, after {total} octets") from over
                whole = False
            except ConnectionResetError:  # it went before it had taken the connection
                if total != start:
                    raise
                whole = False
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
    # select(2) waits to the microsecond; asyncio's usual epoll_wait(2) only to the millisecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(Traffic(Spec.load(Path(path).read_text())).run())


if __name__ == "__main__":
    main()
