"""One BID at a time: Binding Updates that wait for an answer and let each other pass."""

from __future__ import annotations

from dataclasses import dataclass

from mobilenode.bindingupdatelist import SentUpdate, Update

TURN = 1.0  # seconds that the others wait for an answer, so that none is overtaken; no answer is longer on its way

Subject = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Parked:
    """A Binding Update without an answer that waits for its next turn, with what belongs to its retransmission."""

    sent: SentUpdate
    interval: float
    retransmit: float
    tries: int


def subject(update: Update) -> Subject:
    """The BIDs that it binds and deletes."""
    return tuple(one.bid for one in update.bindings), update.deletes
