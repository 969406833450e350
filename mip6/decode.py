"""`mip6 decode FILE`: prints every mobility message of a capture.

Scapy reads the file and its link layers; from the IPv6 header on our own codecs read, also inside tunnels: IPv6 in
IPv6, IPv6 in IPv4, and UDP port 4191 over either (RFC 5555). A message that is malformed or whose checksum is wrong is
printed with its error; the others are printed all the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

from mip6.headers import SignallingPacket, parse_packet
from mip6.icmp6 import decode_icmp6, is_mobility_icmp6
from mip6.messages import decode_message
from mip6.numbers import DSMIPV6_PORT, MessageType, OptionType, Protocol
from mip6.options import MalformedOption, UnknownOption, to_dict
from mip6.wire import FormError

MAXIMUM_NESTING = 4  # tunnels in tunnels


def add_parser(subparsers: Any) -> None:
    """Add `decode` to the command line of `mip6`."""
    parser = subparsers.add_parser("decode", help="print the mobility messages of a capture")
    parser.add_argument("file", help="pcap or pcapng file")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; exit status 2 when the file cannot be read, 1 when it breaks off."""
    try:
        for found in read_capture(arguments.file):
            print(json.dumps(found) if arguments.json else as_text(found))
    except CaptureError as error:
        print(f"mip6 decode: {error}", file=sys.stderr)
        return 2 if error.nothing_read else 1
    return 0


class CaptureError(Exception):
    """The capture cannot be read, or not to its end."""

    def __init__(self, message: str, nothing_read: bool) -> None:
        super().__init__(message)
        self.nothing_read = nothing_read


def read_capture(path: str) -> Iterator[dict[str, Any]]:
    """The mobility messages of a capture in their order, each as one JSON-able object."""
    from scapy.error import Scapy_Exception
    from scapy.utils import PcapReader

    try:
        reader = PcapReader(path)
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}", True) from None
    except (Scapy_Exception, EOFError):
        raise CaptureError(f"{path}: not a capture file (pcap or pcapng)", True) from None
    count = 0
    with reader:
        while True:
            try:
                frame = reader.read_packet()
            except EOFError:
                return
            except Exception as error:  # noqa: BLE001 - scapy raises whatever its parsers meet in a broken file
                raise CaptureError(f"{path}: broken after {count} packets: {error}", False) from None
            count += 1
            whole = getattr(frame, "wirelen", None)
            cut = whole is not None and whole > len(bytes(frame.original))
            for packet in _network_layer(frame):
                yield from _packet(packet, float(frame.time), cut, 0)


def _network_layer(frame: Any) -> Iterator[bytes]:
    """The IP packet inside the link layers, as it was captured."""
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    for kind in (IP, IPv6):
        layer = frame.getlayer(kind)
        if layer is not None:
            outer = frame.getlayer(IPv6 if kind is IP else IP)
            if outer is None or _depth(frame, layer) < _depth(frame, outer):
                yield bytes(layer.original) + (bytes(layer.payload.original) if not layer.original else b"")
                return


def _depth(frame: Any, wanted: Any) -> int:
    depth = 0
    layer = frame
    while layer is not wanted:
        layer, depth = layer.payload, depth + 1
    return depth


def _packet(data: bytes, time: float, cut: bool, depth: int) -> Iterator[dict[str, Any]]:
    """The messages in one IP packet, looking into tunnels."""
    if not data or depth > MAXIMUM_NESTING:
        return
    if data[0] >> 4 == 4:
        yield from _ipv4(data, time, cut, depth)
        return
    try:
        packet = parse_packet(data)
    except FormError as error:
        if _looks_like_signalling(data):
            source, destination = str(IPv6Address(data[8:24])), str(IPv6Address(data[24:40]))
            why = "cut off by the capture" if cut else str(error)
            yield {"time": time, "src": source, "dst": destination, "message": None, "error": why}
        return
    if packet.protocol == Protocol.IPV6 or packet.protocol == Protocol.IPV4:
        yield from _packet(packet.payload, time, cut, depth + 1)
    elif packet.protocol == Protocol.UDP:
        yield from _udp(packet.payload, time, cut, depth)
    elif packet.protocol == Protocol.MOBILITY:
        yield _message(packet, time)
    elif packet.protocol == Protocol.ICMPV6 and is_mobility_icmp6(packet.payload):
        yield _icmp6(packet, time)


