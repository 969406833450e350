"""Whether IPsec has a say in what this machine forwards."""

from __future__ import annotations

import errno

from mip6.system.rtnetlink import Requests

_NETLINK_XFRM = 6
_GET_POLICY = 0x15  # XFRM_MSG_GETPOLICY


def has_policies() -> bool:
    """Whether this network namespace has any IPsec policy."""
    try:
        requests = Requests(_NETLINK_XFRM)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:  # a kernel without IPsec
            return False
        raise
    try:
        return bool(requests.raw_dump(_GET_POLICY, b""))
    finally:
        requests.close()
