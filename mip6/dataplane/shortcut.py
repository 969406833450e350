"""Whether forwarded packets may take the short cut past the kernel's routing and netfilter.

On the short cut a packet goes from the ingress of a served device straight into a tunnel, and out of a tunnel straight
to the neighbour that the routes lead to; what the stack gets enters as if the access device had received it. So a
packet meets neither the chains of a firewall, nor IPsec policies, nor rules that name the tunnel device: `auto` takes
it only where there are none, and a firewall that is loaded later ends it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mip6.system.firewall import Firewall
from mip6.system.ipsec import has_policies
from mip6.system.sockets import Guard

_FORWARDING = Path("/proc/sys/net/ipv6/conf/all/forwarding")
_SKIPPED = frozenset(("ingress", "prerouting", "forward", "postrouting", "egress"))


@dataclass(frozen=True, slots=True)
class Way:
    """`shortcut`: forwarded packets take it. `direct`: what the stack gets out of tunnels enters at the access device,
    not at the tunnel device. `reason` is for the log and `mip6 status`."""

    shortcut: bool
    direct: bool
    reason: str


class ShortCut:
    """The choice `asked` (auto, on, off) against what there is. `drain()` after its file is readable."""

    def __init__(self, asked: str, device: str) -> None:
        """`device` is the tunnel device, after which our own nftables table is called."""
        self._asked, self._own_table = asked, Guard(device).table
        self._firewall = Firewall()

    @property
    def chosen(self) -> bool:
        """Whether it depends on what there is."""
        return self._asked == "auto"

    def fileno(self) -> int:
        return self._firewall.fileno()

    def close(self) -> None:
        self._firewall.close()

    def drain(self) -> bool:
        """Whether the firewall has changed."""
        return self._firewall.drain()

    def way(self) -> Way:
        """What is to be done now."""
        if self._asked != "auto":
            return Way(self._asked == "on", self._asked == "on", "configured")
        if _FORWARDING.read_text().strip() == "0":
            return Way(False, False, "this machine does not forward IPv6")
        if has_policies():
            return Way(False, False, "it would go around IPsec policies")
        chains = [one for one in self._firewall.chains() if (one.family, one.table) != ("ip6", self._own_table)]
        skipped = [str(one) for one in chains if one.hook in _SKIPPED] + self._firewall.legacy_tables()
        if skipped:
            return Way(False, False, f"it would go around {skipped[0]}")
        inputs = [str(one) for one in chains if one.hook == "input"]
        if inputs:
            return Way(True, False, f"no chain is skipped; packets still arrive by the tunnel device for {inputs[0]}")
        return Way(True, True, "there is no firewall that it would go around")
