"""Prompt tokens each replica still has to compute before its requests have their first token.

`PrefillBacklog` owns one entry a request, from its decision until its first token is known: an event of the engine, a
line of HAProxy's, or its end. Where none comes, the entry ends when the replica should have been done by its own
prefill times (`T(x)`, one prompt after the other), plus a grace for replicas that do report.
"""

from __future__ import annotations

import heapq

from router.state.kv_columns import KVColumns

MAX_ENTRIES = 262_144
"""Requests without a first token. When met, the one due first goes."""

GRACE_S = 5.0
"""How much later than predicted the first token of a replica that reports may be before its silence counts."""


class PrefillBacklog:
    """Uncached prompt tokens in front of each replica."""

    def __init__(self, columns: KVColumns, *, max_entries: int = MAX_ENTRIES) -> None:
        self._columns = columns
        self._max = max_entries
        self._entries: dict[str, tuple[int, int, float]] = {}  # request id -> slot, tokens, due
        self._due: list[tuple[float, str]] = []
        self._busy_until_s: dict[int, float] = {}
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
        due_s = start_s + self._columns.time_ms(slot, tokens) / 1000
        self._busy_until_s[slot] = due_s
        if reports:
            due_s += GRACE_S + (due_s - now_s)
        self._entries[request_id] = (slot, tokens, due_s)
        heapq.heappush(self._due, (due_s, request_id))
        self._columns.add_waiting(slot, tokens)
        while len(self._entries) > self._max:
            self._end_first_due()

    def release(self, request_id: str) -> bool:
        """The request has its first token, or ended; False when it had no entry."""
        entry = self._entries.pop(request_id, None)
        if entry is None:
            return False
        slot, tokens, _ = entry
        self._columns.add_waiting(slot, -tokens)
        if not self._columns.waiting(slot):
            self._busy_until_s.pop(slot, None)
        if len(self._due) > 64 + 2 * len(self._entries):
            self._due = [(due_s, request) for request, (_, _, due_s) in self._entries.items()]
            heapq.heapify(self._due)
        return True

    def expire(self, now_s: float) -> None:
        """Ends the entries that are overdue. O(1) when none is."""
        while self._due and self._due[0][0] <= now_s:
            self._end_first_due()

    def _end_first_due(self) -> None:
        due_s, request_id = heapq.heappop(self._due)
        entry = self._entries.get(request_id)
        if entry is not None and entry[2] == due_s:
            self.release(request_id)
            self.decayed += 1

    def clear_slot(self, slot: int) -> None:
        """Its replica left or restarted."""
        for request_id in [request for request, entry in self._entries.items() if entry[0] == slot]:
            self.release(request_id)
        self._busy_until_s.pop(slot, None)

    def validate(self) -> None:
        """Raises AssertionError when entries and column disagree."""
        waiting = self._columns.signals.waiting - self._columns.waiting_elsewhere
        own = [0] * len(waiting)
        for slot, tokens, _ in self._entries.values():
            own[slot] += tokens
        assert waiting.tolist() == own, f"the column says {waiting.tolist()}, the entries {own}"
