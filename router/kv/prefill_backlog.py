"""Prompt tokens each replica still has to compute before its requests have their first token.

`PrefillBacklog` owns one entry a request, from its decision until its first token is known: an event of the engine, a
line of HAProxy's, or its end. Where none comes, the entry ends when the replica should have been done by its own
prefill times (`T(x)`, one prompt after the other).

Replicas that report first tokens have a grace, and as much more as the last one they told was late: an engine whose KV
is full lets prompts wait for several times what they take to compute, and a queue that was forgotten there would draw
more requests to it. The lateness is the replica's own, so it grows and goes with its queue, and an entry whose first
token was lost ends all the same.
"""

from __future__ import annotations

import heapq

import msgspec

from pointsman.router.kv.columns import KVColumns

MAX_ENTRIES = 262_144
"""Requests without a first token. When met, the one due first goes."""

GRACE_S = 5.0
"""How much later than expected the first token of a replica that reports may be before its silence counts."""


class _Entry(msgspec.Struct, gc=False):
    """One prompt in front of a replica."""

    slot: int
    tokens: int
    done_s: float
    """When it should be computed, by the prefill times alone."""
    patience_s: float
    """What its silence is given beyond that and the replica's lateness; negative where no first token is told."""
    due_s: float
    """When to look whether it is overdue."""


class PrefillBacklog:
    """Uncached prompt tokens in front of each replica."""

    def __init__(self, columns: KVColumns, *, max_entries: int = MAX_ENTRIES) -> None:
        self._columns = columns
        self._max = max_entries
        self._entries: dict[str, _Entry] = {}
        self._due: list[tuple[float, str]] = []
        self._busy_until_s: dict[int, float] = {}
        self._late_s: dict[int, float] = {}
        """By slot, how much later than `done_s` the last first token came."""
        self.decayed = 0
        """Entries ended because their first token was never reported."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def add(self, request_id: str, slot: int, tokens: int, now_s: float, *, reports: bool) -> None:
        """A decision put `tokens` uncached tokens on a slot; `reports`: its first token will be told."""
        if request_id in self._entries:
            self.release(request_id)
        start_s = max(now_s, self._busy_until_s.get(slot, 0.0))
        due_s = done_s = start_s + self._columns.signals.time_ms(slot, tokens) / 1000
        self._busy_until_s[slot] = done_s
        patience_s = -1.0
        if reports:
            patience_s = GRACE_S + (done_s - now_s)
            due_s += patience_s
        self._entries[request_id] = _Entry(slot, tokens, done_s, patience_s, due_s)
        heapq.heappush(self._due, (due_s, request_id))
        self._columns.add_waiting(slot, tokens)
        while len(self._entries) > self._max:
            self._end_first_due()

    def release(self, request_id: str, *, first_s: float | None = None) -> bool:
        """The request had its first token at `first_s`, or ended without one; False when it had no entry."""
        entry = self._entries.pop(request_id, None)
        if entry is None:
            return False
        slot = entry.slot
        self._columns.add_waiting(slot, -entry.tokens)
        if first_s is not None:
            self._late_s[slot] = max(0.0, first_s - entry.done_s)
        if not self._columns.waiting(slot):
            self._busy_until_s.pop(slot, None)
        if len(self._due) > 64 + 2 * len(self._entries):
            self._due = [(entry.due_s, request) for request, entry in self._entries.items()]
            heapq.heapify(self._due)
        return True

    def expire(self, now_s: float) -> None:
        """Ends the entries that are overdue. O(1) when none is."""
        while self._due and self._due[0][0] <= now_s:
            due_s, request_id = self._due[0]
            entry = self._entries.get(request_id)
            if entry is not None and entry.due_s == due_s and entry.patience_s >= 0:
                due_s = entry.done_s + entry.patience_s + self._late_s.get(entry.slot, 0.0)
                if due_s > now_s:
                    entry.due_s = due_s
                    heapq.heapreplace(self._due, (due_s, request_id))
                    continue
            self._end_first_due()

    def _end_first_due(self) -> None:
        due_s, request_id = heapq.heappop(self._due)
        entry = self._entries.get(request_id)
        if entry is not None and entry.due_s == due_s:
            self.release(request_id)
            self.decayed += 1

    def clear_slot(self, slot: int) -> None:
        """Its replica left or restarted."""
        for request_id in [request for request, entry in self._entries.items() if entry.slot == slot]:
            self.release(request_id)
        self._busy_until_s.pop(slot, None)
        self._late_s.pop(slot, None)

    def validate(self) -> None:
        """Raises AssertionError when entries and column disagree."""
        waiting = self._columns.signals.waiting - self._columns.waiting_elsewhere
        own = [0] * len(waiting)
        for entry in self._entries.values():
            own[entry.slot] += entry.tokens
        assert waiting.tolist() == own, f"the column says {waiting.tolist()}, the entries {own}"
