"""Questions about one interface, of drivers that answer as they like."""

from __future__ import annotations

import errno
import fcntl
import socket

import pytest

from mip6.system.interfaces import carrier


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EOPNOTSUPP, errno.EBUSY, errno.EIO, errno.ETIMEDOUT])
def test_a_driver_that_does_not_tell_of_carrier_is_not_asked_why(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        assert carrier(sock, "lo") is True
        monkeypatch.setattr(fcntl, "ioctl", refuse)
        assert carrier(sock, "wwan0") is None
