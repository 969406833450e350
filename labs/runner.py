"""Plays a scenario: lab up, daemons, traffic, one phase after the other, then the checks.

What is on which link is counted by nft on the access routers, what is lost by the sequence numbers at the far end;
the agents are asked only whether they are registered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from labs.flows import (
    DIRECTIONS,
    DOWN,
    UP,
    Download,
    Record,
    Stream,
    StreamReport,
    Window,
    decode_records,
    octets_in,
    stream_report,
)
from labs.namespaces import Lab, LabError, NotInTime
from labs.render import TOTAL, counter_name
from labs.scenario import Carrier, Check, Phase, Report, Scenario
from labs.traffic import Spec, ready_file, received_file, sent_file
from labs.view import LinkRate, View

TICK = 0.2  # seconds between two readings of the counters
ADDRESS_LIMIT = 10.0  # seconds until every link has an address: router advertisement and DAD
REGISTRATION_LIMIT = 10.0
SETTLE_LIMIT = 5.0  # seconds until every flow is seen on its link alone
LIFETIME = 120.0  # seconds after which the traffic ends by itself

Counters = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Played:
    """What was measured while a phase was played; the streams are judged when all has arrived."""

    phase: Phase
    window: Window
    registered: int
    counted: Mapping[str, Mapping[str, int]]  # packets in the steady part, by flow and link


class Runner:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario, view: View) -> None:
        self.scenario = scenario
        self.view = view
        self.lab = Lab(scenario.topology, flows=scenario.flows)
        self.carrier = dict.fromkeys(scenario.topology.access_links, True)
        self.dataplane = "none"
        self.played: list[Played] = []
        self._tick = (0.0, Counters())

    def run(self, **overrides: object) -> Report:
        """Play it; `overrides` go into the configuration of every daemon. The lab is gone afterwards."""
        checks: tuple[Check, ...] = ()
        error = None
        self.view.title(self.scenario.title)
        try:
            with self.lab:
                self._start(overrides)
                for phase in self.scenario.phases:
                    self.played.append(self._play(phase))
                self._drain()
                checks = tuple(self._checks())
        except LabError as fault:
            error = str(fault)
        return Report(self.scenario.name, self.dataplane, checks, error)

    # Before the story: addresses, daemons, traffic

    def _start(self, overrides: Mapping[str, object]) -> None:
        lab = self.lab
        began = time.monotonic()
        self.view.note(f"lab {lab.label}: {', '.join(lab.nodes)}")
        wait_for_addresses(lab)
        self.view.note(f"every link has its address, by router advertisements, after {time.monotonic() - began:.1f} s")
        lab.start_daemons(**overrides)
        if self._agents():
            self.dataplane = str(self._status("mobilenode")["dataplane"])
            first = self.scenario.phases[0].registered
            registered = self._registered(first)
            self.view.note(f"{registered} care-of addresses registered after {time.monotonic() - began:.1f} s")
        self._start_traffic()

    def _start_traffic(self) -> None:
        ends = (self.scenario.correspondent, self.scenario.mobile)
        for (node, address), (_, peer), server in zip(ends, reversed(ends), (True, False), strict=True):
            spec = Spec(node, server, address, peer, str(self.lab.directory), LIFETIME, self.scenario.flows)
            path = self.lab[node].directory / "traffic.json"
            path.write_text(spec.dump())
            self.lab[node].python("labs.traffic", path, log="traffic.log")
            self.lab.until(ready_file(self.lab.directory, node).exists, 10, f"traffic at {node} is ready")
        self.lab.until(self._all_arrives, 10, "every flow arrives")

    def _all_arrives(self) -> bool:
        names = [path for flow in self.scenario.flows for path in self._received_files(flow.name, flow.protocol)]
        return all(path.exists() and path.stat().st_size for path in names)

    def _received_files(self, flow: str, protocol: str) -> list[Path]:
        (correspondent, _), (mobile, _) = self.scenario.correspondent, self.scenario.mobile
        ends = [mobile, correspondent] if protocol == "udp" else [mobile]
        return [received_file(self.lab.directory, flow, end) for end in ends]

    # The story

    def _play(self, phase: Phase) -> Played:
        self.view.phase(phase.name, phase.says)
        start = began = time.monotonic_ns()
        if self.played:  # what was under way when the phase before ended belongs to this one
            start = self.played[-1].window.end
        for action in phase.does:
            self._carry_out(action)
        registered = self._registered(phase.registered)
        if phase.registered is not None and phase.does:
            self.view.note(f"registered anew after {(time.monotonic_ns() - began) / 1e6:.0f} ms")
        self._settle(phase)
        before, steady = self._counters(), time.monotonic()
        self._watch(lambda: time.monotonic() - steady >= phase.lasts, phase.lasts + 1, "the end of the phase")
        after = self._counters()
        counted = {flow: self._packets(flow, before, after) for flow in phase.on_link}
        for flow, link in phase.on_link.items():
            here, everywhere = counted[flow][link], sum(counted[flow].values())
            self.view.note(f"{flow}: {here} of {everywhere} packets counted on {link}")
        window = Window(start, time.monotonic_ns())
        self._await_arrival(window.end, phase)
        for flow in phase.gap_limit:
            gaps = (f"{self._report(flow, direction, window).gap:.0f} ms {direction}" for direction in DIRECTIONS)
            self.view.note(f"{flow}: longest gap {', '.join(gaps)}")
        return Played(phase, window, registered, counted)

    def _carry_out(self, action: Carrier) -> None:
        (router, interface), _ = self.scenario.topology.access_links[action.link].ends
        self.lab[router].set_link(interface, up=action.up)
        self.carrier[action.link] = action.up

    def _settle(self, phase: Phase) -> None:
        """Wait until, from one reading to the next, every flow moves on its link and nowhere else.

        If that does not come, the checks will say what moves where instead.
        """
        last = [self._counters()]

        def settled() -> bool:
            before, last[0] = last[0], self._counters()
            moved = {flow: self._packets(flow, before, last[0]) for flow in phase.on_link}
            return all(moved[flow][link] == sum(moved[flow].values()) > 0 for flow, link in phase.on_link.items())

        try:
            self._watch(settled, SETTLE_LIMIT, "every flow on its link", every=TICK)
        except NotInTime as error:
            self.view.note(str(error))

    def _await_arrival(self, moment: int, phase: Phase) -> None:
        """Wait until packets sent after `moment` arrive on every stream, so that what was sent before has come too."""
        streams = [f.name for f in self.scenario.flows if isinstance(f, Stream) and f.name in phase.on_link]

        def later_ones_arrive() -> bool:
            records = [self._stream_records(name, direction)[1] for name in streams for direction in DIRECTIONS]
            return all(received and received[-1].sent > moment for received in records)

        try:
            self._watch(later_ones_arrive, SETTLE_LIMIT, "packets sent after the end of the phase arrive")
        except NotInTime as error:
            self.view.note(str(error))

    def _drain(self) -> None:
        """End the traffic so that whatever was not lost has arrived."""
        (correspondent, _), (mobile, _) = self.scenario.correspondent, self.scenario.mobile
        last = self.played[-1].window.end
        # Packets that a slower link still carries may come behind later ones.
        self._watch(lambda: time.monotonic_ns() > last + 500_000_000, 2, "the last packets")
        self._stop_traffic(correspondent)
        for flow in self.scenario.flows:
            if isinstance(flow, Download):
                try:
                    self.lab.until(partial(self._complete, flow), SETTLE_LIMIT, f"the end of {flow.name}")
                except NotInTime as error:
                    self.view.note(str(error))
        self._stop_traffic(mobile)

    def _stop_traffic(self, name: str) -> None:
        node = self.lab[name]
        process = next(process for process, log in node.processes.items() if log.stem == "traffic")
        if status := node.stop(process):
            raise LabError(f"traffic at {name} ended with {status}:\n{(node.directory / 'traffic.log').read_text()}")

    # What is looked at

    def _agents(self) -> bool:
        return any(node.daemons for node in self.scenario.topology.nodes)

    def _status(self, program: str) -> dict[str, Any]:
        for node in self.lab.nodes.values():
            if program in node.daemons:
                return node.status(program) or {}
        raise LabError(f"no node runs {program}")

    def _registered(self, wanted: frozenset[int] | None) -> int:
        """Wait for both ends to hold exactly these BIDs, with the same addresses; give how many they agree on."""
        if wanted is None:
            return 0
        try:
            self._watch(lambda: self._agreed().keys() == wanted, REGISTRATION_LIMIT, "registration")
        except NotInTime as error:
            self.view.note(str(error))
        return len(self._agreed().keys() & wanted)

    def _agreed(self) -> dict[int, str]:
        """BID and care-of address of every binding that both the mobile node and its home agent hold as active."""
        mobile = self._status("mobilenode")
        mine = {b["bid"]: b["care_of_address"] for b in mobile.get("bindings", ()) if b["state"] == "registered"}
        nodes = self._status("homeagent").get("nodes", ())
        theirs = {
            b["bid"]: b["care_of_address"]
            for node in nodes
            if node["home_address"] == mobile.get("home_address")
            for b in node["bindings"]
            if b["state"] == "active"
        }
        return {bid: address for bid, address in mine.items() if theirs.get(bid) == address}

    def _counters(self) -> Counters:
        found: Counters = {}
        for link in self.scenario.topology.access_links.values():
            found |= self.lab[link.ends[0][0]].counters()
        return found

    def _packets(self, flow: str, before: Counters, after: Counters) -> dict[str, int]:
        """Packets of a flow between two readings, both directions together, by link."""
        return {
            link: sum(after[name][0] - before[name][0] for name in (counter_name(link, flow, d) for d in DIRECTIONS))
            for link in self.scenario.topology.access_links
        }

    def _stream_records(self, flow: str, direction: str) -> tuple[list[Record], list[Record]]:
        """What the sender and the receiver of a stream have recorded."""
        ends = (self.scenario.correspondent[0], self.scenario.mobile[0])
        sender, receiver = ends if direction == DOWN else ends[::-1]
        return (
            decode_records(sent_file(self.lab.directory, flow, sender).read_bytes()),
            decode_records(received_file(self.lab.directory, flow, receiver).read_bytes()),
        )

    def _report(self, flow: str, direction: str, window: Window) -> StreamReport:
        return stream_report(*self._stream_records(flow, direction), window)

    def _download_records(self, flow: str) -> list[Record]:
        return decode_records(received_file(self.lab.directory, flow, self.scenario.mobile[0]).read_bytes())

    def _octets(self, flow: Download) -> tuple[int, int]:
        """Octets that a download has sent, once it has ended, and those that arrived and were verified."""
        path = sent_file(self.lab.directory, flow.name, self.scenario.correspondent[0])
        sent = decode_records(path.read_bytes())[-1].number if path.exists() else -1
        return sent, self._download_records(flow.name)[-1].number

    def _complete(self, flow: Download) -> bool:
        sent, arrived = self._octets(flow)
        return sent == arrived

    def _watch(self, condition: Callable[[], object], limit: float, what: str, every: float = 0.0) -> None:
        """`lab.until`, with the picture of the rates kept alive; `every`: seconds between two looks."""
        due = [0.0]

        def look() -> bool:
            self._show_rates()
            if time.monotonic() < due[0]:
                return False
            due[0] = time.monotonic() + every
            return bool(condition())

        self.lab.until(look, limit, what)

    def _show_rates(self) -> None:
        now = time.monotonic()
        then, before = self._tick
        if now - then < TICK:
            return
        counters = self._counters()
        self._tick = (now, counters)
        if before:
            rates = []
            for name, link in self.scenario.topology.access_links.items():
                down, up = (
                    (counters[key][1] - before[key][1]) * 8 / (now - then)
                    for key in (counter_name(name, TOTAL, direction) for direction in (DOWN, UP))
                )
                flows = [f.name for f in self.scenario.flows if self._packets(f.name, before, counters)[name]]
                rates.append(LinkRate(name, link.rate or 1e9, down, up, tuple(flows), self.carrier[name]))
            self.view.rates(rates)

    # The verdict

    def _checks(self) -> list[Check]:
        checks = []
        for played in self.played:
            checks += self._phase_checks(played)
        for flow in self.scenario.flows:
            if isinstance(flow, Download):
                sent, arrived = self._octets(flow)
                checks.append(Check(f"{flow.name}: octets missing or out of order", abs(sent - arrived), "octets", 0))
        whole = Window(self.played[0].window.start, self.played[-1].window.end)
        reports = [
            self._report(flow.name, direction, whole)
            for flow in self.scenario.flows
            if isinstance(flow, Stream)
            for direction in DIRECTIONS
        ]
        checks.append(Check("streams: duplicates", sum(r.duplicated for r in reports), "packets", 0))
        sent, reordered = sum(r.sent for r in reports), sum(r.reordered for r in reports)
        self.view.note(f"streams: {sent} packets sent, {sum(r.lost for r in reports)} lost, {reordered} out of order")
        return checks

    def _phase_checks(self, played: Played) -> list[Check]:
        phase, checks = played.phase, []
        if phase.registered is not None:
            name = f"{phase.name}: care-of addresses registered"
            checks.append(Check(name, played.registered, "", len(phase.registered), at_least=True))
        for flow, link in phase.on_link.items():
            total = sum(played.counted[flow].values())
            share = 100 * played.counted[flow][link] / total if total else 0.0
            checks.append(Check(f"{phase.name}: {flow} on {link}", share, "% of packets", 100, at_least=True))
        for flow in phase.lossless:
            reports = [self._report(flow, direction, played.window) for direction in DIRECTIONS]
            checks.append(Check(f"{phase.name}: {flow} lost", sum(r.lost for r in reports), "packets", 0))
        for flow, limit in phase.gap_limit.items():
            for direction in DIRECTIONS:
                gap = round(self._report(flow, direction, played.window).gap, 1)
                checks.append(Check(f"{phase.name}: {flow} gap {direction}", gap, "ms", limit))
        for download in (f for f in self.scenario.flows if isinstance(f, Download) and f.name in phase.on_link):
            arrived = octets_in(self._download_records(download.name), played.window) // 1000
            checks.append(Check(f"{phase.name}: {download.name} goes on", arrived, "kB", 1, at_least=True))
        return checks


def wait_for_addresses(lab: Lab) -> None:
    """Until every interface that does SLAAC has an address that is no longer tentative."""
    for node in lab.nodes.values():
        for interface in node.node.interfaces:
            if interface.autoconf:
                what = f"an address on {interface.name} of {node.name}"
                lab.until(partial(node.addresses, interface.name), ADDRESS_LIMIT, what)
