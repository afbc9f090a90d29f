"""How far one engine's words on its keys were followed, and what of them is news.

An engine numbers the changes of what it has resident, through its whole life: a message says how many there were before
it and with it. So what an edge knows of an engine has a number too, whoever told it: the engine itself, several edges
that it tells, or a snapshot of an edge that heard it long ago. A message that is not beyond the number is old; one that
begins at it or before, and ends beyond, is news; before one that begins beyond something is missing, and only a
snapshot says what is resident.

Of two lives of an engine the one that began later counts, by its own clock. Messages without numbers are taken as they
come: in order, or not at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pointsman.contract.events import EngineEvents, EngineLoad, Handoffs
from pointsman.router.kv.prefix_index import PrefixIndex

PAST_EPOCHS = 4
"""Earlier lives of an engine whose late words, by way of another edge, are known to be late."""


class Feed:
    """What is known of one engine."""

    __slots__ = (
        "at", "block_tokens", "complete", "epoch", "handoffs", "in_step", "life", "load", "past", "seq", "taking",
    )  # fmt: skip

    def __init__(self) -> None:
        self.epoch = ""
        """Empty: nothing was heard."""
        self.past: deque[str] = deque(maxlen=PAST_EPOCHS)
        self.life = (0, "")
        """When the latest life that is known began, and its epoch."""
        self.at = 0
        """Changes that are in the index; 0 where the engine does not number them."""
        self.complete = False
        """The index has all that is resident."""
        self.taking = False
        """A snapshot of another edge is being taken: until its end it cannot be said what is missing."""
        self.seq = 0
        self.in_step = False
        """The engine tells this edge itself, and nothing is missing."""
        self.load: EngineLoad | None = None
        self.handoffs: Handoffs | None = None
        self.block_tokens = 0

    def __repr__(self) -> str:
        marks = [name for name in ("in_step", "complete", "taking") if getattr(self, name)]
        return f"Feed({self.epoch or 'nothing'} at {self.at}, {' '.join(marks) or 'behind'}, past {list(self.past)})"

    def whole_blocks(self, tokens: int) -> int:
        """What of a resident prefix a prompt can use: engines cache by whole blocks, where one said of how many."""
        return tokens // self.block_tokens * self.block_tokens if self.block_tokens else tokens

    def restarted(self) -> None:
        """Another life: nothing of this one counts any more."""
        self.past.append(self.epoch)
        self.epoch, self.load, self.handoffs = "", None, None
        self.at, self.complete, self.taking, self.in_step = 0, False, False, False

    def is_late(self, epoch: str, born_ms: int) -> bool:
        """Whether these are words of a life before the one that is known."""
        if epoch == self.epoch:
            return False
        if born_ms and self.life[0]:
            return (born_ms, epoch) < self.life
        return epoch in self.past

    # Its keys

    def hear(self, index: PrefixIndex, slot: int, events: EngineEvents) -> bool:
        """The engine tells this edge. False when something is missing: it must send a snapshot."""
        if events.snapshot:
            self.seq = events.seq
            self.in_step = self._take_all(index, slot, events)
        elif events.epoch != self.epoch:
            self.in_step = False
        elif events.at:
            self.in_step = not self.taking and self._take_changes(index, slot, events)
        else:
            self.in_step = self.in_step and events.seq == self.seq + 1
            self.seq = events.seq
            if self.in_step:
                _apply(index, slot, events)
        return self.in_step

    def hear_of(self, index: PrefixIndex, slot: int, events: EngineEvents) -> bool:
        """Another edge tells what the engine told it. False when something before is missing."""
        if events.snapshot:
            return self._take_all(index, slot, events)
        if not events.at and (self.in_step or not (events.stored or events.evicted)):
            return True
        if events.epoch != self.epoch:
            self.in_step = False  # perhaps it has another life and tells others
            return False
        if events.at:
            return self._take_changes(index, slot, events)
        _apply(index, slot, events)
        return True

    def _take_all(self, index: PrefixIndex, slot: int, events: EngineEvents) -> bool:
        if events.epoch == self.epoch and self.complete and 0 < events.at <= self.at:
            return True
        if self.epoch:
            index.forget(slot)
        self.epoch, self.life = events.epoch, (events.born_ms, events.epoch)
        self.at, self.complete, self.taking = events.at, True, False
        _apply(index, slot, events)
        return True

    def _take_changes(self, index: PrefixIndex, slot: int, events: EngineEvents) -> bool:
        if self.taking:
            # They come again: the streams are read from the snapshot's positions on, once it is taken.
            return True
        if not self.complete or events.since > self.at:
            self.complete = False
            return False
        if events.at > self.at:
            self.at = events.at
            _apply(index, slot, events)
        return True

    # Another edge's snapshot

    def lacks(self, said: EngineEvents, past: Sequence[str]) -> bool:
        """Whether an edge that knows so much of an engine, and of its lives before, knows better."""
        if self.is_late(said.epoch, said.born_ms):
            return False
        if said.epoch != self.epoch:
            return not self.in_step or self.epoch in past or bool(said.born_ms and self.life[0])
        if not said.at:
            return not self.in_step
        return not self.complete or not (self.in_step or said.at <= self.at)

    def begin(self, said: EngineEvents, past: Sequence[str]) -> None:
        """Nothing of it is in the index; its keys follow."""
        self.past.extend(name for name in past if name not in self.past and name != said.epoch)
        self.epoch, self.life, self.at = said.epoch, (said.born_ms, said.epoch), said.at
        self.complete, self.taking, self.in_step = False, True, False

    def took(self) -> None:
        """All parts of the snapshot are in the index."""
        if self.taking:
            self.taking, self.complete = False, True

    def gave_up(self) -> None:
        """The rest of it will not come."""
        self.taking = False


def _apply(index: PrefixIndex, slot: int, events: EngineEvents) -> None:
    stored, evicted = index.stored, index.evicted
    for key in events.stored:
        stored(slot, key)
    for key in events.evicted:
        evicted(slot, key)
