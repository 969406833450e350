"""Fixtures for all tests.

`lab` makes networks of a topology, each gone when the test ends, however it ends:

    @pytest.mark.netns
    def test_registration(lab):
        car = lab(CAR)                                     # up: namespaces, links, routes, router advertisements
        wait_for_addresses(car)
        car.start_daemons(dataplane="userspace")           # all of them; or car["ha"].start_daemon("homeagent")
        car.until(lambda: car["mr"].status("mobilenode")["state"] == "registered", 10, "registration")
        car["lfn"].run("command", "argument")              # its standard output; LabError when it fails
        car["cn"].popen("command", log="some.log")         # goes on; ended with the lab
        car["ar1"].set_link("wlan", up=False)              # the mobile router loses its carrier
        car["ha"].stop(car["ha"].daemons["homeagent"], kill=True)

More of a node's and a lab's abilities: `labs.namespaces`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest

from labs.flows import Flow
from labs.namespaces import Lab, missing
from labs.topology import Topology

MakeLab = Callable[..., Lab]


@pytest.fixture
def lab() -> Iterator[MakeLab]:
    """`lab(topology, flows=())`: the topology made real, with `flows` counted on its access links."""
    if lacks := missing():
        pytest.skip("; ".join(lacks))
    with ExitStack() as labs:

        def make(topology: Topology, flows: Iterable[Flow] = ()) -> Lab:
            return labs.enter_context(Lab(topology, flows=flows))

        yield make