def _ipv4(data: bytes, time: float, cut: bool, depth: int) -> Iterator[dict[str, Any]]:
    header = (data[0] & 15) * 4
    if len(data) < 20 or header < 20:
        return
    payload = data[header : int.from_bytes(data[2:4], "big") or len(data)]
    if data[9] in (Protocol.IPV6, Protocol.IPV4):
        yield from _packet(payload, time, cut, depth + 1)
    elif data[9] == Protocol.UDP:
        yield from _udp(payload, time, cut, depth)


def _udp(data: bytes, time: float, cut: bool, depth: int) -> Iterator[dict[str, Any]]:
    ports = {int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")}
    if DSMIPV6_PORT in ports and len(data) > 8 and data[8] >> 4 in (4, 6):  # RFC 5555 §8
        yield from _packet(data[8 : int.from_bytes(data[4:6], "big") or len(data)], time, cut, depth + 1)


def _looks_like_signalling(data: bytes) -> bool:
    kinds = (Protocol.MOBILITY, Protocol.DESTINATION_OPTIONS, Protocol.ROUTING)
    return len(data) >= 40 and data[0] >> 4 == 6 and data[6] in kinds


def _heading(packet: SignallingPacket, time: float) -> dict[str, Any]:
    found: dict[str, Any] = {"time": time, "src": str(packet.source), "dst": str(packet.destination)}
    if packet.home_address is not None:
        found["home_address"] = str(packet.home_address)
    if packet.routing_address is not None:
        found["routing_address"] = str(packet.routing_address)
    return found


def _message(packet: SignallingPacket, time: float) -> dict[str, Any]:
    found = _heading(packet, time)
    try:
        message = decode_message(packet.payload)
    except FormError as error:
        type_ = packet.payload[2] if len(packet.payload) > 2 else None
        found["message"] = MessageType(type_).name if type_ in set(MessageType) else None
        found["error"] = f"{error} (octet {error.offset} of the Mobility Header)"
        return found
    fields = to_dict(message)
    fields.pop("options", None)
    found |= {"message": type(message).__name__, "fields": fields, "options": [_option(o) for o in message.options]}
    bad = [option for option in message.options if isinstance(option, MalformedOption)]
    if not packet.checksum_is_right():
        found["error"] = "the checksum is wrong"
    elif bad:
        found["error"] = "; ".join(f"{_option_name(one.number)}: {one.reason}" for one in bad)
    return found


def _option(option: Any) -> dict[str, Any]:
    if isinstance(option, UnknownOption | MalformedOption):
        return {"name": _option_name(option.number), "fields": to_dict(option)}
    return {"name": type(option).__name__, "fields": to_dict(option)}


def _option_name(number: int) -> str:
    return OptionType(number).name if number in set(OptionType) else f"option {number}"


def _icmp6(packet: SignallingPacket, time: float) -> dict[str, Any]:
    found = _heading(packet, time)
    try:
        message = decode_icmp6(packet.payload)
    except FormError as error:
        return found | {"message": None, "error": str(error)}
    found |= {"message": type(message).__name__, "fields": to_dict(message), "options": []}
    if not packet.checksum_is_right():
        found["error"] = "the checksum is wrong"
    return found


def as_text(found: dict[str, Any]) -> str:
    """One message for a person: a line for it, a line for each option."""
    ends = f"{found['src']} > {found['dst']}"
    for key, word in (("home_address", "home"), ("routing_address", "routed to")):
        if key in found:
            ends += f" ({word} {found[key]})"
    lines = [f"{found['time']:.6f} {ends} {found['message'] or 'unknown message'}"]
    if found.get("fields"):
        lines[0] += "  " + _inline(found["fields"])
    lines += [f"    {option['name']}  {_inline(option['fields'])}" for option in found.get("options", [])]
    if "error" in found:
        lines.append(f"    error: {found['error']}")
    return "\n".join(lines)


def _inline(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items() if name != "name")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('name', '')}({_inline(value)})"
    if isinstance(value, list):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return str(value)
