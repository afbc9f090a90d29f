"""Sessions that somebody had forgotten: what edges still say of them is void.

A session is dropped at one edge, and others have states of it: pins and conversations, which they repeat. So an edge
tells the others which sessions were forgotten, and when, with each heartbeat for `FORGOTTEN_S`; meanwhile every edge
refuses states of them that were last in use before. What is in use later is another session of that name. An edge that
is cut off from the others for longer than that brings its state of the session back.
"""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.kv.conversation import Name

FORGOTTEN_S = 15.0
"""Three rounds in which edges repeat all their states."""

MAX_FORGOTTEN = 4096
"""Sessions that are remembered as forgotten; beyond, the one forgotten first is not."""

SLACK_S = 1.0
"""A state in use until a moment before counts as older: two batches of other edges do not take the same time."""


class Forgotten:
    """Sessions forgotten lately, here or at another edge."""

    def __init__(self) -> None:
        self._at_s: dict[Name, float] = {}
        """When each was forgotten, by this edge's clock; in the order in which this edge learned of them."""
        self._own: dict[Name, float] = {}
        """When each was forgotten that was forgotten at this edge, of which it tells others."""

    def __len__(self) -> int:
        return len(self._at_s)

    def __repr__(self) -> str:
        return f"Forgotten({len(self)} sessions, {len(self._own)} of them here)"

    def add(self, name: Name, at_s: float, *, here: bool) -> bool:
        """Note that a session was forgotten, at this edge (`here`) or at another; False where that was known."""
        if self._at_s.get(name, float("-inf")) >= at_s - SLACK_S:
            return False
        for table in (self._at_s, self._own) if here else (self._at_s,):
            table.pop(name, None)
            table[name] = at_s
            while len(table) > MAX_FORGOTTEN:
                del table[next(iter(table))]
        return True

    def voids(self, name: Name, seen_s: float) -> bool:
        """Whether a state of a session that was in use until `seen_s` is void."""
        at_s = self._at_s.get(name) if self._at_s else None
        return at_s is not None and seen_s < at_s + SLACK_S

    def to_publish(self) -> Iterator[tuple[Name, float]]:
        """Return the sessions that were forgotten at this edge, and when."""
        return iter(self._own.items())

    def expire(self, now_s: float) -> None:
        """End the memory of those forgotten `FORGOTTEN_S` ago. O(1) when there are none."""
        for table in (self._at_s, self._own):
            while table:
                name, at_s = next(iter(table.items()))
                if at_s > now_s - FORGOTTEN_S:
                    break
                del table[name]
