"""Given a configuration file with one thing wrong, the reader names the file, the key and what was expected."""

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

KEY = "000102030405060708090a0b0c0d0e0f"

HOME_AGENT = f"""
[homeagent]
address = "2001:db8:100::1"
home_prefixes = ["2001:db8:100::/64"]

[[node]]
home_address = "2001:db8:100::5"
identifier = "mr@example.com"
prefixes = ["2001:db8:f00::/56"]
  [[node.key]]
  spi = 4096
  key = "{KEY}"
  [[node.drop]]
  source = "2001:db8:bad::/48"

[[node]]
home_address = "2001:db8:100::6"
identifier = "second@example.com"
prefixes = ["2001:db8:f01::/56"]
  [[node.key]]
  spi = 4096
  key = "{KEY}"
"""

MOBILE_NODE = f"""
[mobilenode]
home_address = "2001:db8:100::5"
home_agent = "2001:db8:100::1"
home_prefix = "2001:db8:100::/64"
prefixes = ["2001:db8:f00::/56"]
  [mobilenode.key]
  spi = 4096
  key = "{KEY}"

[[link]]
name = "wlan0"
bid = 1
priority = 10

[[link]]
name = "wwan0"
bid = 2
priority = 20

[[flow]]
name = "voice"
via = ["wwan0", "wlan0"]
protocol = "udp"
source = "2001:db8:c::/64"
destination = "2001:db8:f00::1-2001:db8:f00::9"
source_port = "5000-5010"
destination_port = 5004
dscp = "46"
flow_label = "1-5"

[[flow]]
copy = ["wwan0", "wlan0"]
spi = 4096

[[flow]]
drop = true
protocol = 132
"""

