"""Conversations that were told of before the replica that keeps them.

Edges' streams are read one beside the other: who told a conversation may know of a registration that comes by another
stream, and later. `TalksAhead` keeps the latest word of each until then, for as long as a conversation lives.
"""

from __future__ import annotations

from itertools import takewhile

from router.state.conversations import CONVERSATION_TTL_S, Name
from router.state.shared.records import Talk

MAX_AHEAD = 4096
"""Conversations: under 2 MB. When met, the first goes."""


class TalksAhead:
    """Each with its replica's id and when it was told."""

    def __init__(self) -> None:
        self._talks: dict[Name, tuple[str, Talk, float]] = {}

    def __len__(self) -> int:
        return len(self._talks)

    def keep(self, talk: Talk, replica_id: str, now_s: float) -> None:
        """A word of a replica that is not registered here. The later turn stays."""
        talks = self._talks
        before = talks.pop(talk.name, None)
        if before is not None and before[1].turn > talk.turn:
            replica_id, talk = before[:2]
        talks[talk.name] = replica_id, talk, now_s
        if len(talks) > MAX_AHEAD:
            del talks[next(iter(talks))]

    def take(self, replica_id: str) -> list[tuple[Talk, float]]:
        """What was told of a replica that is registered here by now, and when."""
        found = [(talk, told_s) for told_of, talk, told_s in self._talks.values() if told_of == replica_id]
        for talk, _ in found:
            del self._talks[talk.name]
        return found

    def expire(self, now_s: float) -> None:
        """Forgets conversations that are over by now."""
        oldest_s = now_s - CONVERSATION_TTL_S
        for name in list(takewhile(lambda name: self._talks[name][2] <= oldest_s, self._talks)):
            del self._talks[name]
