"""Files that are right, keys in files of their own, what `--check` says."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from homeagent import config as homeagent_config
from mip6.configfile import ConfigurationError
from mip6.path import PathSettings
from mip6.selectors import IPv6Selector
from mobilenode import config as mobilenode_config
from mobilenode.settings import DROP, copy, via
from tests.config.samples import HOME_AGENT, KEY, MOBILE_NODE, write


def test_paths_are_measured_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    for text, load in ((HOME_AGENT, homeagent_config.load), (MOBILE_NODE, mobilenode_config.load)):
        file.write_text(text)
        assert load(file).paths == PathSettings()
        file.write_text(f"{text}\n[paths]\nprobe = false\ninterval = 1\nhold = 0\n")
        assert load(file).paths == PathSettings(probe=False, interval=1.0, hold=0.0)


def test_a_right_home_agent_becomes_settings(tmp_path: Path) -> None:
    settings = homeagent_config.load(write(tmp_path, HOME_AGENT))
    assert settings.address == IPv6Address("2001:db8:100::1")
    assert [node.identifier for node in settings.nodes] == ["mr@example.com", "second@example.com"]
    first = settings.nodes[0]
    assert first.mobile_router and first.prefixes == (IPv6Network("2001:db8:f00::/56"),)
    assert first.associations[0].key == bytes(range(16))
    assert first.drops[0].source is not None  # type: ignore[union-attr]
    assert KEY not in repr(settings) and "\\x01\\x02" not in repr(settings)


def test_a_right_mobile_node_becomes_settings(tmp_path: Path) -> None:
    settings = mobilenode_config.load(write(tmp_path, MOBILE_NODE))
    voice, copied, dropped = settings.flows
    assert (voice.fid, voice.priority, voice.down, voice.up) == (10, 10, via("wwan0", "wlan0"), None)
    assert isinstance(voice.selector, IPv6Selector)
    assert voice.selector.next_header == (17, 17)
    assert voice.selector.source == (IPv6Address("2001:db8:c::"), IPv6Address("2001:db8:c::ffff:ffff:ffff:ffff"))
    assert voice.selector.destination == (IPv6Address("2001:db8:f00::1"), IPv6Address("2001:db8:f00::9"))
    assert voice.selector.source_port == (5000, 5010) and voice.selector.destination_port == (5004, 5004)
    assert voice.selector.traffic_class == (46 << 2, 46 << 2 | 3)  # DSCP 46 whatever the ECN bits say
    assert (copied.fid, copied.name, copied.down) == (20, "flow20", copy("wwan0", "wlan0"))
    assert isinstance(dropped.selector, IPv6Selector)
    assert dropped.down == DROP and dropped.selector.next_header == (132, 132)
    assert settings.mobile_router and settings.association is not None


def test_without_keys_only_an_insecure_home_agent_starts(tmp_path: Path) -> None:
    keyless = HOME_AGENT.replace(f'  [[node.key]]\n  spi = 4096\n  key = "{KEY}"\n', "")
    with pytest.raises(ConfigurationError, match=r"node\[0\]\.key: missing; expected a \[\[node\.key\]\]"):
        homeagent_config.load(write(tmp_path, keyless))
    insecure = keyless.replace("[homeagent]", "[homeagent]\ninsecure = true")
    assert homeagent_config.load(write(tmp_path, insecure)).insecure


def with_key_file(directory: Path) -> Path:
    return write(directory, MOBILE_NODE.replace(f'key = "{KEY}"', 'key_file = "mr.key"'))


def test_a_key_file_stands_beside_the_configuration(tmp_path: Path) -> None:
    key = tmp_path / "mr.key"
    key.write_text(KEY + "\n")
    key.chmod(0o600)
    association = mobilenode_config.load(with_key_file(tmp_path)).association
    assert association is not None and association.key == bytes(range(16))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o700])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "mr.key"
    key.write_text(KEY)
    key.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"mobilenode\.key\.key_file: expected mode 0600, .* has {mode:04o}"):
        mobilenode_config.load(with_key_file(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_key_file_of_another_user_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "mr.key"
    key.write_text(KEY)
    key.chmod(0o600)
    os.chown(key, 65534, 65534)
    with pytest.raises(ConfigurationError, match=r"key_file: expected a file of user 0, but .* belongs to user 65534"):
        mobilenode_config.load(with_key_file(tmp_path))


def test_a_key_file_that_is_missing_or_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"key_file: expected a file that can be read, .* No such file"):
        mobilenode_config.load(with_key_file(tmp_path))
    key = tmp_path / "mr.key"
    key.write_text("no hexadecimal secret")
    key.chmod(0o600)
    with pytest.raises(ConfigurationError, match="in hexadecimal: not hexadecimal") as caught:
        mobilenode_config.load(with_key_file(tmp_path))
    assert "no hexadecimal secret" not in str(caught.value)


def test_files_that_are_no_toml_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        homeagent_config.load(tmp_path / "absent.toml")
    with pytest.raises(ConfigurationError, match=r"expected TOML: .*table declaration"):
        homeagent_config.load(write(tmp_path, "[homeagent"))
    (tmp_path / "agent.toml").write_bytes(b"# \xff")
    with pytest.raises(ConfigurationError, match="octet 2: expected text in UTF-8"):
        homeagent_config.load(tmp_path / "agent.toml")


def check(module: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, "--config", str(file), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_check_says_ok_or_the_mistakes(tmp_path: Path) -> None:
    right = check("homeagent", file := write(tmp_path, HOME_AGENT))
    assert (right.returncode, right.stdout) == (0, f"{file}: ok\n")
    wrong = check("mobilenode", file)
    assert wrong.returncode == 1
    assert f"{file}: mobilenode: missing; expected a table [mobilenode]" in wrong.stderr.splitlines()


def test_ten_thousand_nodes_are_read(tmp_path: Path) -> None:
    text = HOME_AGENT.partition("[[node]]")[0]
    for number in range(10_000):
        text += f'[[node]]\nhome_address = "2001:db8:100::1:{number:x}"\n'
        text += f'prefixes = ["2001:db8:8{number >> 8:03x}:{number & 0xFF:02x}00::/56"]\n'
        text += f'[[node.key]]\nspi = 4096\nkey = "{number:032x}"\n'
    settings = homeagent_config.load(write(tmp_path, text))
    assert len({node.home_address for node in settings.nodes}) == 10_000
