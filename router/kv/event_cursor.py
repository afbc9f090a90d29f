"""Position in one engine's event stream, and what the latest messages said besides prefix keys.

An engine numbers the changes of what it has resident through its whole life: a message says how many changes came
before it (`since`) and how many there are with it (`at`). `EventCursor` owns the number up to which the index follows
the engine. A message that ends at or before it is old; one that begins at it or before, and ends beyond, is applied;
before one that begins beyond it something is missing, and the engine must send a snapshot. Messages without these
numbers are taken in the order of `seq`, or not at all.
"""

from __future__ import annotations

from collections import deque

from pointsman.contract.events import EngineEvents, EngineLoad, Handoffs
from pointsman.router.kv.prefix_index import PrefixIndex

PAST_EPOCHS = 4
"""Earlier incarnations of an engine whose late messages are recognised."""


class EventCursor:
    """Place in the event stream of one engine up to which events are applied."""

    __slots__ = ("at", "block_tokens", "epoch", "handoffs", "in_step", "load", "past", "seq", "started")

    def __init__(self) -> None:
        self.epoch = ""
        """Incarnation whose keys are in the index; empty while the engine does not report to this edge."""
        self.past: deque[str] = deque(maxlen=PAST_EPOCHS)
        """Incarnations before."""
        self.at = 0
        """Changes that are in the index; 0 where the engine does not number them."""
        self.seq = 0
        self.in_step = False
        """Nothing is missing: the index has all that is resident."""
        self.started = 0
        """Number of this start among all starts of engines that the edge has seen."""
        self.load: EngineLoad | None = None
        self.handoffs: Handoffs | None = None
        self.block_tokens = 0

    def __repr__(self) -> str:
        step = "in step" if self.in_step else "behind"
        return f"EventCursor({self.epoch or 'nothing'} at {self.at}, {step}, past {list(self.past)})"

    def whole_blocks(self, tokens: int) -> int:
        """Tokens of a resident prefix that a prompt can use: engines cache by whole blocks."""
        return tokens // self.block_tokens * self.block_tokens if self.block_tokens else tokens

    def restarted(self) -> None:
        """Drop all that was known of an incarnation, since another one of the engine began."""
        if self.epoch:
            self.past.append(self.epoch)
        self.load = self.handoffs = None
        self.lost()

    def lost(self) -> None:
        """Follow no incarnation: reports reach this edge no more, until a snapshot of any incarnation."""
        self.epoch, self.at, self.in_step = "", 0, False

    def apply(self, index: PrefixIndex, slot: int, events: EngineEvents) -> bool:
        """Apply the keys of one message to the index; False when the engine must send a snapshot, as one is missing."""
        if events.snapshot:
            if not (self.in_step and events.epoch == self.epoch and 0 < events.at <= self.at):
                if self.epoch:
                    index.forget(slot)
                self.epoch, self.at = events.epoch, events.at
                _apply(index, slot, events)
            self.seq, self.in_step = events.seq, True
        elif events.epoch != self.epoch:
            self.in_step = False
        elif events.at:
            self.in_step = self.in_step and events.since <= self.at
            if self.in_step and events.at > self.at:
                self.at = events.at
                _apply(index, slot, events)
        else:
            self.in_step = self.in_step and events.seq == self.seq + 1
            self.seq = events.seq
            if self.in_step:
                _apply(index, slot, events)
        return self.in_step


def _apply(index: PrefixIndex, slot: int, events: EngineEvents) -> None:
    stored, evicted = index.stored, index.evicted
    for key in events.stored:
        stored(slot, key)
    for key in events.evicted:
        evicted(slot, key)
