"""A forwarding table as contents of the fast path's maps, and the programs that read them.

How the programs of `fastpath.bpf.o` are attached (all of them tc programs in direct action mode, on clsact):

    encap_egress    egress of the tunnel device (a TUN: no link-layer header)
    encap_ingress   ingress of a served interface with Ethernet header: the short cut
    encap_raw       the same, of a served interface without link-layer header
    decap_ingress   ingress of an access device with Ethernet header (ARPHRD_ETHER, loopback)
    decap_raw       ingress of an access device without (ARPHRD_NONE, ARPHRD_RAWIP, ARPHRD_PPP): modem, PPP, TUN

What a program does not handle it leaves as it is and returns TC_ACT_UNSPEC, so that filters behind it and then the
stack see it; what is in the way of a tunnel arrives at the reader of the tunnel device. A packet that a program counted
as dropped is gone (TC_ACT_SHOT) and reaches nobody else.

All programs of one object share its maps, so one `FastPathMaps` serves all attachments. A program is replaced in place
by another object's when the tags differ (`libbpf.Program.tag`): the new object's maps are filled first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from mip6.dataplane.interface import Counters
from mip6.dataplane.libbpf import Map, Object
from mip6.forwarding import ForwardingTable, Node

OBJECT = Path(__file__).with_name("fastpath.bpf.o")
"""Compiled at build time; missing when clang was."""
PROGRAMS = ("encap_egress", "encap_ingress", "encap_raw", "decap_ingress", "decap_raw")


@dataclass(frozen=True, slots=True)
class Devices:
    """What the programs have to know of devices, by interface index.

    `tunnel` is the tunnel device. `deliver`: where decapsulated packets enter the stack: 0 as arrived on the access
    device itself (fastest), or the index of the tunnel device (for rules that look at the input device).
    """

    tunnel: int
    deliver: int = 0


def load(path: Path = OBJECT) -> Object:
    """The object in the kernel, maps empty. LibbpfError says why not, with the verifier's log."""
    return Object(path)


class FastPathMaps:
    """Keeps the maps of one loaded object equal to a table. Not for several threads."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        """`maps` by name, of a fresh `Object` or of an adopted program (`Program.by_id(...).maps()`).

        Adopted maps keep forwarding by what stands in them until the first `set_table`, which replaces their contents
        node by node without a gap and removes what is not in the table.
        """
        self.maps = maps

    def set_devices(self, devices: Devices) -> None:
        """From now on these devices; at once for all programs."""
        raise NotImplementedError

    def set_table(self, table: ForwardingTable) -> None:
        """From now on this table. Only nodes that are other objects than before are touched; each changes in one step:
        a packet sees all of the old node or all of the new one. LibbpfError when the kernel has no room."""
        raise NotImplementedError

    def set_node(self, home_address: IPv6Address, node: Node | None) -> None:
        """One node of the table alone; None: it is gone. Costs the same whatever the size of the table."""
        raise NotImplementedError

    def counters(self) -> Counters:
        """Read from the kernel. The sums go on over an adoption."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the maps; attached programs go on with them."""
        raise NotImplementedError
