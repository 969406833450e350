"""`mip6 decode` reads what scapy wrote: every link layer and tunnel, and says of each bad message what is wrong."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.utils import wrpcap, wrpcapng

from mip6 import decode
from mip6.headers import build_packet
from mip6.icmp6 import HomeAgentDiscoveryRequest, build_icmp6
from mip6.messages import BindingAcknowledgement, BindingUpdate
from mip6.numbers import AckFlag, UpdateFlag
from mip6.options import (
    AlternateCareOfAddress,
    BindingIdentifier,
    FlowIdentification,
    ServiceSelection,
    UnknownOption,
)
from mip6.selectors import IPv6Selector
from mip6.suboptions import BindingReference, TrafficSelectorSubOption

CARE_OF, HOME, AGENT = (IPv6Address(f"2001:db8:{n}::{n}") for n in (1, 2, 3))
HOME_LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FLOW = FlowIdentification(
    7,
    10,
    suboptions=(BindingReference((1,)), TrafficSelectorSubOption(IPv6Selector(destination_port=(5000, 5010)))),
)
UPDATE = BindingUpdate(
    4711,
    UpdateFlag.ACKNOWLEDGE | UpdateFlag.HOME_REGISTRATION,
    420,
    (AlternateCareOfAddress(CARE_OF), BindingIdentifier(1, priority=5, care_of_address=CARE_OF), FLOW),
)
ACK = BindingAcknowledgement(0, AckFlag(0), 4711, 400, (BindingIdentifier(1),))
LINK6 = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x86DD)  # for octets scapy need not look into
UPDATE_PACKET = build_packet(CARE_OF, AGENT, UPDATE, home_address=HOME)
ACK_PACKET = build_packet(AGENT, CARE_OF, ACK, routing_address=HOME)
TUNNEL = IPv6(src=str(AGENT), dst=str(CARE_OF))


def messages(path: Path) -> list[dict[str, Any]]:
    return list(decode.read_capture(str(path)))


def captured(tmp_path: Path, *frames: Any) -> list[dict[str, Any]]:
    wrpcap(str(tmp_path / "one.pcap"), list(frames))
    return messages(tmp_path / "one.pcap")


def assert_is_update(found: dict[str, Any]) -> None:
    assert (found["src"], found["dst"], found["home_address"]) == (str(CARE_OF), str(AGENT), str(HOME))
    assert (found["message"], found["error"]) == ("BindingUpdate", None)
    fields = {"sequence": 4711, "flags": ["ACKNOWLEDGE", "HOME_REGISTRATION"], "lifetime": 420}
    assert found["fields"] == fields
    names = [option["name"] for option in found["options"]]
    assert names == ["AlternateCareOfAddress", "BindingIdentifier", "FlowIdentification"]
    assert found["options"][1]["fields"]["care_of_address"] == str(CARE_OF)
    assert found["options"][2]["fields"]["suboptions"][1]["selector"]["destination_port"] == [5000, 5010]


FRAMES = {
    "ethernet": HOME_LINK / IPv6(UPDATE_PACKET),
    "vlan": HOME_LINK / Dot1Q(vlan=7) / IPv6(UPDATE_PACKET),
    "raw IP": IPv6(UPDATE_PACKET),
    "IPv6 in IPv6": HOME_LINK / TUNNEL / IPv6(UPDATE_PACKET),
    "two tunnels": TUNNEL / IPv6(src="2001:db8::5", dst="2001:db8::6") / IPv6(UPDATE_PACKET),
    "IPv6 in IPv4": HOME_LINK / IP(src="192.0.2.1", dst="192.0.2.2", proto=41) / UPDATE_PACKET,
    "UDP over IPv4": HOME_LINK / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=7, dport=4191) / UPDATE_PACKET,
    "UDP over IPv6": TUNNEL / UDP(sport=4191, dport=4191) / UPDATE_PACKET,
    "trailer": HOME_LINK / IPv6(UPDATE_PACKET) / b"\0\0\0\0\0\0",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("write", [wrpcap, wrpcapng], ids=["pcap", "pcapng"])
def test_an_update_is_read_in_every_wrapping(tmp_path: Path, frame: Any, write: Any) -> None:
    frame = frame.copy()
    frame.time = 1700000000.25
    write(str(tmp_path / "capture"), [frame])
    (found,) = messages(tmp_path / "capture")
    assert found["time"] == pytest.approx(1700000000.25, abs=1e-5)
    assert_is_update(found)


def test_an_acknowledgement_behind_a_routing_header_names_where_it_is_routed(tmp_path: Path) -> None:
    (found,) = captured(tmp_path, HOME_LINK / IPv6(ACK_PACKET))
    assert (found["message"], found["routing_address"], found["error"]) == ("BindingAcknowledgement", str(HOME), None)
    assert found["fields"]["status"] == "ACCEPTED (0)"


def test_home_agent_discovery_is_a_mobility_message(tmp_path: Path) -> None:
    (found,) = captured(tmp_path, LINK6 / build_icmp6(CARE_OF, AGENT, HomeAgentDiscoveryRequest(9, True)))
    assert (found["message"], found["error"]) == ("HomeAgentDiscoveryRequest", None)
    assert found["fields"] == {"identifier": 9, "mobile_router": True, "unused": 0}


def test_other_traffic_is_passed_over(tmp_path: Path) -> None:
    keepalive = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=4191, dport=4191) / b"\0"
    other = TUNNEL / UDP(sport=53, dport=53) / UPDATE_PACKET
    found = captured(tmp_path, HOME_LINK / keepalive, HOME_LINK / other, HOME_LINK / IPv6(ACK_PACKET))
    assert [one["message"] for one in found] == ["BindingAcknowledgement"]


def damaged(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes((value,)) + packet[at + 1 :]


def test_a_wrong_checksum_is_said_and_the_next_message_is_read(tmp_path: Path) -> None:
    wrong = damaged(UPDATE_PACKET, 40 + 24 + 7, 99)  # the low octet of the sequence number
    first, second = captured(tmp_path, LINK6 / wrong, HOME_LINK / IPv6(UPDATE_PACKET))
    assert first["error"] == "the checksum is wrong"
    assert first["fields"]["sequence"] != 4711
    assert_is_update(second)


def test_a_malformed_option_is_named_beside_the_good_ones(tmp_path: Path) -> None:
    bad = UnknownOption(4, b"\0\0\0")  # Nonce Indices has 4 octets
    message = BindingUpdate(1, UpdateFlag(0), 0, (bad, BindingIdentifier(1), UnknownOption(250, b"x")))
    (found,) = captured(tmp_path, LINK6 / build_packet(CARE_OF, AGENT, message))
    assert [option["name"] for option in found["options"]] == ["NonceIndices", "BindingIdentifier", "option 250"]
    assert found["error"] == "NonceIndices: 3 octets, expected 4"
    assert found["options"][0]["fields"]["data"] == "000000"


def test_a_malformed_selector_is_named(tmp_path: Path) -> None:
    packet = build_packet(CARE_OF, AGENT, BindingUpdate(1, UpdateFlag(0), 0, (FLOW,)))
    at = packet.index(bytes((3, 10, 2, 0))) + 4  # the flags: the end of source without its start
    (found,) = captured(tmp_path, LINK6 / damaged(packet, at, 0x40))
    assert "the checksum is wrong" in found["error"]
    assert "FlowIdentification: sub-option 3: traffic selector has the end of source" in found["error"]


def test_an_option_that_runs_over_the_end_leaves_the_name_of_the_message(tmp_path: Path) -> None:
    packet = build_packet(CARE_OF, AGENT, BindingUpdate(1, UpdateFlag(0), 0, (UnknownOption(250, b"1234567890"),)))
    at = packet.index(b"1234567890") - 1
    (found,) = captured(tmp_path, LINK6 / damaged(packet, at, 200))
    assert (found["message"], found["fields"], found["options"]) == ("BindingUpdate", {}, [])
    assert found["error"] == "option 250 of 200 octets runs over the end (octet 12 of the Mobility Header)"


@pytest.mark.parametrize("kept", range(14 + 40, 14 + len(UPDATE_PACKET)))
def test_a_packet_the_capture_cut_is_reported_wherever_it_was_cut(tmp_path: Path, kept: int) -> None:
    frame = Ether(bytes(HOME_LINK / IPv6(UPDATE_PACKET))[:kept])
    frame.wirelen = 14 + len(UPDATE_PACKET)
    (found,) = captured(tmp_path, frame)
    assert found["error"] == f"cut off by the capture after {kept} of {frame.wirelen} octets"
    assert (found["src"], found["dst"]) == (str(CARE_OF), str(AGENT))
    assert found["message"] == ("BindingUpdate" if kept >= 14 + 40 + 24 + 3 else None)


def test_a_cut_packet_in_a_tunnel_is_reported(tmp_path: Path) -> None:
    whole = bytes(HOME_LINK / TUNNEL / IPv6(UPDATE_PACKET))
    frame = Ether(whole[:-30])
    frame.wirelen = len(whole)
    (found,) = captured(tmp_path, frame)
    assert (found["message"], found["src"]) == ("BindingUpdate", str(CARE_OF))
    assert found["error"].startswith("cut off by the capture")


def test_the_command_prints_json_or_text(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcap"
    wrpcap(str(path), [HOME_LINK / IPv6(UPDATE_PACKET), HOME_LINK / IPv6(ACK_PACKET)])
    command = [sys.executable, "-m", "mip6.cli", "decode", str(path)]
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert lines == json.loads(json.dumps(messages(path)))
    assert [line["message"] for line in lines] == ["BindingUpdate", "BindingAcknowledgement"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert f"{CARE_OF} > {AGENT} (home {HOME}) BindingUpdate  sequence=4711" in text[0]
    assert text[1] == f"    AlternateCareOfAddress  care_of_address={CARE_OF}"
    assert "destination_port=[5000, 5010]" in text[3]
    assert f"(routed to {HOME}) BindingAcknowledgement  status=ACCEPTED (0)" in text[4]


def test_a_message_cannot_steer_the_terminal(tmp_path: Path) -> None:
    message = BindingUpdate(1, UpdateFlag(0), 0, (ServiceSelection("a\x1b[2Jb\n"),))
    (found,) = captured(tmp_path, LINK6 / build_packet(CARE_OF, AGENT, message))
    assert decode.as_text(found).splitlines()[1] == r"    ServiceSelection  identifier='a\x1b[2Jb\n'"


FILES = {
    "empty": (b"", "the file is empty"),
    "text": (b"these are the voyages of the mobile router", "not a capture file (pcap or pcapng)"),
    "short pcap header": (b"\xd4\xc3\xb2\xa1\x02\x00", "not a capture file (pcap or pcapng)"),
    "short pcapng header": (b"\x0a\x0d\x0d\x0a\x1c", "not a capture file (pcap or pcapng)"),
}


@pytest.mark.parametrize(("content", "meant"), FILES.values(), ids=FILES)
def test_what_is_no_capture_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, meant: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert decode.run(argparse.Namespace(file=str(path), json=False)) == 2
    assert capsys.readouterr() == ("", f"mip6 decode: {path}: {meant}\n")


def test_a_missing_file_and_a_directory_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, meant in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        assert decode.run(argparse.Namespace(file=str(path), json=False)) == 2
        assert capsys.readouterr() == ("", f"mip6 decode: {path}: {meant}\n")


def test_a_link_type_nobody_reads_is_said(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcap"
    wrpcap(str(path), [b"beacon"], linktype=105)  # IEEE 802.11
    with pytest.raises(decode.CaptureError, match="link type 105 is not supported"):
        messages(path)
