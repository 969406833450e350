"""Data planes: what carries out a forwarding table, and the choice among them."""

from __future__ import annotations

from collections.abc import Collection

from mip6.dataplane.attachments import Attachments
from mip6.dataplane.ebpf import EbpfDataPlane
from mip6.dataplane.interface import DataPlane, DataPlaneError, OnPathMtu
from mip6.dataplane.libbpf import LibbpfError
from mip6.dataplane.predecessor import release
from mip6.dataplane.userspace import UserspaceDataPlane
from mip6.forwarding import IPV6_HEADER, MINIMUM_MTU
from mip6.system import log
from mip6.system.tun import Tun


def choose(
    kind: str,
    device: str,
    mtu: int,
    on_path_mtu: OnPathMtu,
    access: Collection[str] | None = None,
    shortcut: str = "auto",
) -> DataPlane:
    """The data plane `kind` (auto, ebpf or userspace) on the tunnel device `device`; `mtu` is the path MTU to the far
    ends. `access` are the names of a mobile node's links, None: a home agent; `shortcut` is auto, on or off.

    DataPlaneError when there is none of that kind, TunError when the device cannot be had.
    """
    if kind not in ("auto", "ebpf", "userspace"):
        raise DataPlaneError(f"dataplane {kind!r}: expected auto, ebpf or userspace")
    slow = UserspaceDataPlane(Tun(device, max(mtu - IPV6_HEADER, MINIMUM_MTU)), on_path_mtu)
    if kind == "userspace":
        _remove_programs(device)
        return slow
    try:
        fast = EbpfDataPlane(slow, device, access, shortcut)
    except (LibbpfError, OSError) as error:
        if kind == "ebpf":
            raise DataPlaneError(f'dataplane = "ebpf", but {error}') from error
        log.event("dataplane_chosen", dataplane=slow.name, reason=str(error).splitlines()[0])
        _remove_programs(device)
        return slow
    if kind == "auto":
        log.event("dataplane_chosen", dataplane=fast.name, reason="the kernel takes its programs")
    return fast


def _remove_programs(device: str) -> None:
    """Programs of an earlier run would go on with the table of that run."""
    attachments = Attachments(device)
    attachments.remove_all()
    attachments.close()
    release()
