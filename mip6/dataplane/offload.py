"""Work that network devices left undone: checksums and segments of inner packets.

A kernel leaves the checksum of its own packets to the device, and a virtual device hands them on as they are; and it
merges TCP segments that arrive in a row (GRO), also those inside tunnel packets. In both cases the checksum field holds
the sum over the pseudo header only, and nobody tells the reader of a raw socket. So what carries such a field is given
to the tunnel device with a header that says: finish the checksum, and cut into segments again.
"""

from __future__ import annotations

import struct

from mip6.numbers import Protocol

IPV6_HEADER = 40
CHECKSUM_AT: dict[int, int] = {Protocol.TCP: 16, Protocol.UDP: 6}  # in the upper-layer header
_HEADER = struct.Struct("=BBHHHH")  # struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
VIRTIO_HEADER = _HEADER.size
NOTHING = bytes(VIRTIO_HEADER)  # for a packet that needs nothing
_NEEDS_CHECKSUM, _TCP6 = 1, 4


def pseudo_sum(header: bytes) -> int:
    """The part of the pseudo header's sum that is the same for all packets of a flow; `header` is the IPv6 header."""
    return int.from_bytes(header[8:40], "big") + header[6] - IPV6_HEADER


def is_unfinished(checksum: int, flow_sum: int, size: int) -> bool:
    """Whether a packet of `size` octets has only the pseudo header's sum in its checksum field (RFC 8200 §8.1).

    One packet in 65535 looks so by chance: finishing its checksum then gives the value that it has.
    """
    return (flow_sum + size - checksum) % 0xFFFF == 0


def virtio_header(packet: bytes, mtu: int) -> bytes:
    """What to write in front of `packet`. TCP that is larger than the tunnel device's `mtu` is cut to it."""
    offset = CHECKSUM_AT.get(packet[6])
    if offset is None or len(packet) < IPV6_HEADER + offset + 2:
        return NOTHING
    at = IPV6_HEADER + offset
    if not is_unfinished(packet[at] << 8 | packet[at + 1], pseudo_sum(packet), len(packet)):
        return NOTHING
    if packet[6] != Protocol.TCP or len(packet) <= mtu:
        return _HEADER.pack(_NEEDS_CHECKSUM, 0, 0, 0, IPV6_HEADER, offset)
    headers = IPV6_HEADER + (packet[52] >> 4) * 4
    return _HEADER.pack(_NEEDS_CHECKSUM, _TCP6, headers, mtu - headers, IPV6_HEADER, offset)
