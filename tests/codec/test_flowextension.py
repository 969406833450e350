"""The flow extension: its octets, round trips, and that what cannot be read is as if it were not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mip6.flowextension import (
    DEFAULT_ENTERPRISE,
    MOST_SHARES,
    FlowExtension,
    applied,
    encode_applied,
    encode_flow,
    flow_extensions,
)
from mip6.messages import BindingUpdate, decode_message, encode_message
from mip6.numbers import UpdateFlag
from mip6.options import VendorSpecific

NUMBER = st.integers(1, 0xFFFF)
EXTENSIONS = st.builds(
    FlowExtension,
    NUMBER,
    st.dictionaries(NUMBER, NUMBER, max_size=MOST_SHARES).map(lambda one: tuple(one.items())),
    *(st.booleans(),) * 3,
).filter(lambda one: one.drop or not one.unreachable)


def test_the_octets_of_the_documentation() -> None:
    option = encode_flow(DEFAULT_ENTERPRISE, FlowExtension(10, ((1, 3), (2, 1)), drop=True))
    assert (option.vendor, option.subtype, option.data.hex(" ", 2)) == (32473, 1, "000a 8002 0001 0003 0002 0001")
    flags = encode_flow(DEFAULT_ENTERPRISE, FlowExtension(10, drop=True, unreachable=True, copied=True))
    assert flags.data.hex(" ", 2) == "000a e000"
    [answer] = encode_applied(DEFAULT_ENTERPRISE, (10, 20))
    assert (answer.subtype, answer.data.hex(" ", 2)) == (2, "000a 0014")


@given(st.lists(EXTENSIONS, unique_by=lambda one: one.fid, max_size=4))
def test_a_binding_update_carries_them(flows: list[FlowExtension]) -> None:
    options = tuple(encode_flow(7, one) for one in flows)
    message = decode_message(encode_message(BindingUpdate(1, UpdateFlag(0), 4, options)))
    assert flow_extensions(message.options, 7) == {one.fid: one for one in flows}
    assert flow_extensions(message.options, 8) == {}


@given(st.lists(NUMBER, unique=True, max_size=300))
def test_an_acknowledgement_lists_flows(fids: list[int]) -> None:
    assert applied(encode_applied(7, fids), 7) == set(fids)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "000a00",
        "000a000100010003ff",  # longer than its count says
        "000a000200010003",  # shorter
        "000a000100000003",  # BID 0
        "000a00020001000300010001",  # a BID twice
        "000a000100010000",  # nothing has weight
    ],
)
def test_what_cannot_be_read_is_not_there(data: str) -> None:
    assert flow_extensions([VendorSpecific(7, 1, bytes.fromhex(data))], 7) == {}


@given(st.binary(max_size=250), st.integers(0, 255))
def test_no_octets_do_harm(data: bytes, subtype: int) -> None:
    option = VendorSpecific(7, subtype, data)
    for flow in flow_extensions([option], 7).values():
        assert encode_flow(7, flow).data[:2] == data[:2]
    applied([option], 7)


def test_too_many_shares_do_not_fit() -> None:
    with pytest.raises(ValueError, match="61 shares do not fit"):
        encode_flow(7, FlowExtension(1, tuple((bid, 1) for bid in range(1, 62))))
