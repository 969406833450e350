"""Given a configuration file with one thing wrong, the reader names the file, the key and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeagent import config as homeagent_config
from mip6.configfile import ConfigurationError
from mobilenode import config as mobilenode_config
from tests.config.samples import HOME_AGENT, KEY, MOBILE_NODE, write

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
