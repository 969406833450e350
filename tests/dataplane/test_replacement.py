"""Programs that take the place of others while packets arrive: none is lost, and what was counted stays counted."""

from __future__ import annotations

import asyncio
import errno
import os
import runpy
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from mip6.dataplane import predecessor
from mip6.dataplane.ebpf import EbpfDataPlane
from mip6.dataplane.libbpf import LibbpfError, Program
from mip6.dataplane.maps import OBJECT, load
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.forward import Arrival
from mip6.forwarding import Node, Tunnel
from mip6.system import notify
from mip6.system.tun import Tun
from tests.dataplane.fastpath import outer_packet
from tests.dataplane.test_reference import AGENT, HOME, PEER, WLAN, table, udp
from tests.dataplane.test_tunnel import far, until

__all__ = ["far"]
pytestmark = pytest.mark.netns
PACKET = outer_packet(Arrival(WLAN, AGENT, 0), udp(src=str(HOME), dst=str(PEER)))


def plane() -> EbpfDataPlane:
    """Without the short cut, as a new process would make it."""
    return EbpfDataPlane(UserspaceDataPlane(Tun("mip0", 1500), lambda _: None), "mip0", None, "off")


class Stream:
    """Tunnel packets that arrive at eth0 without a pause."""

    def __init__(self, far: socket.socket) -> None:
        self._far, self._done = far, threading.Event()
        self.sent = 0

    def _send(self) -> None:
        while not self._done.wait(0.0001):
            self._far.sendto(PACKET, ("far0", 0x86DD, 0, 0, bytes.fromhex("020000000001")))
            self.sent += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._send)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    async def counted(self, plane: EbpfDataPlane) -> None:
        """As many were delivered by the programs as were sent."""
        await until(lambda: plane.counters().tunnels[HOME, 1].packets_in >= self.sent)
        assert plane.counters().tunnels[HOME, 1].packets_in == self.sent


def attached(one: EbpfDataPlane) -> set[int]:
    """The ids of the programs that are attached."""
    return {held.program_id for held in one._attachments.held()}


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The object of another version: it remembers half as many hops."""
    shutil.copy(OBJECT.with_name("fastpath.bpf.c"), tmp_path)
    shutil.copytree(OBJECT.with_name("fastpath"), tmp_path / "fastpath")
    header = tmp_path / "fastpath/layout.h"
    text = header.read_text()
    assert "#define HOPS 256" in text
    header.write_text(text.replace("#define HOPS 256", "#define HOPS 128"))
    build: Callable[[Path, Path], None] = runpy.run_path("setup.py", run_name="build")["compile_fastpath"]
    build(tmp_path / "fastpath.bpf.c", tmp_path / "newer.bpf.o")
    return tmp_path / "newer.bpf.o"


class Manager:
    """What systemd keeps of a unit, from one of its processes to the next."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self._kept: dict[str, list[int]] = {}

    def close(self) -> None:
        self._read()
        self._socket.close()
        for fd in [fd for fds in self._kept.values() for fd in fds]:
            os.close(fd)

    def take(self, name: str) -> list[int]:
        """As `notify.kept` in a process that was started with them."""
        self._read()
        return [os.dup(fd) for fd in self._kept.get(name, [])]

    def _read(self) -> None:
        while True:
            try:
                state, fds, _, _ = socket.recv_fds(self._socket, 1000, 64)
            except BlockingIOError:
                return
            said = dict(line.split("=", 1) for line in state.decode().splitlines())
            if "FDSTOREREMOVE" in said:
                for fd in self._kept.pop(said["FDNAME"], []):
                    os.close(fd)
            elif "FDSTORE" in said:
                assert said["FDPOLL"] == "0"  # polling a map says that it has failed
                self._kept.setdefault(said["FDNAME"], []).extend(fds)


@pytest.fixture(params=["by their ids", "from systemd"])
def found(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """How a process gets hold of programs: the second way is for units, which may not take the first."""
    if request.param == "by their ids":
        yield
        return

    def refused(number: int) -> Program:
        raise LibbpfError(f"program {number}", errno.EPERM)

    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(notify, "kept", manager.take)
    monkeypatch.setattr(Program, "by_id", refused)
    yield
    manager.close()


@pytest.mark.usefixtures("found")
def test_a_restart_loses_no_packet_and_no_count(far: socket.socket, capfd: pytest.CaptureFixture[str]) -> None:
    async def story() -> None:
        stream, old = Stream(far), plane()
        old.start()
        old.set_table(table())
        with stream.running():
            await until(lambda: stream.sent > 100)
            old.stop(remove=False)
            new = plane()
            new.start()
            new.set_table(table())
            at = stream.sent
            await until(lambda: stream.sent > at + 100)
        await stream.counted(new)
        new.stop(remove=True)

    asyncio.run(story())
    assert "fast_path_adopted" in capfd.readouterr().err


@pytest.mark.usefixtures("found")
def test_an_upgrade_loses_no_packet_and_no_count(
    far: socket.socket, newer: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        stream, old = Stream(far), plane()
        old.start()
        old.set_table(table())
        before = attached(old)
        with stream.running():
            await until(lambda: stream.sent > 100)
            old.stop(remove=False)
            monkeypatch.setattr(predecessor, "OBJECT", newer)
            monkeypatch.setattr(predecessor, "load", partial(load, newer))
            new = plane()
            new.start()
            assert attached(new) == before  # until there is a table
            new.set_table(table())
            at = stream.sent
            await until(lambda: stream.sent > at + 100)
        assert not attached(new) & before
        await stream.counted(new)
        new.stop(remove=True)

    asyncio.run(story())
    assert "is another program now" in capfd.readouterr().err


def test_a_table_that_outgrows_the_maps_loses_no_packet_and_no_count(
    far: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    held = table()
    others = {
        HOME + n: Node(HOME + n, (), tuple(Tunnel(bid, AGENT, IPv6Address(n * 99 + bid + 1)) for bid in range(16)))
        for n in range(1, 50)
    }

    async def story() -> None:
        stream, one = Stream(far), plane()
        one.start()
        one.set_table(held)
        with stream.running():
            await until(lambda: stream.sent > 100)
            one.set_table(replace(held, nodes={**held.nodes, **others}))
            at = stream.sent
            await until(lambda: stream.sent > at + 100)
        await stream.counted(one)
        one.stop(remove=True)

    asyncio.run(story())
    assert "fast_path_grown" in capfd.readouterr().err
