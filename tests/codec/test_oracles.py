"""Our messages as others read them: every field that tshark and scapy know, and scapy's own checksum.

Where the others are known to deviate from the RFCs, the deviation is named where it is left out:

* tshark 4.0 knows options 44 and 45 by name only, cuts two octets off the authenticator of AUTH, and verifies no
  checksum of a Mobility Header; it names several statuses wrongly, so numbers are compared and names are not.
* scapy has no option above 16 (no BID, flow or dual-stack option) and no message above 7, so these are tshark's alone;
  it has names for the flags of a Binding Update up to RFC 3963 only, and takes a Home Address option into the checksum
  only where no padding stands beside it.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers import inet6
from scapy.utils import wrpcap

from mip6.headers import build_packet
from mip6.messages import (
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingRevocationIndication,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    Heartbeat,
    HomeTest,
    HomeTestInit,
    Message,
)
from mip6.numbers import AckFlag, HeartbeatFlag, RevocationFlag, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    Authentication,
    BindingAuthorizationData,
    BindingIdentifier,
    BindingRefreshAdvice,
    IPv4AddressAcknowledgement,
    IPv4CareOfAddress,
    IPv4HomeAddress,
    MobileNetworkPrefix,
    MobileNodeIdentifier,
    NatDetection,
    NonceIndices,
    RestartCounter,
    ServiceSelection,
    VendorSpecific,
)

A, B, HOME, V4 = *(IPv6Address(f"2001:db8::{n}") for n in "abc"), IPv4Address("192.0.2.7")
COOKIE, TOKEN, MAC = b"\1\2\3\4\5\6\7\x08", b"abcdefgh", bytes(range(100, 112))
COOKIE_NUMBER, TOKEN_NUMBER = int.from_bytes(COOKIE, "big"), int.from_bytes(TOKEN, "big")
UPDATE_FLAGS = {  # tshark's field of each flag; B stands where O of RFC 5648 stands
    UpdateFlag.ACKNOWLEDGE: "bu.a_flag",
    UpdateFlag.HOME_REGISTRATION: "bu.h_flag",
    UpdateFlag.LINK_LOCAL: "bu.l_flag",
    UpdateFlag.KEY_MANAGEMENT: "bu.k_flag",
    UpdateFlag.MAP: "bu.m_flag",
    UpdateFlag.MOBILE_ROUTER: "nemo.bu.r_flag",
    UpdateFlag.PROXY: "bu.p_flag",
    UpdateFlag.FORCE_UDP: "bu.f_flag",
    UpdateFlag.TLV_HEADER: "bu.t_flag",
    UpdateFlag.OVERWRITE: "bu.b_flag",
}
ACK_FLAGS = {
    AckFlag.KEY_MANAGEMENT: "ba.k_flag",
    AckFlag.MOBILE_ROUTER: "nemo.ba.r_flag",
    AckFlag.PROXY: "ba.p_flag",
    AckFlag.TLV_HEADER: "ba.t_flag",
    AckFlag.BULK: "ba.b_flag",
}


@dataclass(frozen=True)
class Case:
    """A message, and what tshark's fields `mip6.*` and scapy's layers shall say of it."""

    message: Message
    tshark: dict[str, Any]
    scapy: dict[str, dict[str, Any]] = field(default_factory=dict)
    home_address: IPv6Address | None = None
    routing_address: IPv6Address | None = None

    def packet(self) -> bytes:
        ends = {"home_address": self.home_address, "routing_address": self.routing_address}
        return build_packet(A, B, self.message, **ends)


def update(*options: Any) -> BindingUpdate:
    return BindingUpdate(4711, UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION, 420, options)


def ack(status: int, *options: Any) -> BindingAcknowledgement:
    return BindingAcknowledgement(status, AckFlag.MOBILE_ROUTER, 4711, 400, options)


CASES = {
    "BRR": Case(BindingRefreshRequest(), {"mhtype": 0}, {"MIP6MH_BRR": {"mhtype": 0, "len": 0}}),
    "HoTI": Case(HomeTestInit(COOKIE), {"hoti.cookie": COOKIE_NUMBER}, {"MIP6MH_HoTI": {"cookie": COOKIE}}),
    "CoTI": Case(CareOfTestInit(COOKIE), {"coti.cookie": COOKIE_NUMBER}, {"MIP6MH_CoTI": {"cookie": COOKIE}}),
    "HoT": Case(
        HomeTest(9, COOKIE, TOKEN),
        {"hot.nindex": 9, "hot.cookie": COOKIE_NUMBER, "hot.token": TOKEN_NUMBER},
        {"MIP6MH_HoT": {"index": 9, "cookie": COOKIE, "token": TOKEN}},
    ),
    "CoT": Case(
        CareOfTest(8, COOKIE, TOKEN),
        {"cot.nindex": 8, "cot.cookie": COOKIE_NUMBER, "hot.token": TOKEN_NUMBER},
        {"MIP6MH_CoT": {"index": 8, "cookie": COOKIE, "token": TOKEN}},
    ),
    "BU": Case(
        update(),
        {"mhtype": 5, "bu.seqnr": 4711, "bu.a_flag": 1, "bu.h_flag": 1, "bu.k_flag": 0, "bu.lifetime": 105},
        {"MIP6MH_BU": {"seq": 4711, "mhtime": 105, "len": 1}},
        home_address=HOME,
    ),
    "BA": Case(
        ack(1),
        {"ba.status": 1, "nemo.ba.r_flag": 1, "ba.k_flag": 0, "ba.seqnr": 4711, "ba.lifetime": 100},
        {"MIP6MH_BA": {"status": 1, "seq": 4711, "mhtime": 100}},
        routing_address=HOME,
    ),
    "BA rejecting": Case(ack(135), {"ba.status": 135}, {"MIP6MH_BA": {"status": 135}}),
    "BE": Case(BindingError(2, HOME), {"be.status": 2, "be.haddr": HOME}, {"MIP6MH_BE": {"status": 2, "ha": HOME}}),
    "Heartbeat": Case(Heartbeat(HeartbeatFlag.UNSOLICITED, 70000), {"hb.seqnr": 70000, "hb.u_flag": 1, "hb.r_flag": 0}),
    "BRI": Case(
        BindingRevocationIndication(1, 77, RevocationFlag(0)),
        {"bri_br.type": 1, "bri_r.trigger": 1, "bri_seqnr": 77, "bri_ip": 0, "bri_iv": 0},
    ),
    "refresh advice": Case(
        ack(0, BindingRefreshAdvice(200)), {"bra.interval": 50}, {"MIP6OptBRAdvice": {"rinter": 50}}
    ),
    "alternate care-of address": Case(
        update(AlternateCareOfAddress(HOME)), {"acoa.acoa": HOME}, {"MIP6OptAltCoA": {"acoa": HOME}}
    ),
    "nonce indices": Case(
        update(NonceIndices(3, 4), BindingAuthorizationData(MAC)),
        {"ni.hni": 3, "ni.cni": 4, "bad.auth": MAC.hex()},
        {"MIP6OptNonceIndices": {"hni": 3, "coni": 4}, "MIP6OptBindingAuthData": {"olen": 12}},
    ),
    "mobile network prefix": Case(
        update(MobileNetworkPrefix(48, IPv6Address("2001:db8:f::"))),
        {"nemo.mnp.pfl": 48, "nemo.mnp.mnp": "2001:db8:f::"},
        {"MIP6OptMobNetPrefix": {"plen": 48, "prefix": "2001:db8:f::"}},
    ),
    "identifier and AUTH": Case(
        update(MobileNodeIdentifier(1, b"node@example.org"), Authentication(1, 256, MAC)),
        {"mnid.subtype": 1, "mnid.identifier": "node@example.org", "auth.subtype": 1, "auth.mobility_spi": 256},
        {
            "MIP6OptMNID": {"subtype": 1, "id": b"node@example.org"},
            "MIP6OptMsgAuth": {"subtype": 1, "mspi": 256, "authdata": MAC},
        },
    ),
    "BID": Case(update(BindingIdentifier(5)), {"bi.bid": 5, "bi.status": 0, "bi.h_flag": 0}),
    "BID with IPv6": Case(
        update(BindingIdentifier(6, home=True, care_of_address=B)), {"bi.bid": 6, "bi.h_flag": 1, "bi.coa_ipv6": B}
    ),
    "BID with IPv4": Case(update(BindingIdentifier(7, care_of_address=V4)), {"bi.bid": 7, "bi.coa_ipv4": V4}),
    "BID rejected": Case(ack(0, BindingIdentifier(8, 164)), {"bi.bid": 8, "bi.status": 164}),
    "dual stack": Case(
        update(IPv4HomeAddress(24, True, V4), IPv4CareOfAddress(V4)),
        {"ipv4ha.preflen": 24, "ipv4ha.p_flag": 1, "ipv4ha.ha": V4, "ipv4coa.addr": V4},
    ),
    "dual stack acknowledged": Case(
        ack(0, IPv4AddressAcknowledgement(0, 24, V4), NatDetection(True, 110)),
        {"ipv4aa.sts": 0, "natd.f_flag": 1, "natd.refresh_t": 110},
    ),
    "others": Case(
        update(RestartCounter(12), VendorSpecific(32473, 3, b"data"), ServiceSelection("internet")),
        {"rc": 12, "vsm.vendorId": 32473, "vsm.subtype": 3, "ss.identifier": "internet"},
    ),
    **{
        f"BU flag {one.name}": Case(
            BindingUpdate(1, one), {"bu.seqnr": 1} | {name: int(one is flag) for flag, name in UPDATE_FLAGS.items()}
        )
        for one in UPDATE_FLAGS
    },
    **{
        f"BA flag {one.name}": Case(
            BindingAcknowledgement(0, one), {"ba.status": 0} | {name: int(one is f) for f, name in ACK_FLAGS.items()}
        )
        for one in ACK_FLAGS
    },
}
FIELDS = sorted({name for case in CASES.values() for name in case.tshark})


@pytest.fixture(scope="module")
def tshark(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What tshark says of each case, by field; all cases in one capture."""
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed")
    path: Path = tmp_path_factory.mktemp("oracles") / "cases.pcap"
    wrpcap(str(path), [case.packet() for case in CASES.values()], linktype=101)
    wanted = [word for name in FIELDS for word in ("-e", f"mip6.{name}")]
    command = [program, "-r", str(path), "-T", "fields", "-e", "_ws.malformed", *wanted]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    assert len(lines) == len(CASES)
    columns = ["malformed", *FIELDS]
    return {name: dict(zip(columns, line.split("\t"), strict=True)) for name, line in zip(CASES, lines, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_tshark_reads_what_we_wrote(tshark: dict[str, dict[str, str]], name: str) -> None:
    found = tshark[name]
    expected = CASES[name].tshark
    assert found["malformed"] == ""
    read = {one: int(found[one], 0) if isinstance(value, int) else found[one] for one, value in expected.items()}
    assert read == {one: value if isinstance(value, int) else str(value) for one, value in expected.items()}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.scapy])
