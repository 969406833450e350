"""Binding Revocation on the operator's request (RFC 5846)."""

from __future__ import annotations

import pytest

from mip6 import actions, events
from mip6.auth import ntp_timestamp
from mip6.headers import build_packet
from mip6.messages import (
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
)
from mip6.numbers import BindingStatus, RevocationFlag
from mip6.options import (
    BindingIdentifier,
    MessageIdentification,
)
from tests.homeagent.support import (
    CELLULAR,
    HA,
    HOME,
    WALL,
    WLAN,
    Script,
    bid,
)

S = BindingStatus


def test_revocation() -> None:
    script = Script()
    script.update(bid(1, WLAN), bid(2, CELLULAR))
    request = events.OperatorRequest("revoke", {"home_address": str(HOME), "bids": [2]})
    script.seen = script.agent.handle(request, script.now)
    packet, indication = script.answer()
    assert isinstance(indication, BindingRevocationIndication)
    assert (packet.destination, packet.routing_address) == (WLAN, HOME)
    assert [one.bid for one in indication.find_all(BindingIdentifier)] == [2]
    assert indication.find(MessageIdentification).timestamp == ntp_timestamp(script.now + WALL)
    assert script.update(bid(2, CELLULAR)).status == S.ADMINISTRATIVELY_PROHIBITED
    assert len([one for one in script.pass_time(1.5) if isinstance(one, actions.SendPacket)]) == 1  # repeated once
    assert script.bindings() == {1: str(WLAN), 2: str(CELLULAR)}
    answer = BindingRevocationAcknowledgement(0, indication.sequence, RevocationFlag(0))
    assert script.silence(build_packet(WLAN, HA, answer, home_address=HOME))
    assert 2 in script.bindings()  # not authentic
    script.pass_time(3)
    assert script.bindings() == {1: str(WLAN)}  # given up: removed all the same
    with pytest.raises(ValueError, match="no binding with BID 2"):
        script.agent.handle(request, script.now)


def test_an_authentic_revocation_acknowledgement_ends_the_binding_at_once() -> None:
    from mip6.auth import sign
    from mip6.options import MobileNodeIdentifier

    script = Script()
    script.update(bid(1, WLAN))
    request = events.OperatorRequest("revoke", {"home_address": str(HOME)})
    script.seen = script.agent.handle(request, script.now)
    _, indication = script.answer()
    assert isinstance(indication, BindingRevocationIndication)
    options = (MobileNodeIdentifier(1, b"mr@example.com"),)
    answer = BindingRevocationAcknowledgement(0, indication.sequence, RevocationFlag(0), options)
    script.give(build_packet(WLAN, HA, sign(answer, script.association, WLAN, HOME), home_address=HOME))
    assert script.bindings() == {}