# what is replaced, by what, and the message without the file
PATHS_MISTAKES = [
    ("interval = 0", "paths.interval: expected seconds from 0.02 to 60, got 0"),
    ("interval = true", "paths.interval: expected seconds from 0.02 to 60, got true"),
    ("idle_interval = 0.05", "paths: expected idle_interval to be at least interval (0.1)"),
    ("lost = 1", "paths.lost: expected a whole number from 2 to 100, got 1"),
    ("lost = 2.5", "paths.lost: expected a whole number from 2 to 100, got 2.5"),
    ("hold = -1", "paths.hold: expected seconds from 0 to 3600, got -1"),
    ("hold = 90", "paths: expected longest_hold to be at least hold (90)"),
    ("probe = 1", "paths.probe: expected true or false, got 1"),
    ("lose = 3", "paths.lose: unknown key; did you mean lost?"),
]
AGENT_MISTAKES = [
    ("[homeagent]", "[homeagents]", "homeagents: unknown key; did you mean homeagent?"),
    ("[homeagent]", "[homeagents]", "homeagent: missing; expected a table [homeagent]"),
    ("address = ", "adress = ", "homeagent.adress: unknown key; did you mean address?"),
    ("address = ", "adress = ", "homeagent.address: missing: expected a global IPv6 unicast address"),
    ('"2001:db8:100::1"', '"fe80::1"', "homeagent.address: expected a global IPv6 unicast address, got 'fe80::1': "),
    ('"2001:db8:100::1"', "5", "homeagent.address: expected a global IPv6 unicast address, got 5"),
    (
        '["2001:db8:100::/64"]',
        '["2001:db8:100::1/64"]',
        "homeagent.home_prefixes[0]: expected an IPv6 prefix like 2001:db8::/56, got '2001:db8:100::1/64': "
        "host bits are set, the prefix is 2001:db8:100::/64",
    ),
    ('["2001:db8:100::/64"]', "[]", "homeagent: expected at least one prefix in home_prefixes"),
    ('["2001:db8:100::/64"]', "3", "homeagent.home_prefixes: expected a list"),
    (
        "[[node]]",
        "max_lifetime = 3\n[[node]]",
        "homeagent.max_lifetime: expected a whole number from 4 to 262140, got 3",
    ),
    ("[[node]]", "max_lifetime = 262141\n[[node]]", "homeagent.max_lifetime: expected a whole number from 4 to 262140"),
    ("[[node]]", "refresh_advice = 1\n[[node]]", "homeagent.refresh_advice: expected 0 or a whole number from 4"),
    ("[[node]]", "insecure = 1\n[[node]]", "homeagent.insecure: expected true or false, got 1"),
    ("[[node]]", 'dataplane = "fast"\n[[node]]', 'homeagent.dataplane: expected one of "auto", "ebpf", "userspace",'),
    ("[[node]]", "shortcut = true\n[[node]]", 'homeagent.shortcut: expected one of "auto", "on", "off", got'),
    ("[[node]]", 'on_exit = "die"\n[[node]]', 'homeagent.on_exit: expected one of "keep", "clean", got'),
    ("[[node]]", "mtu = 1279\n[[node]]", "homeagent.mtu: expected a whole number from 1280 to 65535, got 1279"),
    ("[[node]]", 'device = "a/b"\n[[node]]', "homeagent.device: expected an interface name of 1 to 15 octets, got"),
    ("[[node]]", 'home_link = "mip0"\n[[node]]', "homeagent: expected device and home_link to be different"),
    ('"2001:db8:100::6"', '"2001:db8:101::6"', "node[1].home_address: expected an address of 2001:db8:100::/64, got"),
    ('"2001:db8:100::6"', '"2001:db8:100::1"', "node[1].home_address: 2001:db8:100::1 is the home agent's own address"),
    (
        '"2001:db8:100::6"',
        '"2001:db8:100::5"',
        "node[1].home_address: 2001:db8:100::5/128 belongs already to node[0].home_address (2001:db8:100::5/128)",
    ),
    (
        '"2001:db8:f01::/56"',
        '"2001:db8:f00:1::/64"',
        "node[1].prefixes[0]: 2001:db8:f00:1::/64 belongs already to node[0].prefixes[0] (2001:db8:f00::/56)",
    ),
    (
        '"2001:db8:f01::/56"',
        '"2001:db8:100::/120"',
        "node[0].home_address: 2001:db8:100::5/128 belongs already to node[1].prefixes[0] (2001:db8:100::/120)",
    ),
    ('"2001:db8:f01::/56"', '"2001:db8:100::/120"', "2001:db8:100::/120 contains the home agent's address"),
    (
        '"2001:db8:f01::/56"',
        '"2001:db8:f01::/56", "2001:db8:f01::/64"',
        "node[1].prefixes[1]: 2001:db8:f01::/64 belongs",
    ),
    ('"second@example.com"', '"mr@example.com"', "node[1].identifier: expected a value of its own, but mr@example.com"),
    ('"second@example.com"', '""', "node[1].identifier: expected a network access identifier of 1 to 254 octets"),
    ('identifier = "mr', 'mobile_router = false\nidentifier = "mr', "node[0]: expected mobile_router = true where"),
    (
        'identifier = "mr',
        'replay = "none"\nidentifier = "mr',
        'node[0].replay: expected one of "timestamp", "sequence"',
    ),
    (
        'identifier = "mr',
        'timestamp_window = 0\nidentifier = "mr',
        "node[0].timestamp_window: expected seconds, more than",
    ),
    ('identifier = "mr', 'timestamp_window = nan\nidentifier = "mr', "node[0].timestamp_window: expected seconds"),
    (
        "[[node.key]]\n  spi = 4096",
        "[[node.key]]\n  spi = 255",
        "node[0].key[0].spi: expected a whole number from 256 to",
    ),
    (f'key = "{KEY}"', "", "node[0].key[0]: expected either key or key_file"),
    (f'key = "{KEY}"', 'key = "abcd"', "node[0].key[0].key: expected at least 16 octets in hexadecimal, got something"),
    (
        f'key = "{KEY}"',
        'key = "secret!"',
        "node[0].key[0].key: expected at least 16 octets in hexadecimal, got something",
    ),
    (
        f'key = "{KEY}"',
        f'key = "{KEY}"\nalgorithm = "md5"',
        'key[0].algorithm: expected one of "hmac-sha1", "hmac-sha256"',
    ),
    (
        "[[node.drop]]",
        f'[[node.key]]\nspi = 4096\nkey = "{KEY}"\n[[node.drop]]',
        "node[0].key[1].spi: expected a value of",
    ),
    (
        '"2001:db8:bad::/48"',
        '"2001:db8:bad::9-2001:db8:bad::1"',
        "node[0].drop[0].source: expected an IPv6 or IPv4 address, a",
    ),
]

