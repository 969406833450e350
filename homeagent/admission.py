"""What is asked of an authentic Binding Update before `registration` looks at it: RFC 6275 §9.5.1, then §10.3.1."""

from __future__ import annotations

from homeagent.bindingcache import BindingCacheEntry
from homeagent.registration import Accepted, Refusal, Request, care_of_address, is_unicast_routable, register
from homeagent.security import Discard
from homeagent.settings import HomeAgentSettings, NodeSettings
from mip6.numbers import BindingStatus, UpdateFlag
from mip6.options import NonceIndices


def is_newer(sequence: int, than: int) -> bool:
    """Of two sequence numbers, modulo 2^16 (RFC 6275 §9.5.1)."""
    return 1 <= (sequence - than) % 65536 <= 32767


def check_sequence(entry: BindingCacheEntry, sequence: int) -> None:
    """RFC 6275 §9.5.1: newer, or status 135 with the last accepted number."""
    if not is_newer(sequence, entry.sequence):
        raise Refusal(
            BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW,
            f"sequence number {sequence} is not newer than {entry.sequence}",
            sequence=entry.sequence,
        )


def judge(
    settings: HomeAgentSettings,
    node: NodeSettings,
    entry: BindingCacheEntry | None,
    request: Request,
    now: float,
    revoking: bool,
) -> Accepted:
    """RFC 6275 §9.5.1 and §10.3 in their order; Refusal, Discard, or what it makes of the entry."""
    update = request.update
    if not is_unicast_routable(request.home_address):
        raise Discard("the home address is not unicast routable")
    if not is_unicast_routable(care_of_address(request)):
        raise Discard("the care-of address is not unicast routable")
    # without MESG-ID the sequence number is the replay protection and outlives the binding (RFC 4285 §6)
    guarded = request.guarded or (bool(node.associations) and node.replay == "sequence")
    if entry is not None and (entry.remembers(now) or guarded):
        check_sequence(entry, update.sequence)
    home_registration = UpdateFlag.HOME_REGISTRATION in update.flags
    if entry is not None and entry.bindings and not home_registration:
        raise Refusal(BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED, "the H flag differs from the binding's")
    if not home_registration:
        if UpdateFlag.MOBILE_ROUTER in update.flags:  # RFC 3963 §6.2
            raise Refusal(BindingStatus.MOBILE_ROUTER_OPERATION_NOT_PERMITTED, "R without H")
        raise Discard("this home agent is no correspondent node")
    if update.find(NonceIndices) is not None:
        raise Discard("Nonce Indices in a home registration")  # RFC 6275 §10.3.1
    if revoking:
        raise Refusal(BindingStatus.ADMINISTRATIVELY_PROHIBITED, "the binding is being revoked")
    return register(settings, node, entry, request, now)
