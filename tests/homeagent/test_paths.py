"""What a home agent does when its own probes say that a path is down: its own table, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from mip6.actions import ForwardingChanged
from mip6.events import PathChanged
from mip6.flowextension import DEFAULT_ENTERPRISE, FlowExtension, encode_flow
from mip6.path import PathSettings, PathState
from mip6.probeflows import is_probe_rule, probe_rules
from tests.homeagent.support import AHRO, CELLULAR, HA, HOME, HOST, SETTINGS, WLAN, Script, bid
from tests.homeagent.test_flows import flow

MEASURED = replace(SETTINGS, paths=PathSettings())


def started() -> Script:
    script = Script(MEASURED)
    shares = encode_flow(DEFAULT_ENTERPRISE, FlowExtension(3, ((1, 3), (2, 1))))
    script.update(bid(1, WLAN), bid(2, CELLULAR), flow(1, 1), flow(2, 1, 2), flow(3, 1), shares, flags=AHRO)
    return script


def is_now(script: Script, state: PathState, number: int = 1) -> list[object]:
    script.seen = script.agent.handle(PathChanged(HOME, number, state), script.now)
    return [type(one) for one in script.seen]


def table(script: Script) -> tuple[list[int], dict[int, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The order of the tunnels, and BIDs and weights of the flows."""
    node = script.agent.forwarding_table().nodes[HOME]
    flows = {rule.fid: (rule.bids, rule.weights) for rule in node.rules if not is_probe_rule(rule)}
    return [tunnel.bid for tunnel in node.tunnels if tunnel.usable], flows


def test_flows_leave_a_path_that_is_down_and_come_back() -> None:
    script = started()
    before = table(script)
    assert before == ([1, 2], {1: ((1,), ()), 2: ((1, 2), ()), 3: ((1, 2), (3, 1))})
    assert ForwardingChanged in is_now(script, PathState.DOWN)
    assert table(script) == ([2, 1], {1: ((), ()), 2: ((2,), ()), 3: ((2,), (1,))})
    is_now(script, PathState.RECOVERING)
    assert table(script)[0] == [2, 1]
    is_now(script, PathState.UP)
    assert table(script) == before
    assert script.bindings() == {1: str(WLAN), 2: str(CELLULAR)}, "the bindings are the mobile node's business"


def test_when_all_paths_are_down_nothing_moves() -> None:
    script = started()
    before = table(script)
    for number in (1, 2):
        is_now(script, PathState.DOWN, number)
    assert table(script) == before


def test_what_was_measured_ends_with_the_binding() -> None:
    script = started()
    is_now(script, PathState.DOWN)
    script.update(bid(2, CELLULAR), flags=AHRO)
    is_now(script, PathState.UP, 2)
    script.update(bid(1, WLAN), bid(2, CELLULAR), flags=AHRO)
    assert table(script)[0] == [1, 2]
    assert is_now(script, PathState.DOWN, 77) and table(script)[0] == [1, 2]
    assert script.agent.handle(PathChanged(HOST.home_address, 1, PathState.DOWN), script.now) == []


def test_probes_are_nailed_to_their_tunnels() -> None:
    node = started().agent.forwarding_table().nodes[HOME]
    assert node.rules[:4] == probe_rules(HOME, HA, (1, 2))