NODE_MISTAKES = [
    (
        '"2001:db8:100::5"',
        '"2001:db8:101::5"',
        "mobilenode.home_address: expected an address of 2001:db8:100::/64, got",
    ),
    ('"2001:db8:100::1"', '"2001:db8:100::5"', "mobilenode.home_agent: expected another address than home_address"),
    ('"2001:db8:100::1"', "[]", "mobilenode.home_agent: expected a global IPv6 unicast address or a list of them, got"),
    (
        '"2001:db8:100::1"',
        '["2001:db8:100::1", "2001:db8:100::1"]',
        "mobilenode.home_agent: expected a global IPv6 unicast address or a list of them, got a list: one stands twice",
    ),
    (
        'home_agent = "2001:db8:100::1"\nhome_prefix = "2001:db8:100::/64"',
        "",
        "mobilenode.home_agent: missing; expected an address, a list, or home_prefix to discover it by",
    ),
    ('"2001:db8:100::1"', '"2001:db8:f00::1"', "mobilenode.prefixes[0]: 2001:db8:f00::/56 contains the home agent's"),
    (
        f'[mobilenode.key]\n  spi = 4096\n  key = "{KEY}"',
        "",
        "mobilenode.key: missing; expected [mobilenode.key], or insecure",
    ),
    ("prefixes = ", "mobile_router = false\nprefixes = ", "mobilenode.mobile_router: expected true where prefixes are"),
    ('prefixes = ["2001:db8:f00::/56"]', "mobile_router = true", "mobilenode.prefixes: missing: expected prefixes, or"),
    (
        '["2001:db8:f00::/56"]',
        '["2001:db8:f00::/56", "2001:db8:f00::/60"]',
        "mobilenode.prefixes[1]: 2001:db8:f00::/60 overl",
    ),
    (
        "prefixes = ",
        'prefix_mode = "some"\nprefixes = ',
        'mobilenode.prefix_mode: expected one of "explicit", "implicit"',
    ),
    (
        "prefixes = ",
        "lifetime = 0\nprefixes = ",
        "mobilenode.lifetime: expected a whole number from 4 to 262140, got 0",
    ),
    ("prefixes = ", "table_base = 254\nprefixes = ", "mobilenode.table_base: expected a whole number from 256 to"),
    ("prefixes = ", "metric = -1\nprefixes = ", "mobilenode.metric: expected a whole number from 1 to"),
    ("bid = 2", "bid = 1", "link[1].bid: expected a value of its own, but 1 is taken by link[0].bid"),
    ("bid = 2", "bid = 0", "link[1].bid: expected a whole number from 1 to 65535, got 0"),
    ("bid = 2", "bit = 2", "link[1].bit: unknown key; did you mean bid?"),
    (
        "priority = 20",
        "priority = 10",
        "link[1].priority: expected a value of its own, but 10 is taken by link[0].priority",
    ),
    ("priority = 20", "priority = 128", "link[1].priority: expected a whole number from 1 to 127, got 128"),
    (
        'name = "wwan0"',
        'name = "wlan0"',
        "link[1].name: expected a value of its own, but wlan0 is taken by link[0].name",
    ),
    ('name = "wwan0"', 'name = "mip0"', "link[1].name: expected an access link, but mip0 is the tunnel device"),
    ('name = "wwan0"', 'name = "sat0"', "flow[0].via[0]: expected the name of a [[link]] (wlan0, sat0), got 'wwan0'"),
    ('via = ["wwan0", "wlan0"]', 'via = ["wwan0", "wwan0"]', "flow[0].via[1]: expected a value of its own, but wwan0"),
    (
        'via = ["wwan0", "wlan0"]',
        "",
        "flow[0]: expected exactly one of via = [...], copy = [...], share = ..., balance = ..., policy = ",
    ),
    ("spi = 4096\n\n[[flow]]", "drop = true\n\n[[flow]]", "flow[1]: expected exactly one of via = [...], copy"),
    ('name = "voice"', "fid = 20", "flow[1].fid: expected a value of its own, but 20 is taken by flow[0].fid"),
    (
        'name = "voice"',
        "priority = 30",
        "flow[2].priority: expected a value of its own, but 30 is taken by flow[0].priority",
    ),
    ('name = "voice"', "fid = 65536", "flow[0].fid: expected a whole number from 1 to 65535, got 65536"),
    (
        'protocol = "udp"',
        'protocol = "upd"',
        "flow[0].protocol: expected a number from 0 to 255 or a protocol name (icmp, icmpv6, tcp",
    ),
    ("5004", "65536", 'flow[0].destination_port: expected a number from 0 to 65535 or a range "first-last", got 65536'),
    ('"5000-5010"', '"5010-5000"', "flow[0].source_port: expected a number from 0 to 65535 or a range"),
    (
        'dscp = "46"',
        "dscp = 64",
        'flow[0].dscp: expected a DSCP from 0 to 63, a name like "EF" or',
    ),
    ('"1-5"', '"1-1048576"', "flow[0].flow_label: expected a number from 0 to 1048575"),
    ('"2001:db8:c::/64"', '"2001:db8:c::1/64"', "flow[0].source: expected an IPv6 or IPv4 address, a prefix or"),
    ("drop = true", "drop = 1", "flow[2].drop: expected true or false, got 1"),
]


