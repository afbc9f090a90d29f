"""Live conversations: who keeps whose KV, and how much of it.

`Conversations` owns one entry for each conversation seen within the last `ttl_s`: the slot its last request went to,
what it keeps there, and the exact length of its last prompt where the engine told it. The sum by slot is the column
`footprint`: KV that will be asked for again, which is what an eviction can harm.

A conversation is named by its session key. Without one it is named by a key near the end of its prompt, which its next
prompt contains; prompts that end alike are then one conversation, and so is their KV.

Between edges the later turn is right; of two alike the one to the greater replica id, then the one an engine told of,
then the longer. So edges that heard the same, in any order, have the same table.

**Shared heads count once.** What others had resident there when a conversation came (a system prompt) is not its own:
its share of the footprint is what it brought.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from policies.types import NO_SLOT
from router.state.kv_columns import KVColumns

MAX_CONVERSATIONS = 200_000
"""About 80 MB. When met, the least recently seen go, a batch at a time."""

EVICTION_BATCH = 1024

LOOK_BACK = 4
"""Keys before the deepest resident one that are tried as a name: an answer, or what a body has behind its prompt."""

Name = str | int


class Conversation(msgspec.Struct, gc=False):
    """What is kept of one conversation. Written by `Conversations` alone."""

    name: Name
    slot: int
    tokens: int
    """Prompt and answer so far; exact once the engine said so."""
    shared: int
    """Leading tokens that others brought."""
    prompt_bytes: int
    prompt_tokens: int
    """Of the last prompt; 0 until the engine told."""
    tail_at: int
    """Index of `tail` in the chain of the last prompt; -1 where that had no keys."""
    tail: int
    """A key the next prompt contains: the last but one, since the last chunk may hold what follows the messages."""
    seen_s: float
    turn: int = 1
    """Requests so far, by whichever edge."""

    @property
    def own(self) -> int:
        """Its share of the footprint."""
        return max(0, self.tokens - self.shared)


def tail_of(keys: Sequence[int]) -> int:
    """Index of the key that stands for the end of a prompt; -1 without keys."""
    return max(0, len(keys) - 2) if keys else -1


class Conversations:
    """The table, bounded, and the column `footprint`."""

    def __init__(self, columns: KVColumns, *, max_conversations: int = MAX_CONVERSATIONS) -> None:
        self._columns = columns
        self._max = max_conversations
        self._known: dict[Name, Conversation] = {}  # insertion order is last-seen order
        self._of_slot: dict[int, int] = {}
        self.evicted = 0
        """Conversations dropped because the table was full."""

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Conversation]:
        """Least recently seen first."""
        return iter(self._known.values())

    def __repr__(self) -> str:
        return f"Conversations({len(self._known)} of {self._max})"

    def find(self, session: str, keys: Sequence[int], deepest: int) -> Conversation | None:
        """The conversation a request continues; `deepest` is the index of the deepest key anybody holds, or -1."""
        if session:
            return self._known.get(session)
        for at in range(deepest, max(-1, deepest - LOOK_BACK), -1):
            found = self._known.get(keys[at])
            if found is not None:
                return found
        return None

    def place(
        self,
        known: Conversation | None,
        session: str,
        slot: int,
        keys: Sequence[int],
        *,
        tokens: int,
        resident: int,
        prompt_bytes: int,
        now_s: float,
    ) -> Conversation | None:
        """A request of `known`, or of a conversation that begins, goes to a slot where `resident` of its `tokens` are.

        None for one without any name: no session, and a prompt too short to have keys.
        """
        tail_at = tail_of(keys)
        name: Name = session or (keys[tail_at] if keys else "")
        if not name:
            return None
        if known is None:
            known = self._known.pop(name, None)
        else:
            self._known.pop(known.name, None)
            if known.name != name:
                self._drop(self._known.pop(name, None))
        if known is None:
            self._make_room()
            known = Conversation(name, NO_SLOT, tokens, resident, prompt_bytes, 0, tail_at, 0, now_s, 0)
        elif known.slot != slot:
            self._account(known, -1)
            known.slot, known.shared, known.tokens = NO_SLOT, resident, resident
        known.turn += 1
        before = known.own
        known.name, known.seen_s = name, now_s
        known.tokens, known.prompt_bytes, known.prompt_tokens = tokens, prompt_bytes, 0
        known.tail_at, known.tail = tail_at, keys[tail_at] if keys else 0
        self._known[name] = known
        if known.slot == slot:
            self._columns.add_footprint(slot, known.own - before)
        else:
            known.slot = slot
            self._account(known, +1)
        return known

    def told(self, name: Name, slot: int, prompt_bytes: int, prompt_tokens: int, completion_tokens: int) -> None:
        """The engine said how long prompt and answer of the conversation's request to `slot` are."""
        known = self._known.get(name)
        # A later request of the same conversation may be under way; its lengths count.
        if known is None or known.slot != slot or known.prompt_bytes != prompt_bytes:
            return
        self._account(known, -1)
        known.prompt_tokens = prompt_tokens
        known.tokens = prompt_tokens + completion_tokens
        known.shared = min(known.shared, known.tokens)
        self._account(known, +1)

    def get(self, name: Name) -> Conversation | None:
        return self._known.get(name)

    def learn(
        self,
        name: Name,
        slot: int,
        *,
        was: Name | None,
        newer: Callable[[Conversation], bool],
        tokens: int,
        shared: int,
        prompt_bytes: int,
        prompt_tokens: int,
        tail_at: int,
        tail: int,
        turn: int,
        seen_s: float,
    ) -> bool:
        """Takes over what another edge said of a conversation, if it is `newer` than what is known; True if it was.
        `was` is its name before, which goes with it."""
        if was is not None and was != name:
            before = self._known.get(was)
            if before is not None and before.turn < turn:
                self._drop(self._known.pop(was))
        known = self._known.get(name)
        if known is not None:
            if not newer(known):
                return False
            self._drop(self._known.pop(name))
            seen_s = max(seen_s, known.seen_s)
        else:
            self._make_room()
        known = Conversation(name, slot, tokens, shared, prompt_bytes, prompt_tokens, tail_at, tail, seen_s, turn)
        self._known[name] = known
        self._account(known, +1)
        return True

    def expire(self, now_s: float, ttl_s: float) -> int:
        """Ends conversations not seen for `ttl_s`; how many."""
        stale = []
        for known in self._known.values():
            if now_s - known.seen_s <= ttl_s:
                break
            stale.append(known.name)
        for name in stale:
            self._drop(self._known.pop(name))
        return len(stale)

    def clear_slot(self, slot: int) -> None:
        """What was kept there is gone: its conversations begin again, wherever they go."""
        if self._of_slot.get(slot):
            for name in [known.name for known in self._known.values() if known.slot == slot]:
                self._drop(self._known.pop(name))

    def _make_room(self) -> None:
        if len(self._known) >= self._max:
            for name in list(islice(self._known, min(EVICTION_BATCH, self._max))):
                self._drop(self._known.pop(name))
                self.evicted += 1

    def _drop(self, known: Conversation | None) -> None:
        if known is not None:
            self._account(known, -1)

    def _account(self, known: Conversation, sign: int) -> None:
        slot = known.slot
        if slot != NO_SLOT:
            self._of_slot[slot] = self._of_slot.get(slot, 0) + sign
            self._columns.add_footprint(slot, sign * known.own)

    def validate(self) -> None:
        """Raises AssertionError when table and column disagree."""
        footprint = self._columns.signals.footprint
        for slot in range(len(footprint)):
            own = sum(known.own for known in self._known.values() if known.slot == slot)
            assert footprint[slot] == own, f"slot {slot}: the column says {footprint[slot]}, the table {own}"
        assert all(name == known.name for name, known in self._known.items()), "a conversation under another's name"
