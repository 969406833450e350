"""IPsec policies are noticed, and the short cut does not go around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mip6.dataplane.shortcut import ShortCut
from mip6.system.ipsec import has_policies
from tests.system.conftest import Pair

pytestmark = pytest.mark.netns

PROTECTED = "tmpl src 2001:db8::2 dst 2001:db8::1 proto esp mode tunnel"


def test_a_policy_ends_the_short_cut(pair: Pair) -> None:
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    short_cut = ShortCut("auto", "mip0")
    try:
        assert not has_policies() and short_cut.way().shortcut
        pair.run(f"ip xfrm policy add dst 2001:db8:c::/64 dir out {PROTECTED}")
        assert has_policies()
        assert short_cut.way().reason == "it would go around IPsec policies" and not short_cut.way().shortcut
        pair.run("ip xfrm policy flush")
        assert not has_policies() and short_cut.way().shortcut
    finally:
        short_cut.close()