def write(directory: Path, text: str) -> Path:
    file = directory / "agent.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(("old", "new", "message"), AGENT_MISTAKES)
def test_a_mistake_of_the_home_agent_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in HOME_AGENT
    file = write(tmp_path, HOME_AGENT.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        homeagent_config.load(file)
    assert any(line.startswith(f"{file}: ") and message in line for line in caught.value.mistakes), caught.value


@pytest.mark.parametrize(("old", "new", "message"), NODE_MISTAKES)
def test_a_mistake_of_the_mobile_node_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MOBILE_NODE
    file = write(tmp_path, MOBILE_NODE.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        mobilenode_config.load(file)
    assert any(line.startswith(f"{file}: {message}") for line in caught.value.mistakes), caught.value


@pytest.mark.parametrize(("line", "message"), PATHS_MISTAKES)
def test_a_mistake_about_paths_is_named_at_both_ends(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "agent.toml"
    for text, load in ((HOME_AGENT, homeagent_config.load), (MOBILE_NODE, mobilenode_config.load)):
        file.write_text(f"{text}\n[paths]\n{line}\n")
        with pytest.raises(ConfigurationError) as found:
            load(file)
        assert [one.removeprefix(f"{file}: ") for one in found.value.mistakes] == [message]


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


def test_all_mistakes_are_told_at_once_and_no_key_among_them(tmp_path: Path) -> None:
    text = MOBILE_NODE.replace(KEY, "0badc0ffee").replace("bid = 2", "bid = 1").replace('"udp"', '"upd"')
    with pytest.raises(ConfigurationError) as caught:
        mobilenode_config.load(write(tmp_path, text))
    assert [line.split(": ")[1] for line in caught.value.mistakes] == [
        "mobilenode.key.key",
        "flow[0].protocol",
        "link[1].bid",
    ]
    assert "0badc0ffee" not in str(caught.value)


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
