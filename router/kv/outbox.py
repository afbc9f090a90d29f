"""Changes of the fleet's KV that other edges have not been sent yet.

`KVOutbox` gathers between two batches what one edge decides and learns: prefix keys that a decision makes it expect on
a replica, and conversations whose state changed. It holds at most `MAX_PENDING` entries. Beyond (the store is away)
all of it is dropped and counted: expectations are hints that nobody misses for long, and states are repeated anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pointsman.router.kv.conversation import Conversation, Name

MAX_PENDING = 262_144
"""Keys and conversations that wait: about 30 MB, and some ten seconds of a busy edge."""


class KVOutbox:
    """Written by `KVState`, emptied with each batch."""

    def __init__(self, *, max_pending: int = MAX_PENDING) -> None:
        self._max = max_pending
        self._keys = 0
        self.expected: list[tuple[int, Sequence[int]]] = []
        """Slot, and the prefix keys expected there."""
        self.conversations: dict[Name, tuple[Conversation, Name | None]] = {}
        """Changed conversations by name, with the name given up since the last batch."""
        self.dropped: set[Name] = set()
        """Names of conversations that this edge wrote and dropped."""
        self.overruns = 0
        """Times all that waited was dropped because there was too much of it."""

    def __bool__(self) -> bool:
        return bool(self.expected or self.conversations or self.dropped)

    def __len__(self) -> int:
        return self._keys + len(self.conversations) + len(self.dropped)

    def add_expected(self, slot: int, keys: Sequence[int]) -> None:
        """Add prefix keys that a decision expects on a slot."""
        self.expected.append((slot, keys))
        self._keys += len(keys)
        self._bound()

    def add_conversation(self, known: Conversation, was: Name | None = None) -> None:
        """Add a conversation that changed; `was` is its name before, where it has another."""
        conversations = self.conversations
        if was == known.name:
            was = None
        if was is not None and (pending := conversations.pop(was, None)) is not None and pending[1] is not None:
            was = pending[1]  # the name in between was never sent
        elif was is None and (pending := conversations.get(known.name)) is not None and pending[0] is known:
            was = pending[1]
        conversations[known.name] = known, was
        self._bound()

    def add_dropped(self, names: Iterable[Name]) -> None:
        """Add conversations that this edge wrote and dropped: no other edge is to keep these states of them."""
        self.dropped.update(names)
        self._bound()

    def clear_slot(self, slot: int) -> None:
        """Drop the keys of a slot whose replica left: another one may take the slot before the next batch."""
        self.expected = [entry for entry in self.expected if entry[0] != slot]

    def clear(self) -> None:
        """Drop everything, since it was sent."""
        self.expected, self.conversations, self.dropped, self._keys = [], {}, set(), 0

    def _bound(self) -> None:
        if len(self) > self._max:
            self.clear()
            self.overruns += 1
