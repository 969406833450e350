"""What is told of nftables: chains at hooks, and the news that there are others."""

from __future__ import annotations

import pytest

from mip6.system.firewall import Chain, Firewall
from tests.system.conftest import Pair

pytestmark = pytest.mark.netns


def test_chains_at_hooks_are_found_and_others_are_not(pair: Pair) -> None:
    for command in (
        "nft add table inet filter",
        "nft add chain inet filter forward { type filter hook forward priority 0; }",
        "nft add chain inet filter helper",
        "nft add table netdev early",
        "nft add chain netdev early guard { type filter hook ingress device eth0 priority 0; }",
        "nft add table bridge below",
        "nft add chain bridge below forward { type filter hook forward priority 0; }",
    ):
        pair.run(command)
    firewall = Firewall()
    assert sorted(firewall.chains(), key=str) == [
        Chain("inet", "filter", "forward", "forward"),
        Chain("netdev", "early", "guard", "ingress"),
    ]
    assert firewall.legacy_tables() == []
    firewall.close()


def test_a_new_chain_is_news_and_a_new_rule_is_not(pair: Pair) -> None:
    firewall = Firewall()
    assert not firewall.drain()
    pair.run("nft add table ip6 filter")
    pair.run("nft add chain ip6 filter forward { type filter hook forward priority 0; }")
    assert firewall.drain()
    assert firewall.chains() == [Chain("ip6", "filter", "forward", "forward")]
    pair.run("nft add rule ip6 filter forward tcp dport 22 accept")
    assert not firewall.drain()
    pair.run("nft delete table ip6 filter")
    assert firewall.drain()
    assert firewall.chains() == []
    firewall.close()
