"""Data planes: what carries out a forwarding table, and the choice among them."""

from __future__ import annotations

from mip6.dataplane.interface import DataPlane, DataPlaneError, OnPathMtu
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.forwarding import IPV6_HEADER, MINIMUM_MTU
from mip6.system import log
from mip6.system.tun import Tun


def choose(kind: str, device: str, mtu: int, on_path_mtu: OnPathMtu) -> DataPlane:
    """The data plane `kind` (auto or userspace) on the tunnel device `device`; `mtu` is the path MTU to the far ends.

    DataPlaneError when there is none of that kind, TunError when the device cannot be had.
    """
    if kind not in ("auto", "userspace"):
        raise DataPlaneError(f"dataplane {kind!r}: expected auto or userspace; there is no other yet")
    if kind == "auto":
        log.event("dataplane_chosen", dataplane=UserspaceDataPlane.name, reason="the only one there is")
    return UserspaceDataPlane(Tun(device, max(mtu - IPV6_HEADER, MINIMUM_MTU)), on_path_mtu)
