"""The message layouts of RFC 5555 as tshark reads them, inside UDP 4191 as they go over the wire: every field of every
option, and the headers in front.

tshark has no dissector for port 4191. Told that IP is inside, its own goes by the version that stands there, as RFC
5555 §4.1 does. Its `mip6.ipv4ha` fields hold the address and prefix length of an acknowledgement too.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import wrpcap

from mip6.forwarding import DSMIP_PORT, Encapsulation, IPAddress, Tunnel
from mip6.headers import build_packet
from mip6.messages import BindingAcknowledgement, BindingUpdate
from mip6.numbers import AckFlag, IPv4Status, OptionType, Protocol, UpdateFlag
from mip6.options import (
    BindingIdentifier,
    IPv4AddressAcknowledgement,
    IPv4CareOfAddress,
    IPv4HomeAddress,
    NatDetection,
    Option,
)
from mip6.outer import outer_packets

HOME, AGENT = IPv6Address("2001:db8::c"), IPv6Address("2001:db8::1")
CARE_OF, AGENT4 = IPv4Address("192.0.2.7"), IPv4Address("203.0.113.1")
CARE_OF6, AGENT6 = IPv6Address("2001:db8:a::7"), IPv6Address("2001:db8:1::1")
HOME4, NETWORK4 = IPv4Address("198.51.100.9"), IPv4Address("198.51.100.64")
NAT_PORT = 23456
UP = Tunnel(1, CARE_OF, AGENT4, encapsulation=Encapsulation.UDP)
DOWN = Tunnel(1, AGENT4, CARE_OF, encapsulation=Encapsulation.UDP, remote_port=NAT_PORT)
UP6 = Tunnel(1, CARE_OF6, AGENT6, encapsulation=Encapsulation.UDP)
EXPEDITED = 46 << 2


@dataclass(frozen=True)
class Case:
    """An inner packet, the tunnel it goes into, and what tshark is to find; of several of one name the outer first."""

    inner: bytes
    fields: dict[str, Any]
    tunnel: Tunnel = UP
    traffic_class: int = 0

    def packet(self) -> bytes:
        (packet,) = outer_packets(self.tunnel, self.inner, self.traffic_class, 0, zero_checksum=False)
        return packet


def update(*options: Option, flags: UpdateFlag = UpdateFlag.ACKNOWLEDGE) -> bytes:
    """From the home address: inside UDP no Home Address option is needed (RFC 5555 §4.2)."""
    return build_packet(HOME, AGENT, BindingUpdate(4711, flags, 420, options))


def ack(*options: Option) -> bytes:
    return build_packet(AGENT, HOME, BindingAcknowledgement(0, AckFlag(0), 4711, 400, options))


def outer4(source: IPAddress, destination: IPAddress, port: int = DSMIP_PORT, octets: int = 80) -> dict[str, Any]:
    """An outer IPv4 header that must not be fragmented, and a UDP header without checksum."""
    ip = {"ip.src": source, "ip.dst": destination, "ip.proto": Protocol.UDP, "ip.flags.df": 1, "ip.len": 20 + octets}
    udp = {"udp.srcport": DSMIP_PORT, "udp.dstport": port, "udp.length": octets, "udp.checksum": 0}
    return ip | udp


IN_UDP = {"ipv6.src": HOME, "ipv6.dst": AGENT, "ipv6.nxt": Protocol.MOBILITY}
CASES = {
    "the Binding Update inside UDP over IPv4": Case(
        update(IPv4HomeAddress(32, False, HOME4), IPv4CareOfAddress(CARE_OF)),
        outer4(CARE_OF, AGENT4)
        | IN_UDP
        | {
            "mip6.mhtype": 5,
            "mip6.bu.seqnr": 4711,
            "mip6.bu.lifetime": 105,
            "mip6.bu.f_flag": 0,
            "mip6.ipv4ha.preflen": 32,
            "mip6.ipv4ha.p_flag": 0,
            "mip6.ipv4ha.ha": HOME4,
            "mip6.ipv4coa.reserved": 0,
            "mip6.ipv4coa.addr": CARE_OF,
        },
    ),
    "the F flag": Case(
        update(IPv4CareOfAddress(CARE_OF), flags=UpdateFlag.FORCE_UDP),
        {"mip6.bu.f_flag": 1, "mip6.bu.a_flag": 0, "mip6.bu.p_flag": 0, "mip6.bu.t_flag": 0},
    ),
    "a mobile network prefix that is asked for": Case(
        update(IPv4HomeAddress(28, True, NETWORK4)),
        {"mip6.ipv4ha.preflen": 28, "mip6.ipv4ha.p_flag": 1, "mip6.ipv4ha.ha": NETWORK4},
    ),
    "any IPv4 home address": Case(
        update(IPv4HomeAddress(32, False, IPv4Address(0))), {"mip6.ipv4ha.preflen": 32, "mip6.ipv4ha.ha": "0.0.0.0"}
    ),
    "a BID with an IPv4 care-of address": Case(
        update(BindingIdentifier(3, 0, False, 9, CARE_OF)), {"mip6.bi.bid": 3, "mip6.bi.coa_ipv4": CARE_OF}
    ),
    "the Binding Update inside UDP over IPv6": Case(
        update(),
        {"ipv6.src": f"{CARE_OF6},{HOME}", "ipv6.dst": f"{AGENT6},{AGENT}", "ipv6.nxt": "17,135", "mip6.mhtype": 5}
        | {"udp.srcport": DSMIP_PORT, "udp.dstport": DSMIP_PORT, "udp.checksum.status": 1},
        UP6,
    ),
    "the Binding Acknowledgement to a port of a NAT": Case(
        ack(IPv4AddressAcknowledgement(0, 32, HOME4), NatDetection(False, 110)),
        outer4(AGENT4, CARE_OF, NAT_PORT)
        | {
            "ipv6.src": AGENT,
            "ipv6.dst": HOME,
            "mip6.mhtype": 6,
            "mip6.ba.seqnr": 4711,
            "mip6.ba.lifetime": 100,
            "mip6.ipv4aa.sts": 0,
            "mip6.ipv4ha.preflen": 32,
            "mip6.ipv4ha.ha": HOME4,
            "mip6.natd.f_flag": 0,
            "mip6.natd.reserved": 0,
            "mip6.natd.refresh_t": 110,
        },
        DOWN,
    ),
    "UDP is forced": Case(
        ack(NatDetection(True, 0)), {"mip6.natd.f_flag": 1, "mip6.natd.reserved": 0, "mip6.natd.refresh_t": 0}, DOWN
    ),
    "no NAT": Case(
        ack(NatDetection(False, 0xFFFFFFFF)), {"mip6.natd.f_flag": 0, "mip6.natd.refresh_t": 0xFFFFFFFF}, DOWN
    ),
    **{
        f"status {status.name}": Case(
            ack(IPv4AddressAcknowledgement(status, 0, HOME4)),
            {"mip6.ipv4aa.sts": int(status), "mip6.ipv4ha.preflen": 0, "mip6.ipv4ha.ha": HOME4},
            DOWN,
        )
        for status in IPv4Status
    },
    "an IPv6 packet inside UDP": Case(
        bytes(IPv6(src=str(HOME), dst="2001:db8:c::2") / UDP(sport=5004, dport=5004)),
        {"ip.dsfield": EXPEDITED, "ipv6.src": HOME, "ipv6.nxt": 17, "udp.dstport": "4191,5004"},
        traffic_class=EXPEDITED,
    ),
    "an IPv4 packet inside UDP": Case(
        bytes(IP(src=str(HOME4), dst="198.51.100.1") / UDP(sport=5004, dport=5005)),
        {"ip.src": f"{CARE_OF},{HOME4}", "ip.proto": "17,17", "udp.dstport": "4191,5005"},
    ),
    "an IPv4 packet inside UDP over IPv6": Case(
        bytes(IP(src=str(HOME4), dst="198.51.100.1") / UDP(sport=5004, dport=5005)),
        {"ipv6.src": CARE_OF6, "ip.src": HOME4, "udp.dstport": "4191,5005"},
        UP6,
    ),
}
# as drawn in RFC 5555 §3.1.1, §3.1.2, §3.2.1 and §3.2.2: type, length and reserved bits that tshark has no field for
LAYOUTS = {
    IPv4HomeAddress(24, True, HOME4): "1d06 6200 c6336409",
    IPv4CareOfAddress(CARE_OF): "2006 0000 c0000207",
    IPv4AddressAcknowledgement(IPv4Status.PREFIX_UNAUTHORIZED, 24, HOME4): "1e06 8560 c6336409",
    NatDetection(True, 110): "1f06 8000 0000006e",
}
FIELDS = sorted({name for case in CASES.values() for name in case.fields})


@pytest.fixture(scope="module")
def tshark(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What tshark says of each case, by field; all cases in one capture."""
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed")
    path: Path = tmp_path_factory.mktemp("oracles") / "cases.pcap"
    wrpcap(str(path), [case.packet() for case in CASES.values()], linktype=101)
    wanted = [word for name in FIELDS for word in ("-e", name)]
    inside = [f"-dudp.port=={port},ip" for port in (DSMIP_PORT, NAT_PORT)]
    command = [program, "-r", str(path), *inside, "-oudp.check_checksum:TRUE", "-Tfields", "-e_ws.malformed", *wanted]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    columns = ["malformed", *FIELDS]
    return {name: dict(zip(columns, line.split("\t"), strict=True)) for name, line in zip(CASES, lines, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_tshark_reads_what_goes_over_the_wire(tshark: dict[str, dict[str, str]], name: str) -> None:
    found, expected = tshark[name], CASES[name].fields
    assert found["malformed"] == ""
    read = {one: int(found[one], 0) if isinstance(value, int) else found[one] for one, value in expected.items()}
    assert read == {one: value if isinstance(value, int) else str(value) for one, value in expected.items()}


def test_tshark_was_asked_for_every_field_that_it_has_of_the_options() -> None:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed")
    listed = subprocess.run([program, "-G", "fields"], capture_output=True, text=True, check=True).stdout
    names = {line.split("\t")[2] for line in listed.splitlines() if line.startswith("F\t")}
    options = tuple(f"mip6.{one}." for one in ("ipv4ha", "ipv4aa", "ipv4coa", "natd"))
    assert {one for one in names if one.startswith(options)} - {"mip6.ipv4ha.reserved"} <= set(FIELDS)


@pytest.mark.parametrize("option", LAYOUTS, ids=lambda option: type(option).__name__)
def test_each_option_is_laid_out_as_the_rfc_draws_it(option: Option) -> None:
    octets = bytes.fromhex(LAYOUTS[option])
    assert octets in update(option)
    assert octets[0] == OptionType(option.NUMBER)
