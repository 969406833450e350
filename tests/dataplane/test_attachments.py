"""Which program belongs to which device."""

from __future__ import annotations

import pytest

from mip6.dataplane.attachments import ACCESS_PREFERENCE, SERVED_PREFERENCE, Device, wanted
from mip6.system.trafficcontrol import Hook, Place

ETHERNET, TUN, PPP, GRE = 1, 65534, 512, 778
TUNNEL = Device(2, "mip0", TUN)
WLAN, MODEM, LAN = Device(3, "wlan0", ETHERNET), Device(4, "wwan0", TUN), Device(5, "lan0", ETHERNET)
LOOPBACK = Device(1, "lo", 772, loopback=True)
LINKS = ("wlan0", "wwan0")
FROM_TUNNEL = {Place(2, Hook.EGRESS, SERVED_PREFERENCE): "encap_egress"}


def arrives(device: Device, program: str) -> dict[Place, str]:
    return {Place(device.index, Hook.INGRESS, ACCESS_PREFERENCE): program}


def served(device: Device, program: str) -> dict[Place, str]:
    return {Place(device.index, Hook.INGRESS, SERVED_PREFERENCE): program}


def test_a_mobile_router_decapsulates_on_its_links_and_takes_the_short_cut_from_all_others() -> None:
    found = wanted([LOOPBACK, TUNNEL, WLAN, MODEM, LAN], "mip0", LINKS, shortcut=True)
    links = arrives(WLAN, "decap_ingress") | arrives(MODEM, "decap_raw")
    assert found == FROM_TUNNEL | links | served(LAN, "encap_ingress")
    assert wanted([LOOPBACK, TUNNEL, WLAN, MODEM, LAN], "mip0", LINKS, shortcut=False) == FROM_TUNNEL | links


def test_at_a_home_agent_every_device_is_both() -> None:
    found = wanted([LOOPBACK, TUNNEL, WLAN, MODEM], "mip0", None, shortcut=True)
    arriving = arrives(WLAN, "decap_ingress") | arrives(MODEM, "decap_raw")
    assert found == FROM_TUNNEL | arriving | served(WLAN, "encap_ingress") | served(MODEM, "encap_raw")


@pytest.mark.parametrize("device", [Device(6, "eth1", ETHERNET, port=True), Device(6, "gre1", GRE), LOOPBACK])
def test_ports_and_devices_of_other_kinds_go_without(device: Device) -> None:
    assert wanted([TUNNEL, device], "mip0", None, shortcut=True) == FROM_TUNNEL


def test_point_to_point_protocol_has_no_header_that_the_programs_would_see() -> None:
    assert wanted([Device(6, "ppp0", PPP)], "mip0", ("ppp0",), shortcut=False) == arrives(
        Device(6, "ppp0", PPP), "decap_raw"
    )
