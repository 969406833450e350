"""Work that network devices left undone: checksums and segments of inner packets.

A kernel leaves the checksum of its own packets to the device, and a virtual device hands them on as they are; and it
merges TCP segments that arrive in a row (GRO), also those inside tunnel packets. In both cases the checksum field holds
the sum over the pseudo header only, and nobody tells the reader of a raw socket. So what carries such a field is given
to the tunnel device with a header that says: finish the checksum, and cut into segments again.
"""

from __future__ import annotations

import struct

from mip6.forwarding import IPV4_HEADER, IPV6_HEADER
from mip6.numbers import Protocol

CHECKSUM_AT: dict[int, int] = {Protocol.TCP: 16, Protocol.UDP: 6}  # in the upper-layer header
_HEADER = struct.Struct("=BBHHHH")  # struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
VIRTIO_HEADER = _HEADER.size
NOTHING = bytes(VIRTIO_HEADER)  # for a packet that needs nothing
_NEEDS_CHECKSUM, _TCP4, _TCP6 = 1, 1, 4


def header_length(packet: bytes) -> int:
    """Of the IP header."""
    return IPV6_HEADER if packet[0] >> 4 == 6 else (packet[0] & 15) * 4


def upper_protocol(packet: bytes) -> int:
    """What stands behind the IP header: an upper-layer or an extension header; in IPv4, fragments count as such."""
    if packet[0] >> 4 == 6:
        return packet[6]
    return packet[9] if not (packet[6] & 0x3F or packet[7]) else Protocol.FRAGMENT


def pseudo_sum(packet: bytes) -> int:
    """The part of the pseudo header's sum that is the same for all packets of a flow."""
    if packet[0] >> 4 == 6:
        return int.from_bytes(packet[8:40], "big") + packet[6] - IPV6_HEADER
    return int.from_bytes(packet[12:20], "big") + packet[9] - header_length(packet)


def is_unfinished(checksum: int, flow_sum: int, size: int) -> bool:
    """Whether a packet of `size` octets has only the pseudo header's sum in its checksum field (RFC 8200 §8.1).

    One packet in 65535 looks so by chance: finishing its checksum then gives the value that it has.
    """
    return (flow_sum + size - checksum) % 0xFFFF == 0


def virtio_header(packet: bytes, mtu: int) -> bytes:
    """What to write in front of a whole IP packet. TCP that is larger than the tunnel device's `mtu` is cut to it."""
    if len(packet) < IPV4_HEADER:
        return NOTHING
    start, protocol = header_length(packet), upper_protocol(packet)
    offset = CHECKSUM_AT.get(protocol)
    if offset is None or len(packet) < start + offset + 2:
        return NOTHING
    at = start + offset
    if not is_unfinished(packet[at] << 8 | packet[at + 1], pseudo_sum(packet), len(packet)):
        return NOTHING
    if protocol != Protocol.TCP or len(packet) <= mtu:
        return _HEADER.pack(_NEEDS_CHECKSUM, 0, 0, 0, start, offset)
    headers = start + (packet[start + 12] >> 4) * 4
    kind = _TCP6 if packet[0] >> 4 == 6 else _TCP4
    return _HEADER.pack(_NEEDS_CHECKSUM, kind, headers, mtu - headers, start, offset)
