"""BPF programs at clsact, the tc hook in front of a device's input and output.

A filter of ours is known by its name, `mip6:DEVICE:PROGRAM`, with the tunnel device of the agent that it belongs to.
`:clsact` behind it says that we have made the clsact qdisc too, and so may take it away. What is not ours stays.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from mip6.system.rtnetlink import Requests, attribute, parse_attributes

_NEW_QDISC, _DELETE_QDISC, _GET_QDISC = 36, 37, 38  # linux/rtnetlink.h
_NEW_FILTER, _DELETE_FILTER, _GET_FILTER = 44, 45, 46
_TCMSG = struct.Struct("=BxxxiIII")  # struct tcmsg: family, ifindex, handle, parent, info
_KIND, _OPTIONS = 1, 2  # TCA_*
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11  # TCA_BPF_*
_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT
_CLSACT = 0xFFFFFFF1  # TC_H_CLSACT
_CLSACT_HANDLE = 0xFFFF0000
_ETH_P_ALL = 0x0003
_GONE = (errno.ENODEV, errno.ENOENT, errno.EINVAL)  # the device, its clsact or the filter, or several of them
PREFIX = "mip6"
_MADE = "clsact"


class Hook(IntEnum):
    """Where a filter sits; the values are those of `parent` in struct tcmsg."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, slots=True)
class Place:
    """One filter's place: device by index, hook, and preference: the lowest is asked first."""

    index: int
    hook: Hook
    preference: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of ours in the kernel. `made_clsact`: the qdisc is ours too."""

    place: Place
    handle: int
    program: str
    program_id: int
    made_clsact: bool


class Filters:
    """The filters of the agent with the tunnel device `device`. OSError as the kernel has it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._requests = Requests()

    @property
    def port(self) -> int:
        """By which notifications about our own changes are known."""
        return self._requests.port

    def close(self) -> None:
        """Let go of the socket; the filters stay."""
        self._requests.close()

    def present(self, index: int) -> list[Filter]:
        """Those of a device, on both hooks; none when it is gone."""
        found = []
        for hook in Hook:
            try:
                answers = self._requests.raw_dump(_GET_FILTER, _TCMSG.pack(0, index, 0, hook, 0))
            except OSError as error:
                if error.errno in _GONE:  # the device or its clsact
                    continue
                raise
            found += [one for answer in answers if (one := self._read(answer)) is not None]
        return found

    def attach(self, place: Place, program: str, fd: int) -> None:
        """Put a program in a place. What is there of ours is replaced without a packet going by in between."""
        before = next((one for one in self.present(place.index) if one.place == place), None)
        made = before.made_clsact if before is not None else self._make_clsact(place.index)
        handle = before.handle if before is not None else self._handle()
        name = ":".join((PREFIX, self._device, program, *([_MADE] if made else [])))
        options = (
            attribute(_BPF_FD, struct.pack("=I", fd))
            + attribute(_BPF_NAME, name.encode() + b"\0")
            + attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        )
        body = self._message(place, handle) + attribute(_KIND, b"bpf\0") + attribute(_OPTIONS, options)
        self._requests.raw_change(_NEW_FILTER, body, create=True, exclusive=before is None)

    def detach(self, held: Filter) -> None:
        """Take a filter away, and the clsact that we made once nothing is left on it."""
        try:
            body = self._message(held.place, held.handle) + attribute(_KIND, b"bpf\0")
            self._requests.raw_change(_DELETE_FILTER, body)
            if held.made_clsact and not self._used(held.place.index):
                body = _TCMSG.pack(0, held.place.index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_KIND, b"clsact\0")
                self._requests.raw_change(_DELETE_QDISC, body)
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _handle(self) -> int:
        """Two agents may share a device and a preference, but no handle: that of the tunnel device's index."""
        return socket.if_nametoindex(self._device)

    def _make_clsact(self, index: int) -> bool:
        """Whether we made it, now or with another filter of ours on this device."""
        body = _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_KIND, b"clsact\0")
        try:
            self._requests.raw_change(_NEW_QDISC, body, create=True, exclusive=True)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            return any(one.made_clsact for one in self.present(index))
        return True

    def _used(self, index: int) -> bool:
        """Whether any filter, of whomever, is left on a device's clsact."""
        return any(self._requests.raw_dump(_GET_FILTER, _TCMSG.pack(0, index, 0, hook, 0)) for hook in Hook)

    def _message(self, place: Place, handle: int) -> bytes:
        info = place.preference << 16 | socket.htons(_ETH_P_ALL)
        return _TCMSG.pack(0, place.index, handle, place.hook, info)

    def _read(self, answer: bytes) -> Filter | None:
        """A filter of ours from its message; None for any other."""
        _, index, handle, parent, info = _TCMSG.unpack_from(answer)
        attributes = parse_attributes(answer[_TCMSG.size :])
        if attributes.get(_KIND) != b"bpf\0" or not handle:
            return None
        options = parse_attributes(attributes.get(_OPTIONS, b""))
        prefix, device, program, *made = (options.get(_BPF_NAME, b"").rstrip(b"\0").decode() + ":::").split(":")[:4]
        if (prefix, device) != (PREFIX, self._device) or _BPF_ID not in options:
            return None
        (number,) = struct.unpack("=I", options[_BPF_ID])
        return Filter(Place(index, Hook(parent), info >> 16), handle, program, number, made == [_MADE])
