"""Two agents in one network namespace would take each other's routes away, so the second does not start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mip6.system.command import UnusableError
from mip6.system.single import OnlyAgent

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("pair")]  # each in a namespace of its own, as others run too
TRY = [sys.executable, "-c", "from mip6.system.single import OnlyAgent; OnlyAgent()"]


def test_one_in_each_network_namespace() -> None:
    first = OnlyAgent()
    with pytest.raises(UnusableError, match="another homeagent or mobilenode runs in this network namespace"):
        OnlyAgent()
    assert subprocess.run(TRY, stderr=subprocess.DEVNULL).returncode != 0  # another process is no better off
    subprocess.run(["unshare", "--net", *TRY], check=True)  # but another namespace is free
    first.close()
    OnlyAgent().close()


def test_the_name_is_free_when_its_owner_was_killed() -> None:
    code = "from mip6.system.single import OnlyAgent; held = OnlyAgent(); print(flush=True); input()"
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(UnusableError):
            OnlyAgent()
        owner.kill()
        owner.wait()
        OnlyAgent().close()
