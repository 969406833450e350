"""The rules of a running mobile node: verbs on a list, each checked like the file, and the command for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mip6.cli import main
from mobilenode.config import read
from mobilenode.liverules import LiveRules
from mobilenode.settings import copy, share, via
from tests.policy.test_layers import LINKS, NODE

FILE = """
[[flow]]
app = "ssh"
via = ["wlan0"]

[[flow]]
name = "voice"
priority = 100
protocol = "udp"
source_port = "5004-5010"
via = ["wwan0", "wlan0"]
last_resort = "drop"
"""


@pytest.fixture
def rules(tmp_path: Path) -> LiveRules:
    file = tmp_path / "node.toml"
    file.write_text(NODE + LINKS + FILE)
    return read(file).rules


def numbers(rules: LiveRules) -> list[tuple[str, int, int]]:
    return [(flow.name, flow.fid, flow.priority) for flow in rules.flows()]


def test_the_rules_of_the_file_keep_their_numbers(rules: LiveRules) -> None:
    assert numbers(rules) == [("flow10", 10, 10), ("flow10", 11, 11), ("voice", 20, 100)]
    assert numbers(rules.delete("flow10")) == [("voice", 20, 100)]


def test_a_rule_is_added_behind_all_or_in_front_of_one(rules: LiveRules) -> None:
    written = {"name": "web", "app": "web", "share": {"wlan0": 3, "wwan0": 1}}
    behind = rules.add(written)
    assert numbers(behind)[3:] == [("web", 30 + n, 110 + n) for n in range(4)]
    assert behind.flows()[-1].down == share(wlan0=3, wwan0=1)
    before = rules.add(written, before="voice")
    assert numbers(before)[2:] == [*(("web", 30 + n, 96 + n) for n in range(4)), ("voice", 20, 100)]
    assert [one.live for one in before.rules] == [False, False, True]


def test_a_moved_rule_keeps_its_numbers_its_conditions_and_its_last_resort(rules: LiveRules) -> None:
    old, new = rules.flows()[-1], rules.move("voice", {"copy": ["wlan0", "wwan0"]}).flows()[-1]
    assert (new.fid, new.priority, new.selector) == (old.fid, old.priority, old.selector)
    assert new.down.tiers == copy("wlan0", "wwan0").tiers and new.down.last_resort == old.down.last_resort
    assert rules.move("voice", {"via": ["wlan0"]}).flows()[-1].down.tiers == via("wlan0").tiers
    assert rules.move("voice", {"policy": "cheap"}).flows()[-1].down == rules.layers.policies["cheap"]


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("add", ({"name": "voice", "via": ["wlan0"]},), "there is a rule voice already: move it or delete it first"),
        ("add", ({"via": ["wlan0"]},), "a rule needs a name"),
        ("add", ({"name": "x", "via": ["wlan9"]},), r"rule x.via\[0\]: expected the name of a \[\[link\]\] \(wlan0, "),
        ("add", ({"name": "x", "prto": "udp", "via": ["wlan0"]},), "rule.prto: unknown key; did you mean proto"),
        ("add", ({"name": "x", "proto": "upd", "via": ["wlan0"]},), "rule.proto: expected a number from 0 to 255 or"),
        ("add", ({"name": "x", "fid": 10, "via": ["wlan0"]},), "rule x.fid: expected a value of its own, but 10"),
        ("add", ({"name": "x", "app": "web", "via": ["wlan0"]}, "no"), "there is no rule no; the rules are: flow10,"),
        ("move", ("no", {"via": ["wlan0"]}), "there is no rule no"),
        ("move", ("voice", {}), "expected one of via, copy, share"),
        ("move", ("voice", {"via": ["wlan0"], "drop": True}), "rule: expected exactly one of via"),
        ("delete", ("no",), "there is no rule no; the rules are: flow10, voice"),
    ],
)
def test_a_wrong_change_says_what_is_wrong(
    rules: LiveRules, verb: str, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(rules, verb)(*arguments).flows()


def test_there_may_be_no_room_before_a_rule(rules: LiveRules) -> None:
    many = {"name": "many", "proto": ["tcp", "udp"], "source_port": "1,2,3,4,5", "via": ["wlan0"]}
    with pytest.raises(ValueError, match="there is no room before flow10: 9 priorities are free, not 10"):
        rules.add(many, before="flow10")


def test_the_command_fails_with_a_reason_when_nobody_answers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    control = str(tmp_path / "absent.sock")
    for words in (["list"], ["add", "x", "--via", "wlan0"], ["move", "x", "wlan0"], ["del", "x"]):
        assert main(["flow", *words, "--control", control]) == 1
        assert "is the daemon running?" in capsys.readouterr().err
