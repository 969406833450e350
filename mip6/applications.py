"""Names for common sets of traffic, and for DSCPs: what `app = "web"` and `dscp = "EF"` mean. Pure.

Each application is a list of alternatives in the keys of a rule. They are seen from the correspondent, the server of
most of them: its port is the source port. Where endpoints choose ports freely (calls), their DSCP and the well-known
ports of session set-up and media relays are all that can be told from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Conditions = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Application:
    """A named set of traffic: a packet belongs to it when one of `alternatives` matches."""

    about: str
    alternatives: tuple[Conditions, ...]


def _ports(protocol: str | tuple[str, ...], *ports: str) -> Conditions:
    return {"protocol": protocol, "source_port": ports}


APPLICATIONS = {
    "voip": Application(
        "calls: DSCP EF and VOICE-ADMIT (RFC 3246, 5865), SIP, STUN and TURN, the default ports of RTP (RFC 3551)",
        (
            {"dscp": ("EF", "VOICE-ADMIT")},
            _ports(("tcp", "udp"), "5060-5061"),
            _ports("udp", "3478-3481", "5004-5005"),
        ),
    ),
    "video": Application(
        "conferences and streams: DSCP AF41 to AF43, AF31 to AF33 and CS4 (RFC 4594 §2.3), RTSP",
        ({"dscp": ("AF31-AF33", "CS4-AF43")}, _ports(("tcp", "udp"), "554")),
    ),
    "web": Application("HTTP and HTTPS, QUIC included", (_ports("tcp", "80", "443", "8080"), _ports("udp", "443"))),
    "mail": Application("sending and fetching mail", (_ports("tcp", "25", "110", "143", "465", "587", "993", "995"),)),
    "dns": Application("DNS, over TLS and QUIC too", (_ports(("tcp", "udp"), "53", "853"),)),
    "ntp": Application("network time", (_ports("udp", "123"),)),
    "ssh": Application("SSH and mosh", (_ports("tcp", "22"), _ports("udp", "60001-60999"))),
    "vpn": Application(
        "IKE, ESP, OpenVPN and WireGuard", (_ports("udp", "500", "4500", "1194", "51820"), {"protocol": "esp"})
    ),
    "bulk": Application(
        "what may wait: DSCP LE (RFC 8622), CS1 and AF11 to AF13 (RFC 4594 §2.3), FTP, rsync, BitTorrent",
        ({"dscp": ("LE", "CS1-AF13")}, _ports("tcp", "20-21", "873", "6881-6889"), _ports("udp", "6881-6889")),
    ),
    "ping": Application("ICMP and ICMPv6", ({"protocol": "icmp"},)),
}

# RFC 2474, 2597, 3246, 5865, 8622
DSCPS = {
    "DF": 0, "LE": 1, **{f"CS{n}": 8 * n for n in range(8)}, "EF": 46, "VOICE-ADMIT": 44,
    **{f"AF{n}{drop}": 8 * n + 2 * drop for n in range(1, 5) for drop in range(1, 4)},
}  # fmt: skip
