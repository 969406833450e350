"""The emulated links of a lab, in a process of their own: `python -m labs.relay SPEC.json`.

    node a |interface veth|====|veth|  relay  |veth|====|veth interface| node b

It runs in a namespace of its own, where the far ends of the nodes' veths are, reads frames from one end by a packet
socket, and writes them to the other when `labs.emulation.Channel` says so. A modem's link has a TUN device at both
ends instead, raw IP without Ethernet header, as the network side of a cellular modem has. An end that is taken down
takes the other's carrier, as on a cable. The control socket changes figures while packets pass, and says since when.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, NoReturn, Protocol

from labs.emulation import Channel, Quality
from labs.inside import inside, is_up, set_up

_BATCH = 64  # packets read from one end before the other ends have their turn
_LARGEST = 9216  # octets of a frame
_BUFFER = 4 * 1024 * 1024  # octets that wait for us in a socket
_NICE = -15
_IDLE = 3600.0  # seconds to wait when nothing is under way
_PATIENCE = 1.0  # seconds for a request; nothing is relayed meanwhile, so our clients send it at once

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_TUNSETIFF, _TUNSETCARRIER = 0x400454CA, 0x400454E2
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_RTMGRP_LINK = 1
_LOST = (errno.ENETDOWN, errno.ENOBUFS, errno.EIO, errno.ENXIO)  # what a send to an end that is down may say


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: the interface in the node's namespace (a file), and the name of its peer here."""

    namespace: str
    interface: str
    peer: str


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One link; `down` is the direction from `a` to `b`. `modem`: both ends are TUN devices and have no peer."""

    name: str
    a: End
    b: End
    down: Quality
    up: Quality
    modem: bool = False


@dataclass(frozen=True, slots=True)
class Spec:
    """All links, the path of the control socket, and the seed of every random source."""

    control: str
    seed: int
    links: tuple[LinkSpec, ...]

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Spec:
        fields = json.loads(text)
        return cls(fields["control"], fields["seed"], tuple(_link_spec(link) for link in fields["links"]))


def _link_spec(fields: Mapping[str, Any]) -> LinkSpec:
    ends, qualities = (End(**fields["a"]), End(**fields["b"])), (Quality(**fields["down"]), Quality(**fields["up"]))
    return LinkSpec(fields["name"], *ends, *qualities, fields["modem"])


class Port(Protocol):
    """Where frames of one end come from and go to."""

    def fileno(self) -> int: ...

    def receive(self) -> bytes | None:
        """The next frame, None when there is none now."""

    def send(self, frame: bytes) -> None: ...

    def set_carrier(self, present: bool) -> None:
        """Whether the node at this end sees a carrier."""


class PacketPort:
    """The peer of a node's veth, here, by a packet socket."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._socket.bind((peer, _ETH_P_ALL))

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        try:
            return self._socket.recv(_LARGEST)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _LOST:  # told once when the end goes down
                raise
            return None

    def send(self, frame: bytes) -> None:
        with _losing():
            self._socket.send(frame)

    def set_carrier(self, present: bool) -> None:
        # An end sees no carrier while its peer is down, and is told so at once, which a TUN device's carrier is not.
        set_up(self._socket, self._peer, present)


class TunPort:
    """A TUN device inside a node: the modem's end. Whole IP packets, no Ethernet header."""

    def __init__(self, interface: str) -> None:
        """Opens the device in the present network namespace."""
        self._file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self._file, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _IFF_TUN | _IFF_NO_PI))

    def fileno(self) -> int:
        return self._file

    def receive(self) -> bytes | None:
        try:
            return os.read(self._file, _LARGEST)
        except BlockingIOError:
            return None

    def send(self, frame: bytes) -> None:
        with _losing():
            os.write(self._file, frame)

    def set_carrier(self, present: bool) -> None:
        fcntl.ioctl(self._file, _TUNSETCARRIER, struct.pack("i", present))


class NodeSide:
    """One end of a link: the interface inside the node, and our port to it.

    `news` becomes readable whenever an interface of the node may have gone up or down.
    """

    def __init__(self, end: End, *, modem: bool) -> None:
        self._interface = end.interface
        with inside(end.namespace):
            self._asking = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self.news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            self.news.bind((0, _RTMGRP_LINK))
            modem_port = TunPort(end.interface) if modem else None
        self.port: Port = modem_port or PacketPort(end.peer)
        if not modem:
            self._finish_packets()

    def is_up(self) -> bool:
        """Whether the interface is up now. The news there were are forgotten."""
        try:
            while self.news.recv(_LARGEST):
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more news than the socket holds: it is looked at all the same
                raise
        return is_up(self._asking, self._interface)

    def _finish_packets(self) -> None:
        """The node's kernel computes checksums and cuts segments itself: the frames that we see are whole."""
        value = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_STXCSUM, 0))
        fcntl.ioctl(
            self._asking, _SIOCETHTOOL, struct.pack("16sP16x", self._interface.encode(), ctypes.addressof(value))
        )


