"""Plays a scenario: lab up, daemons, traffic, one phase after the other, then the checks.

What is on which link is counted by nft on the access routers, what is lost by the sequence numbers at the far end;
the agents are asked only whether they are registered, and their logs say what they did when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from labs.acting import carry_out
from labs.actions import Carrier
from labs.checks import Check, whole_story
from labs.flows import (
    DIRECTIONS,
    DOWN,
    UP,
    Download,
    Record,
    Stream,
    Window,
    decode_records,
    stream_report,
)
from labs.logs import agents_reports
from labs.namespaces import NETNS, Lab, LabError, NotInTime
from labs.netfilter import Sampler
from labs.patience import FACTOR
from labs.recording import Ends, Mark, Played, Recording, Sample, directions_of
from labs.render import TOTAL
from labs.result import Report
from labs.scenario import Phase, Scenario, route_of
from labs.traffic import Spec, last_record, ready_file, received_file, sent_file
from labs.view import LinkRate, View

TICK = 0.2  # seconds between two pictures of the rates
ADDRESS_LIMIT = 10.0  # seconds until every link has an address: router advertisement and DAD
REGISTRATION_LIMIT = 10.0
SETTLE_LIMIT = 5.0  # seconds until every flow is seen on its link alone
LIFETIME = 180.0 * FACTOR  # seconds after which the traffic ends by itself


class Runner:
    """One run of a scenario, in a lab known by `label`."""

    def __init__(self, scenario: Scenario, view: View, label: str | None = None) -> None:
        self.scenario = scenario
        self.view = view
        self.lab = Lab(scenario.topology, label, scenario.flows, own_clock=scenario.clock is not None)
        self.carrier = dict.fromkeys(scenario.topology.access_links, True)
        self.dataplane = "none"
        self.played: list[Played] = []
        self.marks: list[Mark] = []
        self._tick: Sample | None = None

    def run(self, **overrides: object) -> Report:
        """Play it; `overrides` go into the configuration of every daemon. The lab is gone afterwards."""
        self.view.title(self.scenario.title)
        recording: Recording | None = None
        checks: tuple[Check, ...] = ()
        error = None
        try:
            with self.lab:
                self._start(overrides)
                self.sampler = Sampler(self._counting())
                try:
                    for phase in self.scenario.phases:
                        self.played.append(self._play(phase))
                    self._drain()
                finally:
                    self.sampler.close()
                    if self.played:
                        recording = self._recording()
                checks = tuple(self._checks(recording))
        except LabError as fault:
            error = str(fault)
        return Report(self.scenario.name, self.dataplane, checks, error, recording)

    # Before the story: addresses, daemons, traffic

    def _start(self, overrides: Mapping[str, object]) -> None:
        lab = self.lab
        began = time.monotonic()
        self.view.note(f"lab {lab.label}: {', '.join(lab.nodes)}")
        wait_for_addresses(lab)
        self.view.note(f"every link has its address, by router advertisements, after {time.monotonic() - began:.1f} s")
        if self.scenario.clock is not None:
            lab.set_clock(datetime.fromisoformat(f"{self.scenario.clock}+00:00").timestamp())
        lab.start_daemons(log_format="json", **overrides)
        if self._agents():
            self.dataplane = str(self._status("mobilenode")["dataplane"])
            registered, _ = self._registered(self.scenario.phases[0])
            self.view.note(f"{registered} care-of addresses registered after {time.monotonic() - began:.1f} s")
        self._start_traffic()

    def _start_traffic(self) -> None:
        ends = (self.scenario.correspondent, self.scenario.mobile)
        for (node, *local), (_, *remote), server in zip(ends, reversed(ends), (True, False), strict=True):
            addresses, peers = ({6 if ":" in one else 4: one for one in some} for some in (local, remote))
            spec = Spec(node, server, addresses, peers, str(self.lab.directory), LIFETIME, self.scenario.flows)
            path = self.lab[node].directory / "traffic.json"
            path.write_text(spec.dump())
            self.lab[node].python("labs.traffic", path, log="traffic.log")
            self.lab.until(ready_file(self.lab.directory, node).exists, 10, f"traffic at {node} is ready")
        self.lab.until(self._all_arrives, 10, "every flow arrives")

    def _all_arrives(self) -> bool:
        return all(path.exists() and path.stat().st_size for path in self._received_files())

    def _received_files(self) -> Iterator[Path]:
        for flow in self.scenario.flows:
            if isinstance(flow, Download):
                yield from (received_file(self.lab.directory, part, self.scenario.mobile[0]) for part in flow.parts)
            else:
                yield from (self._stream_files(flow.name, direction)[1] for direction in flow.directions)

    # The story

    def _play(self, phase: Phase) -> Played:
        self.view.phase(phase.name, phase.says)
        start = began = time.monotonic_ns()
        if self.played:  # what was under way when the phase before ended belongs to this one
            start = self.played[-1].window.end
        moments = []
        for action in phase.does:
            moments.append(carry_out(self.lab, action))
            self.marks.append(Mark(moments[-1], action.says))
            if isinstance(action, Carrier):
                self.carrier[action.link] = action.up
        registered, state = self._registered(phase)
        if phase.registered is not None and phase.does:
            self.view.note(f"registered anew after {(time.monotonic_ns() - began) / 1e6:.0f} ms")
        self._settle(phase)
        before, steady = self.sampler.now(), time.monotonic()
        self._watch(lambda: time.monotonic() - steady >= phase.lasts, phase.lasts + 1, "the end of the phase")
        window = Window(start, time.monotonic_ns())
        played = Played(phase.name, window, before, self.sampler.now(), tuple(moments), registered, state)
        self._note(phase, played)
        return played

    def _note(self, phase: Phase, played: Played) -> None:
        """For the person who watches: where the flows are, and how long they were interrupted."""
        for flow in self.scenario.flows:
            if flow.name in phase.on_link:
                routes = route_of(phase, flow)
                total = sum(played.packets(one, flow.name, direction) for one in self.carrier for direction in routes)
                right = sum(played.packets(link, flow.name, direction) for direction, link in routes.items())
                where = " and ".join(dict.fromkeys(routes.values()))
                self.view.note(f"{flow.name}: {right} of {total} packets counted on {where}")
        self._await_arrival(played.window.end, phase)
        for name in phase.gap_limit:
            gaps = (f"{self._gap(name, direction, played.window):.0f} ms {direction}" for direction in DIRECTIONS)
            self.view.note(f"{name}: longest gap {', '.join(gaps)}")

    def _gap(self, flow: str, direction: str, window: Window) -> float:
        ends = self._stream(flow, direction)
        return stream_report(ends.sent, ends.received, window).gap

    def _settle(self, phase: Phase) -> None:
        """Wait until, from one reading to the next, every flow moves on its link and nowhere else.

        If that does not come, the checks will say what moves where instead.
        """
        last = [self.sampler.now()]
        flows = [flow for flow in self.scenario.flows if flow.name in phase.on_link]

        def settled() -> bool:
            before, last[0] = last[0], self.sampler.now()
            step = Played(phase.name, Window(0, 0), before, last[0])
            for flow in flows:
                for direction, link in route_of(phase, flow).items():
                    moved = {one: step.packets(one, flow.name, direction) for one in self.carrier}
                    if not moved[link] == sum(moved.values()) > 0:
                        return False
            return True

        try:
            self._watch(settled, SETTLE_LIMIT, "every flow on its link", every=TICK)
        except NotInTime as error:
            self.view.note(str(error))

    def _await_arrival(self, moment: int, phase: Phase) -> None:
        """Wait until packets sent after `moment` arrive on every stream, so that what was sent before has come too."""
        streams = [f for f in self.scenario.flows if isinstance(f, Stream) and f.name in phase.on_link]
        files = [self._stream_files(flow.name, direction)[1] for flow in streams for direction in flow.directions]

        def later_ones_arrive() -> bool:
            records = [last_record(path) for path in files]
            return all(record is not None and record.sent > moment for record in records)

        try:
            self._watch(later_ones_arrive, SETTLE_LIMIT, "packets sent after the end of the phase arrive")
        except NotInTime as error:
            self.view.note(str(error))

    def _drain(self) -> None:
        """End the traffic so that whatever was not lost has arrived."""
        last = self.played[-1].window.end
        # Packets that a slower link still carries may come behind later ones.
        self._watch(lambda: time.monotonic_ns() > last + 500_000_000, 2, "the last packets")
        self._stop_traffic(self.scenario.correspondent[0])
        for flow in self.scenario.flows:
            if isinstance(flow, Download):
                try:
                    self.lab.until(partial(self._complete, flow), SETTLE_LIMIT, f"the end of {flow.name}")
                except NotInTime as error:
                    self.view.note(str(error))
        self._stop_traffic(self.scenario.mobile[0])

    def _complete(self, flow: Download) -> bool:
        for part in flow.parts:
            ends = self._connection(part)
            if not ends.sent or not ends.received or ends.sent[-1].number != ends.received[-1].number:
                return False
        return True

    def _stop_traffic(self, name: str) -> None:
        node = self.lab[name]
        if status := node.stop(node.process("traffic")):
            raise LabError(f"traffic at {name} ended with {status}:\n{(node.directory / 'traffic.log').read_text()}")

    # What is looked at

    def _agents(self) -> bool:
        return any(node.daemons for node in self.scenario.topology.nodes)

    def _status(self, program: str) -> dict[str, Any]:
        for node in self.lab.nodes.values():
            if program in node.daemons:
                return node.status(program) or {}
        raise LabError(f"no node runs {program}")

    def _registered(self, phase: Phase) -> tuple[int, str]:
        """Wait for both ends to hold exactly the phase's BIDs, with the same addresses, and for its state.

        Gives how many they agree on, and the state.
        """
        wanted = phase.registered
        if wanted is None:
            return 0, ""

        def reached() -> bool:
            return self._agreed().keys() == wanted and self._status("mobilenode").get("state") == phase.state

        try:
            self._watch(reached, REGISTRATION_LIMIT, "registration")
        except NotInTime as error:
            self.view.note(str(error))
        return len(self._agreed().keys() & wanted), str(self._status("mobilenode").get("state"))

    def _agreed(self) -> dict[int, str]:
        """BID and care-of address of every binding that both the mobile node and its home agent hold as active."""
        mobile = self._status("mobilenode")
        mine = {b["bid"]: b["care_of_address"] for b in mobile.get("bindings", ()) if b["state"] == "registered"}
        nodes = self._status("homeagent").get("nodes", ())
        theirs = {
            b["bid"]: b["inside"] or b["care_of_address"]  # as the mobile node has it, behind a NAT
            for node in nodes
            if node["home_address"] == mobile.get("home_address")
            for b in node["bindings"]
            if b["state"] == "active"
        }
        return {bid: address for bid, address in mine.items() if theirs.get(bid) == address}

    def _counting(self) -> list[Path]:
        """The namespaces of the nodes that count."""
        names = dict.fromkeys(link.counted_at[0] for link in self.scenario.topology.access_links.values())
        return [NETNS / self.lab[name].namespace for name in names]

    def _stream_files(self, flow: str, direction: str) -> tuple[Path, Path]:
        """Where the sender and the receiver of a stream record."""
        ends = (self.scenario.correspondent[0], self.scenario.mobile[0])
        sender, receiver = ends if direction == DOWN else ends[::-1]
        return sent_file(self.lab.directory, flow, sender), received_file(self.lab.directory, flow, receiver)

    def _stream(self, flow: str, direction: str) -> Ends:
        sent, received = self._stream_files(flow, direction)
        return Ends(decode_records(sent.read_bytes()), decode_records(received.read_bytes()))

    def _connection(self, part: str) -> Ends:
        """Of a download: the sender's one record comes when it has ended."""
        sent = sent_file(self.lab.directory, part, self.scenario.correspondent[0])
        received = received_file(self.lab.directory, part, self.scenario.mobile[0])
        records: list[Record] = decode_records(sent.read_bytes()) if sent.exists() else []
        return Ends(records, decode_records(received.read_bytes()))

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
        if not hasattr(self, "sampler") or not self.sampler.samples:
            return
        before, now = self._tick, self.sampler.samples[-1]
        if before is None:
            self._tick = now
        elif now.time - before.time >= TICK * 1e9:
            self._tick = now
            step, seconds = Played("", Window(0, 0), before, now), (now.time - before.time) / 1e9
            rates = []
            for name, link in self.scenario.topology.access_links.items():
                down, up = (
                    (now.octets(name, TOTAL, direction) - before.octets(name, TOTAL, direction)) * 8 / seconds
                    for direction in (DOWN, UP)
                )
                flows = [f.name for f in self.scenario.flows if any(step.packets(name, f.name, d) for d in DIRECTIONS)]
                capacity = link.qualities[0].rate or 1e9
                rates.append(LinkRate(name, capacity, down, up, tuple(flows), self.carrier[name]))
            self.view.rates(rates)

    # The verdict

    def _recording(self) -> Recording:
        links = {
            name: (link.qualities[0].rate, link.qualities[1].rate)
            for name, link in self.scenario.topology.access_links.items()
        }
        streams = {
            (flow.name, direction): self._stream(flow.name, direction)
            for flow in self.scenario.flows
            if isinstance(flow, Stream)
            for direction in directions_of(flow)
        }
        downloads = {
            part: self._connection(part)
            for flow in self.scenario.flows
            if isinstance(flow, Download)
            for part in flow.parts
        }
        reports = [mark for node in self.lab.nodes.values() for mark in agents_reports(node)]
        samples = tuple(self.sampler.samples)
        return Recording(links, self.scenario.flows, samples, self.marks, reports, self.played, streams, downloads)

    def _checks(self, recording: Recording | None) -> Iterator[Check]:
        assert recording is not None
        for phase, played in zip(self.scenario.phases, recording.phases, strict=True):
            for judge in self.scenario.judges(phase):
                yield from judge(recording, played)
        yield from whole_story(recording)
        reports = [recording.report(*stream, recording.whole) for stream in recording.streams]
        sent, lost, late = (sum(getattr(r, name) for r in reports) for name in ("sent", "lost", "reordered"))
        self.view.note(f"streams: {sent} packets sent, {lost} lost, {late} out of order")


def wait_for_addresses(lab: Lab) -> None:
    """Until every interface that does SLAAC has an address that is no longer tentative."""
    for node in lab.nodes.values():
        for interface in node.node.interfaces:
            if interface.autoconf:
                what = f"an address on {interface.name} of {node.name}"
                lab.until(partial(node.addresses, interface.name), ADDRESS_LIMIT, what)