def test_scapy_reads_what_we_wrote(name: str) -> None:
    packet = inet6.IPv6(CASES[name].packet())
    for layer, fields in CASES[name].scapy.items():
        found = packet.getlayer(getattr(inet6, layer))
        if found is None:  # an option: in the list of its message
            found = next(option for option in packet.lastlayer().options if type(option).__name__ == layer)
        for one, expected in fields.items():
            value = found.getfieldval(one)
            assert value == (str(expected) if isinstance(expected, IPv6Address) else expected), one


def test_scapy_names_the_flags_of_an_update() -> None:
    packet = inet6.IPv6(build_packet(A, B, BindingUpdate(1, UpdateFlag(0xD400))))
    assert str(packet[inet6.MIP6MH_BU].flags) == "RKHA"


@pytest.mark.parametrize("name", CASES)
def test_scapy_computes_the_same_checksum(name: str) -> None:
    case = CASES[name]
    mh = case.packet()[40 + 24 * sum(one is not None for one in (case.home_address, case.routing_address)) :]
    upper = inet6.IPv6(src=str(case.home_address or A), dst=str(case.routing_address or B))
    assert inet6.in6_chksum(135, upper, mh[:4] + b"\0\0" + mh[6:]) == int.from_bytes(mh[4:6], "big")


def test_scapy_finds_the_home_address_of_a_routing_header_for_the_checksum() -> None:
    octets = CASES["BA"].packet()
    mh = octets[64:]
    below = inet6.IPv6(octets[:64]).lastlayer()
    assert isinstance(below, inet6.IPv6ExtHdrRouting)
    assert inet6.in6_chksum(135, below, mh[:4] + b"\0\0" + mh[6:]) == int.from_bytes(mh[4:6], "big")
