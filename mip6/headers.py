"""Whole signalling packets: IPv6 header, Home Address option, type 2 routing header, Mobility Header or ICMPv6.

`parse_packet` walks the extension headers and says who the packet is from and for, as the upper layers see it:
the home address in place of the care-of address on both sides (RFC 6275 §6.3, §6.4, §11.3.1). `build_packet` is the
reverse, checksum included.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from mip6.messages import CHECKSUM, Message, encode_message
from mip6.numbers import HOME_ADDRESS_OPTION, ROUTING_TYPE_2, Icmp6Type, Protocol
from mip6.values import value
from mip6.wire import FormError, internet_checksum, pseudo_header

IPV6_HEADER = 40
DEFAULT_HOP_LIMIT = 64
# members of an enumeration take longer to look up
_MOBILITY, _DESTINATION_OPTIONS = int(Protocol.MOBILITY), int(Protocol.DESTINATION_OPTIONS)
_EXTENSIONS = frozenset((Protocol.HOP_BY_HOP, Protocol.DESTINATION_OPTIONS, Protocol.ROUTING))


@value
class SignallingPacket:
    """One received packet, taken apart down to its upper-layer header.

    `home_address` is that of a Home Address option, `routing_address` that of a type 2 routing header with one segment
    left; None where there is none. `payload` starts at `offset` in `packet` and has the type `protocol`.
    """

    packet: bytes
    source: IPv6Address
    destination: IPv6Address
    home_address: IPv6Address | None
    routing_address: IPv6Address | None
    protocol: int
    offset: int
    payload: bytes
    hop_limit: int

    def sender(self) -> IPv6Address:
        """The source as upper layers see it: the home address when there is one."""
        return self.home_address or self.source

    def receiver(self) -> IPv6Address:
        """The destination as upper layers see it."""
        return self.routing_address or self.destination

    def checksum_is_right(self) -> bool:
        """Whether the checksum over exactly the declared Mobility Header, or the whole ICMPv6 message, is right."""
        data = self.payload
        if self.protocol == _MOBILITY:
            if len(data) < 8:
                return False
            data = data[: (data[1] + 1) * 8]
        header = pseudo_header(self.sender(), self.receiver(), len(data), self.protocol)
        return internet_checksum(header + data) == 0


def parse_packet(packet: bytes) -> SignallingPacket:
    """Take an IPv6 packet apart; FormError when it is cut off or its extension headers are not well formed.

    Octets behind the IPv6 payload length are left out. A fragment is not signalling: its protocol is 44.
    """
    if len(packet) < IPV6_HEADER:
        raise FormError(f"IPv6 packet of {len(packet)} octets")
    if packet[0] >> 4 != 6:
        raise FormError(f"IP version {packet[0] >> 4}, not 6")
    end = IPV6_HEADER + (packet[4] << 8 | packet[5])
    if end > len(packet):
        raise FormError(f"IPv6 payload of {end - IPV6_HEADER} octets, {len(packet) - IPV6_HEADER} are here", 4)
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    home_address: IPv6Address | None = None
    routing_address: IPv6Address | None = None
    protocol, at = packet[6], IPV6_HEADER
    while protocol in _EXTENSIONS:
        if at + 8 > end:
            raise FormError(f"extension header {protocol} is cut off", at)
        stop = at + 8 * (packet[at + 1] + 1)
        if stop > end:
            raise FormError(f"extension header {protocol} runs over the end", at)
        if protocol == _DESTINATION_OPTIONS:
            found = _home_address(packet, at + 2, stop)
            if found is not None:
                if home_address is not None:
                    raise FormError("two Home Address options", at)  # RFC 6275 §6.3: at most one
                home_address = found
        elif protocol == Protocol.ROUTING and packet[at + 2] == ROUTING_TYPE_2 and packet[at + 3] == 1:
            if packet[at + 1] != 2:
                raise FormError("type 2 routing header of wrong length", at)  # RFC 6275 §6.4
            routing_address = IPv6Address(packet[at + 8 : at + 24])
        protocol, at = packet[at], stop
    payload = packet[at:end]
    return SignallingPacket(
        packet, source, destination, home_address, routing_address, protocol, at, payload, packet[7]
    )


def _home_address(packet: bytes, at: int, end: int) -> IPv6Address | None:
    found: IPv6Address | None = None
    while at < end:
        number = packet[at]
        if number == 0:
            at += 1
            continue
        if at + 1 >= end or at + 2 + packet[at + 1] > end:
            raise FormError(f"destination option {number} runs over the end", at)
        if number == HOME_ADDRESS_OPTION:
            if packet[at + 1] != 16:
                raise FormError(f"Home Address option of {packet[at + 1]} octets", at)
            if found is not None:
                raise FormError("two Home Address options", at)
            found = IPv6Address(packet[at + 2 : at + 18])
        at += 2 + packet[at + 1]
    return found


def ipv6_header(
    source: IPv6Address, destination: IPv6Address, next_header: int, length: int, hop_limit: int = DEFAULT_HOP_LIMIT
) -> bytes:
    """A plain IPv6 header, traffic class and flow label 0 (RFC 8200 §3)."""
    return (
        b"\x60\0\0\0" + length.to_bytes(2, "big") + bytes((next_header, hop_limit)) + source.packed + destination.packed
    )


def finish_message(mh: bytes, source: IPv6Address, destination: IPv6Address) -> bytes:
    """An encoded Mobility Header with its checksum for these upper-layer addresses (RFC 6275 §6.1.1)."""
    blank = mh[:4] + b"\0\0" + mh[6:]
    checksum = internet_checksum(pseudo_header(source, destination, len(mh), _MOBILITY) + blank)
    return mh[: CHECKSUM.start] + checksum.to_bytes(2, "big") + mh[CHECKSUM.stop :]


def build_packet(
    source: IPv6Address,
    destination: IPv6Address,
    message: Message | bytes,
    *,
    home_address: IPv6Address | None = None,
    routing_address: IPv6Address | None = None,
) -> bytes:
    """A whole packet with `message` (a message, or an encoded and signed Mobility Header).

    `home_address` goes into a Home Address option, `routing_address` into a type 2 routing header.
    """
    mh = encode_message(message) if isinstance(message, Message) else message
    body = finish_message(mh, home_address or source, routing_address or destination)
    return wrap(source, destination, Protocol.MOBILITY, body, home_address, routing_address)


def wrap(
    source: IPv6Address,
    destination: IPv6Address,
    next_header: int,
    body: bytes,
    home_address: IPv6Address | None,
    routing_address: IPv6Address | None,
) -> bytes:
    """`body`, checksum included, with what stands in front of it."""
    if home_address is not None:  # 8n+6 for the option: PadN of 4 in front (RFC 6275 §6.3)
        body = bytes((next_header, 2, 1, 2, 0, 0, HOME_ADDRESS_OPTION, 16)) + home_address.packed + body
        next_header = Protocol.DESTINATION_OPTIONS
    if routing_address is not None:
        body = bytes((next_header, 2, ROUTING_TYPE_2, 1, 0, 0, 0, 0)) + routing_address.packed + body
        next_header = Protocol.ROUTING
    return ipv6_header(source, destination, next_header, len(body)) + body


def parameter_problem(offending: bytes, source: IPv6Address, pointer: int, code: int = 0) -> bytes:
    """ICMPv6 Parameter Problem to the sender of `offending`, quoting what fits into 1280 octets (RFC 4443 §3.4)."""
    destination = IPv6Address(offending[8:24])
    data = bytes((Icmp6Type.PARAMETER_PROBLEM, code, 0, 0)) + pointer.to_bytes(4, "big") + offending[: 1280 - 48]
    checksum = internet_checksum(pseudo_header(source, destination, len(data), Protocol.ICMPV6) + data)
    data = data[:2] + checksum.to_bytes(2, "big") + data[4:]
    return ipv6_header(source, destination, Protocol.ICMPV6, len(data)) + data
