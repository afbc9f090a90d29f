"""Conversations that are nowhere at home: the last word on each, so that no earlier one is believed.

A conversation has no home here while its replica is not registered (it left, or word of it came by another edge's
stream, which is read later), and when the life of the engine that had its KV is over. `Homeless` keeps its word for as
long as a conversation lives: the former come home with their replica, the latter wait for the next turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from pointsman.router.kv.conversation import Conversation, Name

MAX_HOMELESS = 65_536
"""Conversations: about 30 MB. When met, the first goes."""


class Homeless:
    """By name, in the order in which they lost their homes. Written by `Conversations`."""

    def __init__(self) -> None:
        self._words: dict[Name, Conversation] = {}

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, name: Name) -> bool:
        return name in self._words

    def __iter__(self) -> Iterator[Conversation]:
        return iter(self._words.values())

    def __repr__(self) -> str:
        return f"Homeless({len(self)} of {MAX_HOMELESS})"

    def get(self, name: Name) -> Conversation | None:
        return self._words.get(name)

    def put(self, word: Conversation) -> None:
        words = self._words
        words.pop(word.name, None)
        words[word.name] = word
        if len(words) > MAX_HOMELESS:
            del words[next(iter(words))]

    def pop(self, name: Name) -> Conversation | None:
        return self._words.pop(name, None)

    def of(self, home: str) -> list[Conversation]:
        """Who comes home with that replica."""
        return [word for word in self if word.home == home and not word.lost]

    def expire(self, until_s: float) -> None:
        """Forgets those not seen after that moment: their conversations are over."""
        words = self._words
        for name in list(takewhile(lambda name: words[name].seen_s <= until_s, words)):
            del words[name]
