"""An agent that is refused, killed, restarted or asked to end, with the other one and the kernel looking on."""

from __future__ import annotations

import pytest

from labs.namespaces import missing
from labs.runner import wait_for_addresses
from mip6.replay import replay
from tests.netns.support import (
    CELLULAR_BID,
    LIMIT,
    OWN_PROTOCOL,
    Car,
    car_lab,
    care_of_addresses,
    home_bindings,
    interface_index,
    kernel_rules,
    kernel_state,
    own_routes,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing()), reason="; ".join(missing())),
]
WRONG_KEY = {"spi": 4096, "algorithm": "hmac-sha1", "key": "ff" * 20}


def test_a_wrong_key_is_refused_and_leaves_no_binding(parked: Car) -> None:
    """The home agent answers 146 (RFC 4285 §4.1: MIPV6-AUTH-FAIL); the mobile node stays unregistered."""
    parked["ha"].start_daemon("homeagent")
    parked.home()
    parked["mr"].start_daemon("mobilenode", key=WRONG_KEY)
    parked.lab.until(lambda: parked.home()["signalling"].get("refused_146", 0) >= 2, LIMIT, "two refusals")
    home, mobile = parked.home(), parked.mobile()
    assert home_bindings(home) == []
    assert "accepted" not in home["signalling"]
    assert mobile["state"] != "registered"
    assert "registered" not in [one["state"] for one in mobile["bindings"]]


def test_a_killed_home_agent_has_its_bindings_at_once_when_it_is_back() -> None:
    """From its store, without a new Binding Update (which silent probes would cause); the traffic flows on."""
    with car_lab(paths={"probe": False}) as parked:
        parked.start()
        assert parked.echo(b"before") == b"before"
        bindings = care_of_addresses(home_bindings(parked.home()))
        updates = parked.mobile()["signalling"]["binding_update"]
        ha = parked["ha"]
        assert ha.stop(ha.daemons["homeagent"], kill=True) < 0
        ha.start_daemon("homeagent")
        back = parked.home()
        assert care_of_addresses(home_bindings(back)) == bindings
        assert parked.echo(b"after") == b"after"
        assert parked.home()["signalling"].get("accepted", 0) == 0
        assert parked.mobile()["signalling"]["binding_update"] == updates


def test_a_killed_mobile_router_adopts_what_it_has_left_in_the_kernel(parked: Car) -> None:
    """Rules, routes and mip0 stay over SIGKILL; the next run registers with them and doubles nothing."""
    parked.start()
    mr = parked["mr"]
    rules, routes, device = kernel_rules(mr), own_routes(mr), interface_index(mr)
    bindings = care_of_addresses(parked.mobile()["bindings"])
    assert len([line for line in rules if f"proto {OWN_PROTOCOL}" in line]) == len(bindings) == 2
    assert mr.stop(mr.daemons["mobilenode"], kill=True) < 0
    assert kernel_rules(mr) == rules
    mr.start_daemon("mobilenode")
    parked.until_registered()
    assert parked.mobile()["signalling"]["acknowledgement_0"] >= 1
    assert parked.echo(b"again") == b"again"
    assert sorted(kernel_rules(mr)) == sorted(rules)
    assert own_routes(mr) == routes
    assert interface_index(mr) == device
    assert care_of_addresses(home_bindings(parked.home())) == bindings


def test_a_mobile_router_that_is_asked_to_end_deregisters_and_takes_back_all_it_did(parked: Car) -> None:
    """SIGTERM: no binding at the home agent, and the kernel as it was before the start."""
    wait_for_addresses(parked.lab)
    mr = parked["mr"]
    before = kernel_state(mr)
    parked.start()
    assert kernel_state(mr) != before
    assert mr.stop(mr.daemons["mobilenode"]) == 0
    assert home_bindings(parked.home()) == []
    assert kernel_state(mr) == before


