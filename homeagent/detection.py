"""First registrations that wait for duplicate address detection on the home link (RFC 6275 §10.3.1)."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address

from homeagent.admission import is_newer
from mip6.events import PacketReceived
from mip6.headers import SignallingPacket, parse_packet
from mip6.messages import BindingUpdate, decode_message


class DuplicateDetection:
    """At most one Binding Update for each home address, the newest: that is the one to answer."""

    def __init__(self) -> None:
        self._waiting: dict[IPv6Address, PacketReceived] = {}

    def wait(self, home: IPv6Address, event: PacketReceived) -> bool:
        """This Binding Update waits, in place of the one before. Whether the check is still to be asked for."""
        begins = home not in self._waiting
        self._waiting[home] = event
        return begins

    def take(self, home: IPv6Address) -> tuple[PacketReceived, SignallingPacket, BindingUpdate] | None:
        """The check is done: what waited for it; None: nothing does any more."""
        event = self._waiting.pop(home, None)
        return None if event is None else (event, *_taken_apart(event))

    def withdraw(self, home: IPv6Address, deregistration: BindingUpdate) -> None:
        """A deregistration, answered that there is nothing to delete, ends an earlier first registration that still
        waits: else that would bind what its mobile node believes gone."""
        event = self._waiting.get(home)
        if event is not None:
            _, registration = _taken_apart(event)
            if is_newer(deregistration.sequence, registration.sequence):
                del self._waiting[home]

    def keep(self, wanted: Callable[[IPv6Address], bool]) -> None:
        """Only what waits for these home addresses goes on waiting."""
        self._waiting = {home: event for home, event in self._waiting.items() if wanted(home)}


def _taken_apart(event: PacketReceived) -> tuple[SignallingPacket, BindingUpdate]:
    packet = parse_packet(event.packet)
    update = decode_message(packet.payload)
    assert isinstance(update, BindingUpdate)
    return packet, update
