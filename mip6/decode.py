"""`mip6 decode FILE`: prints every mobility message of a capture.

Scapy reads the file (pcap or pcapng) and nothing else: from the link header on our own codecs read, also inside
tunnels: IPv6 in IPv6, IPv6 in IPv4, and UDP port 4191 over either (RFC 5555). A message that is cut off, malformed or
whose checksum is wrong is printed with its error; the others are printed all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, BinaryIO

from mip6.headers import IPV6_HEADER, SignallingPacket, parse_packet
from mip6.icmp6 import MESSAGES as ICMP6_MESSAGES
from mip6.icmp6 import decode_icmp6, is_mobility_icmp6
from mip6.messages import decode_message
from mip6.numbers import DSMIPV6_PORT, MessageType, Protocol
from mip6.options import OPTIONS, FlowIdentification, MalformedOption, UnknownOption
from mip6.plain import to_dict
from mip6.suboptions import MalformedSubOption
from mip6.wire import FormError

MAXIMUM_NESTING = 4  # tunnels in tunnels
ETHERNET, LINUX_COOKED, LINUX_COOKED_2 = 1, 113, 276  # link types, https://www.tcpdump.org/linktypes.html
BARE_IP = {12: 0, 14: 0, 101: 0, 228: 0, 229: 0, 0: 4, 108: 4}  # link type: octets before the IP packet
ETHERTYPES_IP, ETHERTYPES_VLAN = (0x0800, 0x86DD), (0x8100, 0x88A8)


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
    except BrokenPipeError:  # the reader has seen enough; nothing may be flushed into the pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


class CaptureError(Exception):
    """The capture cannot be read, or not to its end."""

    def __init__(self, message: str, nothing_read: bool) -> None:
        super().__init__(message)
        self.nothing_read = nothing_read


def read_capture(path: str) -> Iterator[dict[str, Any]]:
    """The mobility messages of a capture in their order, each as one object that JSON can hold.

    Keys: time (seconds since 1970), src, dst, message, fields, options (each name, fields), error (None: nothing is
    wrong); home_address and routing_address where the packet has them. CaptureError.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - the reading below is not to be covered by this `except`
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}", True) from None
    with file:
        for count, (data, whole, time, link_type) in enumerate(_frames(file, path)):
            cut = f"cut off by the capture after {len(data)} of {whole} octets" if whole > len(data) else None
            try:
                packet = _network_layer(data, link_type)
            except NotImplementedError:
                raise CaptureError(f"{path}: link type {link_type} is not supported", count == 0) from None
            yield from _packet(packet, time, cut, 0)


def _frames(file: BinaryIO, path: str) -> Iterator[tuple[bytes, int, float, int]]:
    """The captured octets of each frame, its length on the link, its time, and its link type."""
    from scapy.error import Scapy_Exception
    from scapy.utils import RawPcapReader

    try:
        reader: Any = RawPcapReader(file)
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}", True) from None
    except (Scapy_Exception, EOFError):
        what = "the file is empty" if file.tell() == 0 else "not a capture file (pcap or pcapng)"
        raise CaptureError(f"{path}: {what}", True) from None
    count = 0
    while True:
        try:
            data, about = reader._read_packet()
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - scapy raises whatever its parsers meet in a broken file
            raise CaptureError(f"{path}: broken after {count} packets: {error}", count == 0) from None
        count += 1
        if hasattr(about, "sec"):  # pcap
            time, link_type = about.sec + about.usec / (1e9 if reader.nano else 1e6), reader.linktype
        else:  # pcapng; a simple packet block has no time
            time = ((about.tshigh << 32) + about.tslow) / about.tsresol if about.tshigh is not None else 0.0
            link_type = about.linktype
        yield data, about.wirelen or len(data), time, link_type


def _network_layer(data: bytes, link_type: int) -> bytes:
    """The IP packet behind the link header, empty if it is another protocol; NotImplementedError for unknown links."""
    if link_type in BARE_IP:
        return data[BARE_IP[link_type] :]
    if link_type == LINUX_COOKED_2:
        type_at, start = 0, 20
    elif link_type == LINUX_COOKED:
        type_at, start = 14, 16
    elif link_type == ETHERNET:
        type_at, start = 12, 14
    else:
        raise NotImplementedError
    while (ethertype := int.from_bytes(data[type_at : type_at + 2], "big")) in ETHERTYPES_VLAN:
        type_at, start = start + 2, start + 4
    return data[start:] if ethertype in ETHERTYPES_IP else b""