def test_what_is_left_of_a_link_that_has_gone_meanwhile_is_taken_back(parked: Car) -> None:
    """Killed, WLAN out of coverage, started again: one rule, one binding, and traffic over what there is."""
    parked.start()
    mr = parked["mr"]
    cellular = care_of_addresses(parked.mobile()["bindings"])[CELLULAR_BID]
    mr.stop(mr.daemons["mobilenode"], kill=True)
    mr.set_link("wlan0", up=False)
    mr.start_daemon("mobilenode")
    left = {CELLULAR_BID: cellular}
    parked.lab.until(lambda: care_of_addresses(home_bindings(parked.home())) == left, LIMIT, "one binding is left")
    parked.lab.until(lambda: parked.mobile()["state"] == "registered", LIMIT, "the mobile router knows")
    assert parked.echo(b"by cellular") == b"by cellular"
    [rule] = [line for line in kernel_rules(mr) if f"proto {OWN_PROTOCOL}" in line]
    assert cellular in rule
    assert [line for line in own_routes(mr) if "wlan0" in line] == []


def test_a_mobile_router_whose_home_agent_is_gone_ends_all_the_same(parked: Car) -> None:
    """Nobody answers its deregistration: it tries, ends in order, and the kernel is as it was before the start."""
    wait_for_addresses(parked.lab)
    mr, ha = parked["mr"], parked["ha"]
    before = kernel_state(mr)
    parked.start()
    ha.stop(ha.daemons["homeagent"], kill=True)
    process = mr.daemons["mobilenode"]
    process.terminate()
    assert process.wait(LIMIT) == 0
    mr.stop(process)
    assert kernel_state(mr) == before


def test_a_home_agent_that_is_not_configured_is_discovered(parked: Car) -> None:
    """By the home agents' anycast address of the home prefix (RFC 6275 §10.5, §11.4.1)."""
    wait_for_addresses(parked.lab)
    parked["ha"].start_daemon("homeagent")
    parked.home()
    parked["mr"].start_daemon("mobilenode", home_agent=None)
    parked.until_registered()
    mobile, home = parked.mobile(), parked.home()
    assert mobile["home_agent"] == home["address"] and mobile["home_agents"] == [home["address"]]
    assert mobile["signalling"]["discovery_reply"] == 1 and home["signalling"]["discovery_reply"] >= 1
    assert parked.echo(b"found") == b"found"


def test_a_dead_home_agent_is_left_for_the_next(parked: Car) -> None:
    """The first of two configured ones does not exist; the second registers the mobile router."""
    wait_for_addresses(parked.lab)
    parked["ha"].start_daemon("homeagent")
    address = parked.home()["address"]
    parked["mr"].start_daemon("mobilenode", home_agent=["2001:db8:dead::1", address])
    parked.lab.until(lambda: parked.mobile()["home_agent"] == address, LIMIT, "the second home agent has its turn")
    parked.until_registered()
    assert parked.echo(b"second") == b"second"


def test_a_recorded_run_replays_to_the_letter(parked: Car) -> None:
    """Both ends: registration, a handoff, deregistration, and the home agent's second life with its store."""
    wait_for_addresses(parked.lab)
    journals = {name: parked[name].directory / "run.jsonl" for name in ("ha", "mr")}
    ha, mr = parked["ha"], parked["mr"]
    ha.start_daemon("homeagent", record=str(journals["ha"]))
    parked.home()
    mr.start_daemon("mobilenode", record=str(journals["mr"]))
    parked.until_registered()
    ha.stop(ha.daemons["homeagent"], kill=True)
    ha.start_daemon("homeagent", record=str(journals["ha"]))
    parked["ar1"].set_link("access", up=False)
    parked.lab.until(lambda: len(home_bindings(parked.home())) == 1, LIMIT, "one binding is left")
    assert mr.stop(mr.daemons["mobilenode"]) == 0
    assert ha.stop(ha.daemons["homeagent"]) == 0
    for name, program in (("ha", "homeagent"), ("mr", "mobilenode")):
        for journal in sorted(journals[name].parent.glob("run.jsonl*")):
            lines = journal.read_text().splitlines()
            assert replay(lines, parked[name].directory / f"{program}.toml") == (len(lines) - 1, None), journal
