"""The control socket between real processes' ends: questions and answers, leftovers, limits."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mip6.system import notify
from mip6.system.control import MAXIMUM_LINE, ControlError, ControlServer, request


def handle(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message.get("command") == "status":
        return {"role": "homeagent", "nodes": []}
    raise ValueError(f"unknown command {message.get('command')!r}")


async def ask(path: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    return await asyncio.to_thread(request, path, message)


def test_questions_are_answered_and_bad_ones_explained(tmp_path: Path) -> None:
    async def story() -> None:
        server = ControlServer(tmp_path / "run" / "agent.sock", handle)  # the directory is made
        await server.start()
        path = tmp_path / "run" / "agent.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask(path, {"command": "status"}) == {"role": "homeagent", "nodes": []}
        assert await ask(path, {"command": "dance"}) == {"ok": False, "error": "unknown command 'dance'"}

        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"[1]\n{oops\n" + b'{"command": "status"}\n')  # one connection, several requests
        writer.write(b"[" * 50_000 + b"\n")
        answers = [json.loads(await reader.readline()) for _ in range(4)]
        assert answers[3]["error"].startswith("request is not JSON")
        assert answers[0]["error"] == "request is a JSON list, expected an object"
        assert answers[1]["error"].startswith("request is not JSON")
        assert answers[2]["role"] == "homeagent"
        writer.write(b"x" * (MAXIMUM_LINE + 1) + b"\n")
        assert f"longer than {MAXIMUM_LINE}" in json.loads(await reader.readline())["error"]
        assert await reader.read() == b""  # and it hung up
        writer.close()
        await server.close()
        assert not path.exists()

    asyncio.run(story())


def test_socket_of_a_dead_process_is_replaced_and_a_live_one_respected(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        dead.listen()

    async def story() -> None:
        first, second = ControlServer(path, handle), ControlServer(path, handle)
        await first.start()
        with pytest.raises(ControlError, match="another process answers on it"):
            await second.start()
        assert (await ask(path, {"command": "status"}))["role"] == "homeagent"
        await second.close()  # never opened: must not take the first one's file away
        assert (await ask(path, {"command": "status"}))["role"] == "homeagent"
        await first.close()

    asyncio.run(story())


def test_a_file_in_the_way_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ControlError, match="not a socket"):
        asyncio.run(ControlServer(path, handle).start())
    assert path.read_text() == "data"


def test_the_client_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="is the daemon running"):
        request(tmp_path / "nobody.sock", {"command": "status"})
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(ControlError, match=r"no answer within 0\.1 s"):
            request(path, {"command": "status"}, timeout=0.1)


def test_readiness_goes_to_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready()  # nobody asked: nothing happens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.ready()
        notify.stopping()
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_file_descriptors_go_to_the_service_manager_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was given, a new process has; each is asked for once."""
    program = "from mip6.system import notify; print(notify.kept('b'), notify.kept('a'), notify.kept('a'))"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, Path(os.devnull).open() as one:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.keep("a", [one.fileno()] * 2)
        assert manager.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=a"
        state, fds, _, _ = socket.recv_fds(manager, 100, 10)
        assert state == b"FDSTORE=1\nFDPOLL=0\nFDNAME=a" and len(fds) == 2
        for fd in fds:
            os.close(fd)
    start = f'exec env LISTEN_PID=$$ LISTEN_FDNAMES=a:b:a "{sys.executable}" -c "{program}" 3</dev/null 4<&3 5<&3'
    done = subprocess.run(["sh", "-c", start], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[4] [3, 5] []"
