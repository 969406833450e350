"""Who sent a Binding Update, and whether it is fresh: RFC 4285 as the home agent applies it.

The order is the RFC's: an association must exist, the MN-HA option must be there and be the last one (§5.1.1), its
authenticator right (else status 146), and only then the timestamp is looked at (§6: 145, 144).
"""

from __future__ import annotations

from homeagent.bindingcache import BindingCacheEntry
from homeagent.registration import Refusal
from homeagent.settings import NodeSettings
from mip6.auth import SecurityAssociation, ntp_difference, ntp_timestamp, sign, verify
from mip6.headers import SignallingPacket
from mip6.messages import Message, encode_message
from mip6.numbers import AuthenticationSubtype, BindingStatus
from mip6.options import Authentication, MessageIdentification, MobileNodeIdentifier, Option
from mip6.values import value


class Discard(Exception):
    """The RFC asks for silence; the text is for the log."""


@value
class Proof:
    """What authentication found. `timestamp` is the accepted MESG-ID, `answer` the one to send back. `guarded`: only
    the sequence number tells a replay."""

    association: SecurityAssociation | None = None
    timestamp: int | None = None
    answer: int | None = None
    refusal: Refusal | None = None
    guarded: bool = False


def authenticate(
    node: NodeSettings,
    insecure: bool,
    packet: SignallingPacket,
    message: Message,
    entry: BindingCacheEntry | None,
    wall: float,
    *,
    aged: bool = False,
) -> Proof:
    """Check a message against the node's associations. `wall` is the time of day in seconds since 1970.

    `aged` leaves the timestamp unjudged: of a message that was fresh when it came, or that has its own sequence.
    Raises Discard where RFC 4285 asks for silence; Proof.refusal where it has a status.
    """
    options = message.find_all(Authentication)
    mine = next((one for one in options if one.subtype == AuthenticationSubtype.MN_HA), None)
    if mine is None:
        if insecure and not options:
            return Proof()
        raise Discard("no MN-HA authentication option")
    if message.options[-len(options) :] != tuple(options) or options[0] is not mine:
        raise Discard("authentication options are not last or in wrong order")
    association = next((one for one in node.associations if one.spi == mine.spi), None)
    if association is None:
        raise Discard(f"no association for SPI {mine.spi}")
    identifier: MobileNodeIdentifier | None = message.find(MobileNodeIdentifier)
    if node.identifier is not None and (identifier is None or identifier.identifier != node.identifier.encode()):
        raise Discard("the Mobile Node Identifier is not this node's")
    if not verify(packet.payload, message, association, packet.source, packet.sender()):
        return Proof(association, refusal=Refusal(BindingStatus.MIPV6_AUTH_FAIL, "wrong authenticator"))
    stamp: MessageIdentification | None = message.find(MessageIdentification)
    if aged:
        found = None if stamp is None or node.replay != "timestamp" else stamp.timestamp
        return Proof(association, timestamp=found, answer=None if stamp is None else stamp.timestamp)
    if stamp is None:
        if node.replay != "timestamp":
            return Proof(association)
        return Proof(association, refusal=Refusal(BindingStatus.MIPV6_MESG_ID_REQD, "no MESG-ID option"))
    if node.replay != "timestamp":
        return Proof(association, answer=stamp.timestamp)
    mine_now = ntp_timestamp(wall)
    last = entry.timestamp if entry is not None else 0
    off = ntp_difference(stamp.timestamp, mine_now)
    # a last timestamp from the future: this clock was set back since, and no honest one would be accepted until then
    guarded = bool(last) and ntp_difference(last, mine_now) > node.timestamp_window
    if guarded:
        last = 0
    if abs(off) > node.timestamp_window or (last and ntp_difference(stamp.timestamp, last) <= 0):
        why = f"MESG-ID is {off:+.1f} s off" if abs(off) > node.timestamp_window else "MESG-ID was used before"
        answer = mine_now >> 32 << 32 | stamp.timestamp & 0xFFFFFFFF
        return Proof(association, answer=answer, refusal=Refusal(BindingStatus.MIPV6_ID_MISMATCH, why))
    return Proof(association, timestamp=stamp.timestamp, answer=stamp.timestamp, guarded=guarded)


def protect(answer: Message, proof: Proof, node: NodeSettings, packet: SignallingPacket) -> bytes:
    """The encoded answer to `packet`, with MESG-ID and MN-HA option where the request had them (RFC 4285 §5.1)."""
    if proof.association is None:
        return encode_message(answer)
    identity: tuple[Option, ...] = ()
    if node.identifier is not None:
        identity += (MobileNodeIdentifier(1, node.identifier.encode()),)
    if proof.answer is not None:
        identity += (MessageIdentification(proof.answer),)
    return sign(answer, proof.association, packet.source, packet.sender(), identity)
