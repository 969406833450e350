"""Does what a story says: `labs.actions` in a running lab."""

from __future__ import annotations

import time
from datetime import datetime

from labs.actions import Action, Advertise, Carrier, Change, ForgetMappings, Kill, Operate, Run, SetClock, Start
from labs.namespaces import NETNS, Lab
from labs.netfilter import forget_mappings

_RADVD = "radvd"


def carry_out(lab: Lab, action: Action) -> int:
    """Do it, and give the time from which it is so, in nanoseconds of CLOCK_MONOTONIC. LabError if it fails."""
    now = time.monotonic_ns()
    match action:
        case Carrier(link, up):
            (router, interface), _ = lab.topology.access_links[link].ends
            lab[router].set_link(interface, up=up)
        case Change():
            return lab.change_link(action.link, down=action.down, up=action.up)
        case Advertise():
            lab[action.node].advertise(action.interface, **action.settings)
        case Kill(node, program):
            lab[node].stop(lab[node].process(program), kill=True)
        case Start(node, program):
            lab.start_daemon(lab[node], program)
        case Operate(node, words):
            lab[node].operate(*words)
        case Run():
            lab[action.node].run(*action.words)
        case ForgetMappings(node):
            forget_mappings(NETNS / lab[node].namespace)
        case SetClock(when):
            lab.set_clock(datetime.fromisoformat(f"{when}+00:00").timestamp())
    return now
