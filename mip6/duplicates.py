"""Duplicate elimination where n-cast packets come together again: by content, with a count for each path.

RFC 6621 §6.3 hashes what stays the same in a packet (H-DPD). Inside a tunnel nothing changes at all, so the content is
the whole inner packet, octet by octet, as it stood in the tunnel packet (before ECN is put into it). But equal contents
are not always copies: applications repeat themselves. Each path carries at most one copy of each packet, so:

    A packet is a duplicate unless this path has now carried its content more often than it was delivered.

Hence, however copies overtake each other: what was delivered is the largest count among the paths, no more. Counts are
about the packets of the last `WINDOW` seconds, longer than any copy is late: of what was delivered before then no more
copies come, so a path that lost its copy must not be held to be behind for ever. For that each content has a mark, a
count of deliveries and its time; when that is older than the window, no path stands below it, and a new mark is set.
What is promised, when copies arrive within the window of being sent, and no content is forgotten for lack of room:

* never is a content delivered more often than it was sent;
* it is delivered at least as often as any one path carried it;
* of contents sent once, or again only when two windows have passed, each is delivered if one copy arrives.
"""

from __future__ import annotations

WINDOW = 2.0  # seconds: a satellite path with a full queue is less late than that
REMEMBERED = 65536  # contents


def content_of(packet: bytes) -> int:
    """What stands for the content of an inner packet: 64 bits that differ from run to run, so that nobody can make two
    packets that look equal."""
    return hash(packet)


_Once = tuple[float, ...]
"""A content that each path carried once at most, as nearly all are: when it was delivered, and the paths."""


class _Content:
    """A content that came again over one path: how often it was delivered and was carried by each path."""

    __slots__ = ("counts", "delivered", "delivered_at", "floor", "mark", "marked_at")

    def __init__(self, once: _Once) -> None:
        self.counts: dict[float, int] = dict.fromkeys(once[1:], 1)
        self.delivered, self.delivered_at = 1, once[0]
        self.floor = 0  # no path stands below it
        self.mark, self.marked_at = 1, once[0]

    def is_duplicate(self, path: int, now: float) -> bool:
        """Of one more packet with this content."""
        if now - self.marked_at > WINDOW:
            if now - self.delivered_at > WINDOW:
                self.mark = self.delivered
            self.floor = self.mark
            self.mark, self.marked_at = self.delivered, now
        count = max(self.counts.get(path, 0), self.floor) + 1
        self.counts[path] = count
        if count <= self.delivered:
            return True
        self.delivered, self.delivered_at = count, now
        return False


class DuplicateFilter:
    """Bounded in size and age: two generations, each at most half of what is remembered and one window."""

    def __init__(self) -> None:
        self._young: dict[int, _Once | _Content] = {}
        self._old: dict[int, _Once | _Content] = {}
        self._born = 0.0

    def is_duplicate(self, content: int, path: int, now: float) -> bool:
        """Whether the packet that came at `now` over `path` (a BID) is to be dropped. To be asked once for each."""
        known = self._young.get(content)
        if known is None:
            known = self._old.pop(content, None)
            if now - self._born > WINDOW or len(self._young) >= REMEMBERED // 2:
                self._young, self._old, self._born = {}, self._young, now
            if known is None:
                self._young[content] = (now, path)
                return False
        if isinstance(known, tuple):
            if now - known[0] > WINDOW:
                self._young[content] = (now, path)
                return False
            if path not in known[1:]:
                self._young[content] = (*known, path)
                return True
            known = _Content(known)
        self._young[content] = known
        return known.is_duplicate(path, now)

    def __len__(self) -> int:
        """How many contents are remembered."""
        return len(self._young) + len(self._old)
