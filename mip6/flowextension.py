"""What flow bindings lack: weights for sharing, discarding as a last resort, and that a flow is n-cast upwards. Our
extension, ignorable.

It travels in Vendor Specific Mobility Options (RFC 5094); docs/extensions.md has the layout. In a Binding Update each
one belongs to the Flow Identification option with its FID. By RFC 6089 §5.3.6 several BIDs in a binding reference mean
one copy over each, so the flow binding of a shared flow names only one BID: a home agent without the extension sends
all of the flow there. An acknowledgement lists the FIDs whose extension was applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from mip6.options import Option, VendorSpecific

DEFAULT_ENTERPRISE = 32473  # reserved for examples (RFC 5612)
MOST_SHARES = 60  # in the 250 octets of one option
MOST_FIDS = 125
_HEADER, _SHARE = 4, 4  # octets


class SubType(IntEnum):
    """Vendor types of the extension."""

    FLOW = 1
    APPLIED = 2


class FlowFlag(IntFlag):
    """Flags of sub-type FLOW."""

    DROP = 0x80
    UNREACHABLE = 0x40
    COPIED = 0x20


@dataclass(frozen=True, slots=True)
class FlowExtension:
    """What a Binding Update says of flow `fid` beyond RFC 6089.

    `shares` are (BID, weight), instead of the BIDs of the binding reference; none: those stand. `drop`: discard while
    none of the BIDs is bound, and with `unreachable` tell the sender. `copied`: the mobile node n-casts it upwards.
    """

    fid: int
    shares: tuple[tuple[int, int], ...] = ()
    drop: bool = False
    unreachable: bool = False
    copied: bool = False


def encode_flow(enterprise: int, flow: FlowExtension) -> VendorSpecific:
    """The option of one flow. ValueError when it has too many shares, or a number does not fit."""
    if len(flow.shares) > MOST_SHARES:
        raise ValueError(f"flow {flow.fid}: {len(flow.shares)} shares do not fit into an option")
    flags = (
        (FlowFlag.DROP if flow.drop else 0)
        | (FlowFlag.UNREACHABLE if flow.unreachable else 0)
        | (FlowFlag.COPIED if flow.copied else 0)
    )
    data = flow.fid.to_bytes(2, "big") + bytes((flags, len(flow.shares)))
    for bid, weight in flow.shares:
        data += bid.to_bytes(2, "big") + weight.to_bytes(2, "big")
    return VendorSpecific(enterprise, SubType.FLOW, data)


def encode_applied(enterprise: int, fids: Iterable[int]) -> tuple[VendorSpecific, ...]:
    """The options that list these flows."""
    numbers = tuple(fids)
    return tuple(
        VendorSpecific(
            enterprise,
            SubType.APPLIED,
            b"".join(fid.to_bytes(2, "big") for fid in numbers[start : start + MOST_FIDS]),
        )
        for start in range(0, len(numbers), MOST_FIDS)
    )


def flow_extensions(options: Iterable[Option], enterprise: int) -> dict[int, FlowExtension]:
    """The flows' extensions in a Binding Update. One that cannot be read is none: the base flow binding stands."""
    found: dict[int, FlowExtension] = {}
    for data in _ours(options, enterprise, SubType.FLOW):
        if len(data) < _HEADER or len(data) != _HEADER + _SHARE * data[3]:
            continue
        shares = tuple(
            (int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big"))
            for at in range(_HEADER, len(data), _SHARE)
        )
        bids = [bid for bid, _ in shares]
        if 0 in bids or len(set(bids)) != len(bids) or (shares and not any(weight for _, weight in shares)):
            continue
        fid = int.from_bytes(data[:2], "big")
        drop, flags = bool(data[2] & FlowFlag.DROP), data[2]
        unreachable, copied = drop and bool(flags & FlowFlag.UNREACHABLE), bool(flags & FlowFlag.COPIED)
        found[fid] = FlowExtension(fid, shares, drop, unreachable, copied)
    return found


def applied(options: Iterable[Option], enterprise: int) -> set[int]:
    """The FIDs that an acknowledgement lists."""
    return {
        int.from_bytes(data[at : at + 2], "big")
        for data in _ours(options, enterprise, SubType.APPLIED)
        for at in range(0, len(data) - 1, 2)
    }


def _ours(options: Iterable[Option], enterprise: int, subtype: SubType) -> Iterable[bytes]:
    return (
        one.data
        for one in options
        if isinstance(one, VendorSpecific) and one.vendor == enterprise and one.subtype == subtype
    )