class Direction:
    """Moves the packets of one direction of a link: in by `source`, through the channel, out by `sink`."""

    def __init__(self, source: Port, sink: Port, quality: Quality, random: Random) -> None:
        self.channel = Channel(quality, random.random)
        self.source = source
        self._sink = sink
        self._under_way: deque[tuple[float, bytes]] = deque()

    def take(self) -> None:
        """Take in what has come."""
        now = time.monotonic()
        for _ in range(_BATCH):
            if (frame := self.source.receive()) is None:
                break
            if (due := self.channel.offer(len(frame), now)) is not None:
                self._under_way.append((due, frame))

    def deliver(self) -> float:
        """Send what is due, and say in how many seconds the next is."""
        while self._under_way:
            due, frame = self._under_way[0]
            if (left := due - time.monotonic()) > 0:
                return left
            self._under_way.popleft()
            if not self.channel.quality.cut:
                self._sink.send(frame)
        return _IDLE


class EmulatedLink:
    """Both directions of a link, and its carrier."""

    def __init__(self, spec: LinkSpec, seed: int) -> None:
        self.sides = [NodeSide(end, modem=spec.modem) for end in (spec.a, spec.b)]
        a, b = (side.port for side in self.sides)
        self.directions = {
            "down": Direction(a, b, spec.down, Random(f"{seed} {spec.name} down")),
            "up": Direction(b, a, spec.up, Random(f"{seed} {spec.name} up")),
        }

    def carry_on(self) -> None:
        """Give each end a carrier if the other is up."""
        a, b = self.sides
        b.port.set_carrier(a.is_up())
        a.port.set_carrier(b.is_up())


class Relay:
    """All links, and the control socket that changes them.

    A loop of its own, not asyncio's: it waits to the microsecond, and a packet costs half as much.
    """

    def __init__(self, spec: Spec) -> None:
        self._links = {link.name: EmulatedLink(link, spec.seed) for link in spec.links}
        self._directions = [direction for link in self._links.values() for direction in link.directions.values()]
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.bind(spec.control)
        self._control.listen()
        self._readers: dict[int, Callable[[], None]] = {self._control.fileno(): self._serve}
        for link in self._links.values():
            link.carry_on()
            self._readers |= {side.news.fileno(): link.carry_on for side in link.sides}
        self._readers |= {direction.source.fileno(): direction.take for direction in self._directions}

    def run(self) -> NoReturn:
        """Move packets until a signal ends the process."""
        descriptors = list(self._readers)
        while True:
            left = min([direction.deliver() for direction in self._directions])
            for ready in select.select(descriptors, (), (), left)[0]:
                self._readers[ready]()

    def _serve(self) -> None:
        """One request, one answer, as `mip6.system.control.request` has them; who dawdles is hung up on."""
        client, _ = self._control.accept()
        with client, contextlib.suppress(OSError):
            client.settimeout(_PATIENCE)
            answer = self._answer(json.loads(client.makefile().readline()))
            client.sendall(json.dumps(answer).encode() + b"\n")

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """`{"command": "set", "link": NAME, "down": {...}, "up": {...}}` with fields of Quality; or `status`."""
        try:
            if request["command"] == "set":
                for name, direction in self._links[request["link"]].directions.items():
                    direction.channel.quality = replace(direction.channel.quality, **request[name])
        except (KeyError, TypeError, ValueError) as error:
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}
        return {"ok": True, "at": time.monotonic_ns(), "links": {name: _counts(x) for name, x in self._links.items()}}


def _counts(link: EmulatedLink) -> dict[str, dict[str, int]]:
    return {
        name: {"passed": channel.passed, "lost": channel.lost, "overflowed": channel.overflowed}
        for name, channel in ((name, direction.channel) for name, direction in link.directions.items())
    }


@contextlib.contextmanager
def _losing() -> Iterator[None]:
    """What cannot be sent now is lost, as on any link; what should not happen is raised."""
    try:
        yield
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno not in _LOST:
            raise


def main() -> None:
    """Emulate the links that the specification file, the only argument, describes."""
    [path] = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    relay = Relay(Spec.load(Path(path).read_text()))
    gc.freeze()
    relay.run()


if __name__ == "__main__":
    main()
