"""Links, policies and rules of a configuration file, and the settings they come to."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mip6.configfile import ConfigurationError
from mip6.schedule import Schedule
from mip6.selectors import IPv4Selector, IPv6Selector
from mobilenode.config import load
from mobilenode.settings import Choice, FlowSettings, LastResort, Member, MobileNodeSettings, balance, copy, share, via

NODE = """
[mobilenode]
home_address = "2001:db8:100::5"
home_agent = "2001:db8:100::1"
insecure = true
timezone = "Europe/Berlin"
"""
LINKS = """
[[link]]
name = "wlan0"
bid = 1
priority = 20
max_rate = "20 Mbit/s"

[[link]]
name = "wwan0"
bid = 2
priority = 30
volume = "20 GB"
volume_day = 15

[[link]]
name = "eth0"
bid = 3
priority = 10
max_rate = "0.1 Gbit/s"

[[link]]
name = "sat0"
bid = 4
priority = 40
receive_only = true
metered = true

[[policy]]
name = "cheap"
members = [
  { link = "wlan0", weight = 3 },
  { link = "eth0" },
  { link = "any metered", preference = 2 },
]
last_resort = "drop"
"""


def read(directory: Path, text: str) -> MobileNodeSettings:
    file = directory / "node.toml"
    file.write_text(NODE + LINKS + text)
    return load(file)


def only(directory: Path, rule: str) -> FlowSettings:
    [flow] = read(directory, f"[[flow]]\n{rule}\n").flows
    return flow


def mistakes(directory: Path, rule: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(directory, f"[[flow]]\n{rule}\n")
    return [line.split(": ", 1)[1] for line in caught.value.mistakes]


def test_links_know_their_rate_their_cost_and_their_volume(tmp_path: Path) -> None:
    wlan, wwan, eth, sat = read(tmp_path, "").links
    assert (wlan.max_rate, eth.max_rate, wlan.metered) == (20_000_000, 100_000_000, False)
    assert (wwan.volume, wwan.volume_day, wwan.metered) == (20_000_000_000, 15, True)
    assert sat.receive_only and sat.metered


def test_a_rule_names_a_policy_whose_members_stand_in_tiers(tmp_path: Path) -> None:
    tiers = ((Member("wlan0", 3), Member("eth0", 1)), (Member("wwan0"), Member("sat0")))
    assert only(tmp_path, 'policy = "cheap"').down == Choice(tiers, last_resort=LastResort.DROP)


@pytest.mark.parametrize(
    ("rule", "choice"),
    [
        ('via = ["wwan0", "wlan0"]', via("wwan0", "wlan0")),
        ('via = ["any free", "wwan0"]', via("eth0", "wlan0", "wwan0")),
        ('via = ["wlan0", "any"]', via("wlan0", "eth0", "wwan0", "sat0")),
        ('copy = ["any metered"]', copy("wwan0", "sat0")),
        ("share = { wlan0 = 3, wwan0 = 1 }", share(wlan0=3, wwan0=1)),
        ('share = ["wlan0", "eth0"]', share(wlan0=20, eth0=100)),  # by their rates in Mbit/s
        ('share = ["wlan0", "wwan0"]', share(wlan0=1, wwan0=1)),  # one of the rates is not known
        (
            'share = "auto"',
            share(eth0=1, wlan0=1, wwan0=1, sat0=1),
        ),
    ],
)
def test_ways_to_name_links(tmp_path: Path, rule: str, choice: Choice) -> None:
    assert only(tmp_path, rule).down == choice


def test_each_direction_may_have_its_own_links(tmp_path: Path) -> None:
    flow = only(tmp_path, 'up = ["wlan0"]\ndown = ["sat0", "wlan0"]')
    assert (flow.up, flow.down) == (via("wlan0"), via("sat0", "wlan0"))
    flow = only(tmp_path, 'via = ["wlan0"]\ndown = "cheap"')
    assert flow.up == via("wlan0") and flow.down.last_resort is LastResort.DROP
    assert only(tmp_path, 'via = ["wlan0"]').uplink == via("wlan0")


def test_a_rule_with_lists_becomes_one_flow_binding_for_each_combination(tmp_path: Path) -> None:
    flows = read(tmp_path, '[[flow]]\nname="w"\nproto=["tcp","udp"]\nsource_port="80,8000-8080"\nvia=["wlan0"]\n').flows
    assert [(flow.name, flow.fid, flow.priority) for flow in flows] == [("w", n, n) for n in (10, 11, 12, 13)]
    assert [flow.selector for flow in flows] == [
        IPv6Selector(next_header=(protocol, protocol), source_port=ports)
        for protocol in (6, 17)
        for ports in ((80, 80), (8000, 8080))
    ]


def test_numbers_of_rules_do_not_meet_when_one_has_many_selectors(tmp_path: Path) -> None:
    ports = ",".join(str(port) for port in range(1, 13))
    text = f'[[flow]]\nproto="tcp"\nsource_port="{ports}"\nvia=["wlan0"]\n[[flow]]\nvia=["eth0"]\n'
    assert [flow.fid for flow in read(tmp_path, text).flows] == [*range(10, 22), 30]


def test_ipv4_addresses_give_ipv4_selectors(tmp_path: Path) -> None:
    flow = only(tmp_path, 'proto="icmp"\nsource="192.0.2.0/24"\nvia=["wlan0"]')
    assert flow.selector == IPv4Selector(source=(IPv4Address("192.0.2.0"), IPv4Address("192.0.2.255")), protocol=(1, 1))


def test_names_of_applications_and_code_points(tmp_path: Path) -> None:
    web = read(tmp_path, '[[flow]]\napp="web"\nvia=["wlan0"]\n').flows
    assert {(one.selector.next_header, one.selector.source_port) for one in web} == {  # type: ignore[union-attr]
        ((6, 6), (80, 80)),
        ((6, 6), (443, 443)),
        ((6, 6), (8080, 8080)),
        ((17, 17), (443, 443)),
    }
    marked = only(tmp_path, 'dscp="AF41"\nvia=["wlan0"]').selector
    assert marked == IPv6Selector(traffic_class=(34 << 2, 34 << 2 | 3))
    assert only(tmp_path, 'dscp="voice-admit"\nvia=["wlan0"]').selector == IPv6Selector(traffic_class=(176, 179))


def test_a_rule_holds_from_to_on_days(tmp_path: Path) -> None:
    flow = only(tmp_path, 'via=["wlan0"]\nfrom="22:00"\nto="06:00"\ndays=["sat","Sun"]')
    assert flow.schedule is not None and flow.schedule.describe() == "22:00 to 06:00 on sat, sun"
    assert only(tmp_path, 'via=["wlan0"]\ndays="mon"').schedule == Schedule(days=frozenset((0,)))
    assert only(tmp_path, 'via=["wlan0"]').schedule is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ('policy = "cheep"', "flow[0].policy: expected the name of a [[policy]] (cheap), got 'cheep'"),
        ('via=["wlan0"]\nup=["sat0"]', "flow[0].up[0]: expected a link that is sent over, but sat0 is receive_only"),
        ('up = ["wlan0"]', "flow[0]: expected exactly one of via = [...], copy = [...], share = ..., balance = ..., "),
        (
            'via=["wlan0"]\nlast_resort="reject"',
            'flow[0].last_resort: expected one of "default", "drop", "unreachable", ',
        ),
        ("balance = true", "flow[0]: expected balance = [...] in a rule: true is for the members of a policy"),
        ("balance = 3", "flow[0].balance: expected a list of links, a table of links with weights, "),
        ('balance = ["wlan9"]', "flow[0].balance[0]: expected the name of a [[link]] (wlan0, wwan0, eth0, sat0), got"),
        ('share = "auto"\nbalance = "auto"', "flow[0]: expected exactly one of via = [...], copy = [...], share = "),
        ('via=["wlan0"]\nup=["wlan0"]\ndown=["wlan0"]', "flow[0]: expected no via where both up and down are given"),
        ('policy="cheap"\nlast_resort="drop"', "flow[0]: expected no last_resort: the policy has it"),
        ("share = { wlan0 = 0 }", "flow[0].share: expected a list of links, a table of links with weights, or"),
        ('share = ["wlan9"]', "flow[0].share[0]: expected the name of a [[link]] (wlan0, wwan0, eth0, sat0), got"),
        ('via = ["any way"]', "flow[0].via[0]: expected an interface name of 1 to 15 octets, or one of any,"),
        ('via=["wlan0"]\nfrom="22:00"', "flow[0]: expected from and to together"),
        ('via=["wlan0"]\nfrom="22:60"\nto="6:00"', 'flow[0].from: expected a time of day like "22:00", got'),
        ('via=["wlan0"]\ndays=["sam"]', "flow[0].days: expected a list of days (mon, tue, wed, thu, fri, sat, sun)"),
        ('via=["wlan0"]\napp="wep"', "flow[0].app: expected one of voip, video, web"),
        ('via=["wlan0"]\napp="web"\nproto="tcp"', "flow[0]: expected either app or proto: app says which ports"),
        ('via=["wlan0"]\nproto="icmp"\nsource_port=7', "flow[0]: expected no ports with this protocol: it has none"),
        (
            'via=["wlan0"]\nsource="192.0.2.1"\nflow_label=1',
            "flow[0]: no packet can match: expected addresses, protocol and flow label of one IP version",
        ),
        ('via=["wlan0"]\nsource="192.0.2.1-2001:db8::"', "flow[0].source: expected an IPv6 or IPv4 address"),
        (
            'via=["wlan0"]\nproto="1,2,3,4,5,6,7,8,9,10,11"\ndscp="0,1,2,3,4,5,6,7,8,9"',
            "flow[0]: expected at most 100 combinations of its lists, got 220",
        ),
    ],
)
def test_a_wrong_rule_is_refused_with_what_is_wrong_and_where(tmp_path: Path, rule: str, message: str) -> None:
    found = mistakes(tmp_path, rule)
    assert any(line.startswith(message) for line in found), found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"20 Mbit/s"', '"20"', "link[0].max_rate: expected a rate with its unit (kbit/s, Mbit/s, Gbit/s), got '20'"),
        ('"20 GB"', '"0 GB"', "link[1].volume: expected a volume with its unit (MB, GB, TB), got '0 GB'"),
        ("volume_day = 15", "volume_day = 31", "link[1].volume_day: expected a whole number from 1 to 28, got 31"),
        ('volume = "20 GB"', "", "link[1]: expected volume where volume_day is given"),
        ("weight = 3 }", "weight = 0 }", "policy[0].members[0].weight: expected a whole number from 1 to 65535, got 0"),
        ('{ link = "eth0" }', '{ link = "wlan0" }', "policy[0].members[1].link: wlan0 stands twice with this pref"),
        ('{ link = "eth0" }', '{ link = "eth9" }', "policy[0].members[1].link: expected the name of a [[link]]"),
        ('last_resort = "drop"', 'last_resort = "dorp"', 'policy[0].last_resort: expected one of "default", "drop"'),
        ('name = "cheap"', "", "policy[0].name: missing: expected the name of a policy of 1 to 64 octets"),
        ("Europe/Berlin", "Europe/Bonn", 'mobilenode.timezone: expected a time zone like "Europe/Berlin", got'),
    ],
)
def test_a_wrong_layer_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = NODE + LINKS
    assert old in text
    file = tmp_path / "node.toml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert any(line.startswith(f"{file}: {message}") for line in caught.value.mistakes), caught.value


@pytest.mark.parametrize(
    ("word", "resort"),
    [("drop", LastResort.DROP), ("blackhole", LastResort.DROP), ("unreachable", LastResort.UNREACHABLE)],
)
def test_the_last_resorts_of_mwan3(tmp_path: Path, word: str, resort: LastResort) -> None:
    assert only(tmp_path, f'via = ["wlan0"]\nlast_resort = "{word}"').down.last_resort is resort


BALANCED = Choice((tuple(Member(one) for one in ("eth0", "wlan0", "wwan0", "sat0")),), balance=True)


def test_a_rule_is_balanced_over_links_whose_rates_count_anyway(tmp_path: Path) -> None:
    assert only(tmp_path, 'balance = "auto"').down == BALANCED
    assert only(tmp_path, 'balance = ["wlan0", "eth0"]').down == balance(wlan0=1, eth0=1)
    assert only(tmp_path, "balance = { wlan0 = 3, eth0 = 1 }").down.describe() == "balance wlan0:3 + eth0:1"


def test_a_policy_is_balanced_within_each_tier(tmp_path: Path) -> None:
    members = 'members = [{ link = "wlan0" }, { link = "eth0" }, { link = "wwan0", preference = 2 }]'
    policy = f'[[policy]]\nname = "even"\nbalance = true\n{members}\n'
    [flow] = read(tmp_path, f'{policy}[[flow]]\npolicy = "even"\n').flows
    assert flow.down == Choice(((Member("wlan0"), Member("eth0")), (Member("wwan0"),)), balance=True)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("balance = true", "expected members where balance is true, or balance = [...]"),
        ('balance = "auto"\nmembers = [{ link = "wlan0" }]', "expected exactly one of members = [...], via = [...], "),
    ],
)
def test_a_wrong_policy_is_refused(tmp_path: Path, wrong: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, f'[[policy]]\nname = "even"\n{wrong}\n')
    assert any(f"policy[1]: {why}" in one for one in caught.value.mistakes), caught.value


def test_a_link_is_probed_at_its_own_pace_or_not_at_all(tmp_path: Path) -> None:
    links = LINKS.replace('name = "wlan0"', 'name = "wlan0"\nprobe = false', 1)
    links = links.replace('name = "eth0"', 'name = "eth0"\nprobe_interval = 2', 1)
    file = tmp_path / "node.toml"
    file.write_text(NODE + links)
    general = load(file).paths
    found = {link.name: link.paths(general) for link in load(file).links}
    assert [found[name].probe for name in ("wlan0", "eth0", "wwan0")] == [False, True, True]
    assert (found["eth0"].interval, found["eth0"].idle_interval) == (2.0, 2.0)
    assert found["wwan0"].interval == general.interval and found["wwan0"].metered
    file.write_text(NODE + links.replace("probe = false", "probe = false\nprobe_interval = 1"))
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert any("link[0]: expected no probe_interval where probe is false" in one for one in caught.value.mistakes)


def test_running_flows_may_stay(tmp_path: Path) -> None:
    rule = only(tmp_path, 'via = ["wlan0", "wwan0"]\nstay = true')
    assert rule.down == Choice(((Member("wlan0"),), (Member("wwan0"),)), stay=True)
    assert rule.down.describe() == "wlan0, else wwan0 (running flows stay)"
    for wrong, why in (
        ('copy = ["wlan0", "wwan0"]\nstay = true', "expected no stay where all links are used (copy)"),
        ('policy = "cheap"\nstay = true', "expected no stay: the policy has it"),
    ):
        assert any(one.startswith(f"flow[0]: {why}") for one in mistakes(tmp_path, wrong)), wrong
