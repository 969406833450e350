"""What both daemons are: a shell around an engine. It reads events, calls `handle`, carries out; it decides nothing.

Actions wait for the end of the loop's turn and are then carried out in order; of several `ForwardingChanged` or
`KernelChanged` in one turn only the first is, as each hands over a whole state. What follows a `StoreNode` waits for
the disk. Whatever goes wrong unforeseen ends the daemon with its traceback: the next start finds all as it must be.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from ipaddress import IPv6Address
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from mip6 import actions, events
from mip6.actions import Action, KernelState
from mip6.dataplane import choose
from mip6.dataplane.interface import DataPlane, DataPlaneError
from mip6.forwarding import ForwardingTable
from mip6.system import log, neighbours, notify
from mip6.system.clock import clock
from mip6.system.command import UnusableError
from mip6.system.control import Answer, ControlServer, Handler
from mip6.system.links import LinkWatcher
from mip6.system.netlink import KernelApplier
from mip6.system.probes import Prober
from mip6.system.single import OnlyAgent
from mip6.system.sockets import Guard, PacketSender, SignallingTap
from mip6.system.sysctl import HomeLinkSettings, settings_warnings
from mip6.system.tun import TunError
from mip6.system.udp import UdpSockets
from mip6.udp import UdpEnds

TICK = 1.0  # seconds between looks at the clocks
CLOCK_JUMP = 0.5  # seconds by which the time of day may drift before the engine is told
GOODBYE_LIMIT = 5.0  # seconds for the engine's goodbyes


class Engine(Protocol):
    """What both engines have; docs/architecture.md says what it means."""

    def handle(self, event: events.Event, now: float) -> list[Action]: ...
    def next_deadline(self) -> tuple[float, str] | None: ...
    def forwarding_table(self) -> ForwardingTable: ...
    def kernel_state(self) -> KernelState: ...
    def status(self, now: float) -> dict[str, Any]: ...
    def explain(self, arguments: Mapping[str, object]) -> dict[str, Any]: ...


class Store(Protocol):
    """Where records go; `stored` is called with whether it is on disk."""

    def put(
        self, home_address: IPv6Address, record: Mapping[str, Any] | None, stored: Callable[[bool], None] | None = None
    ) -> None: ...


class Shell:
    """One daemon. `async with` opens and closes its sockets and devices, `serve()` is its life.

    `links` are watched access links; `home_link` gets its proxy settings; `router` says that packets are forwarded for
    others, `ipv4` that IPv4 is carried too; `zero_checksum` that UDP over IPv6 goes without (RFC 6935); `prober`
    measures the paths; `mtu` is the path MTU to the far ends. Leaving without an exception takes everything out of the
    kernel, unless `on_exit` says keep and the data plane goes on by itself.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        device: str,
        dataplane: str,
        shortcut: str,
        on_exit: str,
        control: str,
        mtu: int,
        store: Store | None = None,
        links: Sequence[str] = (),
        home_link: str | None = None,
        router: bool = True,
        ipv4: bool = False,
        zero_checksum: bool = False,
        prober: Prober | None = None,
    ) -> None:
        self.engine = engine
        self.commands: dict[str, Handler] = {}  # of the control socket, besides those of the engine
        self._prober = prober
        self._own, self._zero_checksum = engine.forwarding_table().address, zero_checksum
        self._device, self._mtu, self._store = device, mtu, store
        self._links, self._home_link, self._router, self._ipv4 = tuple(links), home_link, router, ipv4
        self._kind, self._shortcut, self._on_exit = dataplane, shortcut, on_exit
        self._control = ControlServer(control, self._command)
        self._memory = Path(control).with_suffix(".settings")
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn: list[Action] = []
        self._timer: asyncio.TimerHandle | None = None
        self._asked: dict[int, asyncio.Future[Mapping[str, object]]] = {}
        self._requests = 0
        self._offset = 0.0
        self._started = clock()
        self._stopping = False
        self._dataplane: DataPlane
        self._wanted = KernelState()

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Shell:
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._loop.set_exception_handler(self._fault)
        async with contextlib.AsyncExitStack() as stack:
            await self._control.start()  # first: a second daemon of the same name must not touch the kernel
            stack.push_async_callback(self._control.close)
            stack.callback(OnlyAgent().close)
            for warning in settings_warnings(self._router, self._links, self._ipv4):
                log.event("kernel_setting", "warning", problem=warning)
            if self._home_link is not None:
                self._home_link_settings = HomeLinkSettings(self._home_link, self._memory)
                stack.push(self._restore_home_link)
            self._guard = Guard(self._device)
            self._guard.install()
            self._sender = PacketSender()
            stack.callback(self._sender.close)
            self._udp = UdpSockets(self._own, self.handle, self.handle, zero_checksum=self._zero_checksum)
            stack.callback(self._udp.close)
            try:
                access = self._links or None
                self._dataplane = choose(self._kind, self._device, self._mtu, self.handle, access, self._shortcut)
                self._dataplane.use_udp(self._udp)
                self._dataplane.start()
            except (DataPlaneError, TunError) as error:
                raise UnusableError(str(error)) from error
            except OSError as error:
                raise UnusableError(f"data plane: {error}") from error
            stack.push(self._close_dataplane)
            self._kernel = KernelApplier(self._device)
            stack.callback(self._kernel.close)
            stack.push(self._clear_kernel)
            self._set_clock()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return await self._stack.__aexit__(kind, error, trace)

    @property
    def _keeps(self) -> bool:
        """Whether an orderly end leaves everything in the kernel, where it goes on by itself."""
        return self._on_exit == "keep" and self._dataplane.outlives

    def _restore_home_link(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or not self._keeps:
            self._home_link_settings.restore()

    def _clear_kernel(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._keeps:
            self._kernel.remove_all()
            self._guard.remove()

    def _close_dataplane(self, kind: type[BaseException] | None, *_: object) -> None:
        self._dataplane.stop(remove=kind is None and not self._keeps)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the rest; what it raises ends the daemon."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(error)

    def _fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._end(error if error is not None else RuntimeError(context["message"]))

    def _end(self, error: BaseException | None = None) -> None:
        if self._finished.done():
            return
        if error is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(error)

    # --- life --------------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Until the engine has said its goodbyes, or something failed that nobody foresaw."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self.perform([actions.ForwardingChanged(), actions.KernelChanged()])
        with contextlib.ExitStack() as stack:
            tap = SignallingTap(self.handle)
            stack.callback(tap.close)
            tap.start()
            if self._links:
                watcher = LinkWatcher(self._links, self._links_observed)
                stack.callback(watcher.close)
                watcher.start()
            if self._prober is not None:
                stack.callback(self._prober.close)
                self._prober.start(self.handle, lambda: self._dataplane.counters())
            self._arm()
            notify.ready()
            log.event("started", device=self._device, dataplane=self._dataplane.name)
            await self._finished
        log.event("stopped", device=self._device, kept=self._keeps)

    def handle(self, event: events.Event) -> None:
        """Give one event to the engine and carry out its answer."""
        self.perform(self.engine.handle(event, clock()))
        self._arm()

    def _links_observed(self, event: events.LinksObserved) -> None:
        self.handle(event)
        self.perform([actions.KernelChanged()])  # the kernel flushes routes with their link

    def _stop(self) -> None:
        if self._stopping or self._keeps:  # told twice, or nothing ends: no goodbyes
            self._end()
            return
        self._stopping = True
        notify.stopping()
        self._loop.call_later(GOODBYE_LIMIT, self._end)
        self.handle(events.ShuttingDown())

    def _set_clock(self) -> None:
        offset = time.time() - clock()
        if self._offset == 0.0 or abs(offset - self._offset) > CLOCK_JUMP:
            self._offset = offset
            self.perform(self.engine.handle(events.WallClockSet(offset), clock()))

    def _arm(self) -> None:
        """One timer: the engine's deadline or the next look at the clocks (loop time stops in a suspend)."""
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.engine.next_deadline()
        delay = TICK if deadline is None else min(TICK, max(0.0, deadline[0] - clock()))
        self._timer = self._loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._set_clock()
        deadline = self.engine.next_deadline()
        if deadline is not None and deadline[0] <= clock():
            self.handle(events.TimerExpired())
        else:
            self._arm()

    # --- actions -----------------------------------------------------------------------------------------------------

    def perform(self, todo: Sequence[Action]) -> None:
        """Carry out, in order, at the end of this turn; what follows a `StoreNode` once that is on disk."""
        stores = [index for index, action in enumerate(todo) if isinstance(action, actions.StoreNode)]
        self._queue(todo[: stores[0]] if stores else todo)
        for index, following in pairwise([*stores, len(todo)]):
            action = todo[index]
            assert isinstance(action, actions.StoreNode)
            self._keep(action, list(todo[index + 1 : following]))

    def _keep(self, action: actions.StoreNode, following: list[Action]) -> None:
        def stored(written: bool) -> None:
            # what is not on disk must not be acknowledged: the mobile node will ask again
            self._queue([one for one in following if written or not isinstance(one, actions.SendPacket)])

        if self._store is None:
            raise TypeError(f"no store for {action.home_address}")
        self._store.put(action.home_address, action.record, stored if following else None)

    def _queue(self, todo: Sequence[Action]) -> None:
        if todo and not self._turn:
            self._loop.call_soon(self._carry_out)
        self._turn += todo

    def _carry_out(self) -> None:
        """The actions of a turn in order. A kernel state that adds nothing waits for the others: it takes milliseconds,
        for which a link that was lost is felt the longer."""
        todo, self._turn = self._turn, []
        late: KernelState | None = None
        done: set[type[Action]] = set()
        for action in todo:
            match action:
                case actions.ForwardingChanged() | actions.KernelChanged() if type(action) in done:
                    continue
                case actions.ForwardingChanged():
                    table = self.engine.forwarding_table()
                    self._dataplane.set_table(table)
                    if self._prober is not None:
                        self._prober.set_table(table)
                case actions.KernelChanged():
                    state = self.engine.kernel_state()
                    if state.adds_to(self._wanted):
                        self._apply(state)
                    else:
                        late = state
                case actions.SendPacket(packet, outer=UdpEnds() as outer):
                    self._udp.send_signalling(outer, packet)
                case actions.SendPacket():
                    self._sender.send(action)
                case actions.DeliverLocally(packet):
                    self._dataplane.deliver(packet)
                case actions.CheckDuplicateAddress(address, interface):
                    self.spawn(self._check(address, interface))
                case actions.AnnounceNeighbour(address, interface, router):
                    self.spawn(neighbours.announce(address, interface, router))
                case actions.Report():
                    log.report(action)
                case actions.Answer(number, answer):
                    if not (asked := self._asked.pop(number)).done():  # cancelled: who asked has gone
                        asked.set_result(answer)
                case actions.ShutdownComplete():
                    self._end()
            done.add(type(action))
        if late is not None:
            self._apply(late)

    def _apply(self, state: KernelState) -> None:
        self._wanted = state
        self._kernel.apply(state)
        self._udp.set_endpoints(state.sockets)

    async def _check(self, address: IPv6Address, interface: str) -> None:
        duplicate = await neighbours.check_duplicate(address, interface)
        self.handle(events.DuplicateAddressChecked(address, duplicate))

    async def ask(self, command: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """Give the engine a request that it answers later. ValueError when it does not take it."""
        self._requests += 1
        asked: asyncio.Future[Mapping[str, object]] = self._loop.create_future()
        self._asked[self._requests] = asked
        try:
            self.handle(events.OperatorRequest(command, arguments, self._requests))
        except ValueError:
            del self._asked[self._requests]
            raise
        return await asked

    # --- control socket ----------------------------------------------------------------------------------------------

    def _command(self, request: Mapping[str, Any]) -> Answer:
        command = request.get("command")
        if not isinstance(command, str):
            raise ValueError('expected a "command"')
        if command == "status":
            return self._status()
        if command == "explain":
            return self.engine.explain(request)
        if command in self.commands:
            return self.commands[command](request)
        self.handle(events.OperatorRequest(command, {name: request[name] for name in request if name != "command"}))
        return {"ok": True}

    def _status(self) -> dict[str, Any]:
        status = self.engine.status(clock())
        counters = self._dataplane.counters()
        for node in status.get("nodes", [status]):
            for binding in node["bindings"]:
                home = IPv6Address(node["home_address"])
                binding |= counters.tunnel(home, binding["bid"])
                binding["path"] = None if self._prober is None else self._prober.status(home, binding["bid"])
        failures = {f"send_{name.lower()}": count for name, count in self._sender.failures.items()}
        return status | {
            "dataplane": self._dataplane.name,
            **self._dataplane.status(),
            "uptime": round(clock() - self._started, 1),
            "drops": dict(counters.drops),
            "probes": {} if self._prober is None else dict(self._prober.counts),
            "signalling": status.get("signalling", {}) | failures | dict(self._udp.counts),
        }
