"""Which chains of a firewall look at forwarded packets, and the news that there are others now.

nftables says by netlink what there is and when it changes. The older ip6tables and iptables (the kernel modules, not
the commands of today, which are nftables) only have lists in /proc, so those are to be looked at now and then.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from pathlib import Path

from mip6.system.rtnetlink import Notifications, Requests, parse_attributes

_NETLINK_NETFILTER = 12
_NFTABLES = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN = _NFTABLES | 4
_CHANGES = frozenset(_NFTABLES | number for number in (0, 2, 3, 5))  # NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_TABLE, _NAME, _HOOK, _HOOK_NUMBER = 1, 3, 4, 1  # NFTA_CHAIN_*, NFTA_HOOK_HOOKNUM
_HEADER = struct.Struct("=BBH")  # struct nfgenmsg
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 10: "ip6"}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_DEVICE_HOOKS = ("ingress", "egress")
_LEGACY = {"ip6tables": "ip6_tables_names", "iptables": "ip_tables_names"}  # lists of the tables in use, under /proc


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that packets go through: by whose table, and at which hook."""

    family: str
    table: str
    name: str
    hook: str

    def __str__(self) -> str:
        return f"nftables chain {self.family} {self.table} {self.name} (hook {self.hook})"


class Firewall:
    """Looks at nftables and ip6tables of this network namespace. `drain()` after its file is readable."""

    def __init__(self) -> None:
        self._requests = Requests(_NETLINK_NETFILTER)
        self._news = Notifications(_GROUP_NFTABLES, protocol=_NETLINK_NETFILTER)

    def fileno(self) -> int:
        return self._news.fileno()

    def close(self) -> None:
        self._news.close()
        self._requests.close()

    def drain(self) -> bool:
        """Read the news: whether a table or chain came or went."""
        return self._news.drain(types=_CHANGES)

    def chains(self) -> list[Chain]:
        """All chains at a hook that IPv4 or IPv6 packets meet."""
        try:
            answers = self._requests.raw_dump(_GET_CHAIN, _HEADER.pack(0, 0, 0))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a kernel without nftables
                return []
            raise
        return [one for answer in answers if (one := _chain(answer)) is not None]

    def legacy_tables(self) -> list[str]:
        """The tables of the older ip6tables and iptables, which have rules or had some."""
        found = []
        for command, name in _LEGACY.items():
            try:
                tables = Path("/proc/thread-self/net", name).read_text().split()
            except FileNotFoundError:  # the module is not loaded
                continue
            found += [f"{command} table {table}" for table in tables]
        return found


def _chain(answer: bytes) -> Chain | None:
    """A chain from its message, None if it is at no hook or of no such family."""
    family = _FAMILIES.get(_HEADER.unpack_from(answer)[0])
    attributes = parse_attributes(answer[_HEADER.size :])
    if family is None or _HOOK not in attributes:
        return None
    (number,) = struct.unpack(">I", parse_attributes(attributes[_HOOK])[_HOOK_NUMBER])
    hooks = _DEVICE_HOOKS if family == "netdev" else _HOOKS
    hook = hooks[number] if number < len(hooks) else str(number)
    table, name = (attributes[one].rstrip(b"\0").decode() for one in (_TABLE, _NAME))
    return Chain(family, table, name, hook)