def _packet(data: bytes, time: float, cut: str | None, depth: int) -> Iterator[dict[str, Any]]:
    """The messages in one IP packet, looking into tunnels. `cut`: why octets may be missing at the end."""
    if not data or depth > MAXIMUM_NESTING:
        return
    if data[0] >> 4 == 4:
        yield from _ipv4(data, time, cut, depth)
        return
    if data[0] >> 4 != 6 or len(data) < IPV6_HEADER:
        return
    problem: str | None = None
    try:
        packet = parse_packet(data)
    except FormError as error:
        problem = cut or str(error)
        try:  # what is there may still tell what it was
            packet = parse_packet(data[:4] + (len(data) - IPV6_HEADER).to_bytes(2, "big") + data[6:])
        except FormError:
            if data[6] in (Protocol.DESTINATION_OPTIONS, Protocol.ROUTING):
                ends = {"src": str(IPv6Address(data[8:24])), "dst": str(IPv6Address(data[24:40]))}
                yield {"time": time, **ends, "message": None, "fields": {}, "options": [], "error": problem}
            return
    if packet.protocol in (Protocol.IPV6, Protocol.IPV4):
        yield from _packet(packet.payload, time, problem, depth + 1)
    elif packet.protocol == Protocol.UDP:
        yield from _udp(packet.payload, time, problem, depth)
    elif packet.protocol == Protocol.MOBILITY:
        yield _heading(packet, time) | _message(packet, problem)
    elif packet.protocol == Protocol.ICMPV6 and is_mobility_icmp6(packet.payload):
        yield _heading(packet, time) | _icmp6(packet, problem)


def _ipv4(data: bytes, time: float, cut: str | None, depth: int) -> Iterator[dict[str, Any]]:
    header = (data[0] & 15) * 4
    if not 20 <= header <= len(data) or int.from_bytes(data[6:8], "big") & 0x1FFF:  # not the first fragment
        return
    payload = data[header : int.from_bytes(data[2:4], "big") or len(data)]
    if data[9] in (Protocol.IPV6, Protocol.IPV4):
        yield from _packet(payload, time, cut, depth + 1)
    elif data[9] == Protocol.UDP:
        yield from _udp(payload, time, cut, depth)


def _udp(data: bytes, time: float, cut: str | None, depth: int) -> Iterator[dict[str, Any]]:
    ports = {int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")}
    if DSMIPV6_PORT in ports and len(data) > 8 and data[8] >> 4 in (4, 6):  # RFC 5555 §8
        yield from _packet(data[8 : int.from_bytes(data[4:6], "big") or len(data)], time, cut, depth + 1)


def _heading(packet: SignallingPacket, time: float) -> dict[str, Any]:
    found: dict[str, Any] = {"time": time, "src": str(packet.source), "dst": str(packet.destination)}
    if packet.home_address is not None:
        found["home_address"] = str(packet.home_address)
    if packet.routing_address is not None:
        found["routing_address"] = str(packet.routing_address)
    return found


def _message(packet: SignallingPacket, problem: str | None) -> dict[str, Any]:
    try:
        message = decode_message(packet.payload)
    except FormError as error:
        type_ = packet.payload[2] if len(packet.payload) > 2 else None
        kind = MessageType(type_).name.title().replace("_", "") if type_ in set(MessageType) else None
        why = problem or f"{error} (octet {error.offset} of the Mobility Header)"
        return {"message": kind, "fields": {}, "options": [], "error": why}
    errors = [problem] if problem else []
    if not packet.checksum_is_right():
        errors.append("the checksum is wrong")
    for option in message.options:
        if isinstance(option, MalformedOption):
            name = _option_name(option)
            errors.append(f"{name}: {option.reason.removeprefix(f'{name}: ')}")
        elif isinstance(option, FlowIdentification):
            wrong = [one for one in option.suboptions if isinstance(one, MalformedSubOption)]
            errors += [f"{_option_name(option)}: sub-option {one.number}: {one.reason}" for one in wrong]
    fields = to_dict(message)
    fields.pop("options", None)
    options = [{"name": _option_name(option), "fields": to_dict(option)} for option in message.options]
    said = "; ".join(errors) or None
    return {"message": type(message).__name__, "fields": fields, "options": options, "error": said}


def _option_name(option: Any) -> str:
    if isinstance(option, UnknownOption | MalformedOption):
        return OPTIONS[option.number].__name__ if option.number in OPTIONS else f"option {option.number}"
    return type(option).__name__


def _icmp6(packet: SignallingPacket, problem: str | None) -> dict[str, Any]:
    name = ICMP6_MESSAGES[packet.payload[0]].__name__
    try:
        fields = to_dict(decode_icmp6(packet.payload))
    except FormError as error:
        return {"message": name, "fields": {}, "options": [], "error": problem or str(error)}
    if problem is None and not packet.checksum_is_right():
        problem = "the checksum is wrong"
    return {"message": name, "fields": fields, "options": [], "error": problem}


def as_text(found: dict[str, Any]) -> str:
    """One message for a person: a line for it, a line for each option."""
    ends = f"{found['src']} > {found['dst']}"
    for key, word in (("home_address", "home"), ("routing_address", "routed to")):
        if key in found:
            ends += f" ({word} {found[key]})"
    lines = [f"{found['time']:.6f} {ends} {found['message'] or 'unknown message'}"]
    if found["fields"]:
        lines[0] += "  " + _inline(found["fields"])
    lines += [f"    {option['name']}  {_inline(option['fields'])}" for option in found["options"]]
    if found["error"]:
        lines.append(f"    error: {found['error']}")
    return "\n".join(lines)


def _inline(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items() if name != "name")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('name', '')}({_inline(value)})"
    if isinstance(value, list):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    text = str(value)
    return text if text.isprintable() else ascii(text)  # a capture must not steer the terminal
