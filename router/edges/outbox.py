"""What one edge learned of the fleet's KV and has not yet told the others.

`KVOutbox` gathers between two batches: expectations, conversations that changed, and what engines told this edge. It
stays small while nobody takes anything (Redis is away): conversations are named and not copied, what an engine said
about a key last is all that is kept of it, and beyond `MAX_PENDING` entries all is dropped and `overrun` is set, which
makes the other edges ask for a snapshot instead.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from pointsman.contract.events import EngineEvents, EngineLoad, Finished, FirstToken

MAX_PENDING = 262_144
"""Keys, conversations and requests that wait: about 30 MB, and some ten seconds of a busy edge."""

Name = str | int


class EngineOut:
    """What one engine said since the last batch."""

    __slots__ = (
        "at", "born_ms", "capacity_tokens", "changes", "epoch", "finished", "first", "load", "since", "snapshot",
    )  # fmt: skip

    def __init__(self, epoch: str, born_ms: int) -> None:
        self.epoch = epoch
        self.born_ms = born_ms
        self.snapshot = False
        self.since = 0
        self.at = 0
        """Changes of its life before what is said here, and with it."""
        self.changes: dict[int, bool] = {}
        """Key -> whether it is resident."""
        self.first: list[FirstToken] = []
        self.finished: list[Finished] = []
        self.load: EngineLoad | None = None
        self.capacity_tokens = 0


class KVOutbox:
    """Written by `KVState`, emptied by whoever tells the other edges."""

    def __init__(self, *, max_pending: int = MAX_PENDING) -> None:
        self._max = max_pending
        self._keys = 0
        self._requests = 0
        self.expected: list[tuple[int, Sequence[int]]] = []
        """Slot and keys."""
        self.conversations: dict[Name, Name | None] = {}
        """Name -> name before."""
        self.engines: dict[int, EngineOut] = {}
        self.overrun = False
        """More happened than is kept: what is told next has a gap before it."""

    def __bool__(self) -> bool:
        return bool(self.expected or self.conversations or self.engines)

    def __len__(self) -> int:
        return self._keys + self._requests + len(self.conversations)

    def expect(self, slot: int, keys: Sequence[int]) -> None:
        self.expected.append((slot, keys))
        self._keys += len(keys)
        if len(self) > self._max:
            self._drop()

    def converse(self, name: Name, was: Name | None = None) -> None:
        """A conversation changed; `was` is its name before."""
        conversations = self.conversations
        if name not in conversations or was is not None:
            # A name given up between two batches was never told: what matters is the one before it.
            before = conversations.pop(was, None) if was is not None and was != name else None
            conversations[name] = was if before is None else before
        if len(self) > self._max:
            self._drop()

    def relay(self, slot: int, events: EngineEvents, *, in_step: bool, own: Container[str]) -> None:
        """An engine told this edge; `own` are the requests that concern nobody else."""
        out = self.engines.get(slot)
        if out is None or (in_step and out.epoch != events.epoch):
            out = self.engines[slot] = EngineOut(events.epoch, events.born_ms)
        if in_step:
            if events.snapshot:
                out.snapshot = True
                out.changes.clear()
            elif not out.at:
                out.since = events.since
            elif events.since > out.at:
                # What is between came here by another edge: those who follow this one take a snapshot, or have it too.
                out.snapshot, out.since = False, events.since
                out.changes.clear()
            out.at = events.at
            out.changes.update(dict.fromkeys(events.stored, True))
            out.changes.update(dict.fromkeys(events.evicted, False))
            self._keys += len(events.stored) + len(events.evicted)
        out.first += [first for first in events.first if first.id not in own]
        out.finished += [finished for finished in events.finished if finished.id not in own]
        self._requests += len(events.first) + len(events.finished)
        if events.load is not None:
            out.load = events.load
        out.capacity_tokens = events.capacity_tokens or out.capacity_tokens
        if len(self) > self._max:
            self._drop()

    def clear_slot(self, slot: int) -> None:
        """Its replica left: another may take the number before the next batch."""
        self.engines.pop(slot, None)
        self.expected = [mark for mark in self.expected if mark[0] != slot]

    def clear(self) -> None:
        """All of it was taken."""
        self.expected, self.conversations, self.engines = [], {}, {}
        self._keys = self._requests = 0

    def _drop(self) -> None:
        self.clear()
        self.overrun = True
