"""Prompt tokens each replica still has to compute before its requests have their first token.

`PrefillBacklog` owns one entry a prompt, from the decision on its request until its first token is known: an event of
the engine, a line of HAProxy's, or its end. Where none comes, the entry ends when the replica should have been done by
its own prefill times (`T(x)`, one prompt after the other). Who adds an entry keeps it and releases it: which request it
is of, is not known here.

Replicas that report first tokens have a grace, and as much more as the last one they reported was late: an engine whose
KV is full lets prompts wait for several times what they take to compute, and a queue that was forgotten there would
draw more requests to it. The lateness is the replica's own, so it grows and goes with its queue, and an entry whose
first token was lost ends all the same.
"""

from __future__ import annotations

import heapq

import msgspec

from pointsman.router.kv.columns import KVColumns

GRACE_S = 5.0
"""Seconds after its expected time within which a first token may still be reported."""


class WaitingPrompt(msgspec.Struct, gc=False):
    """One prompt in front of a replica."""

    slot: int
    tokens: int
    done_s: float
    """Time when the prompt should be computed, by the prefill times alone."""
    patience_s: float
    """Seconds granted beyond `done_s` and the replica's lateness; negative where no first token is reported."""
    due_s: float
    """Time to look whether the prompt is overdue."""
    open: bool = True
    """The prompt waits."""


class PrefillBacklog:
    """Uncached prompt tokens in front of each replica."""

    def __init__(self, columns: KVColumns) -> None:
        self._columns = columns
        self._due: list[tuple[float, int, WaitingPrompt]] = []
        """Heap by `due_s` and order of arrival, with entries that were released since."""
        self._arrivals = 0
        self._open = 0
        self._busy_until_s: dict[int, float] = {}
        self._late_s: dict[int, float] = {}
        """Lateness by slot: seconds between `done_s` and the last first token."""
        self.decayed = 0
        """Entries ended because their first token was never reported."""

    def __len__(self) -> int:
        return self._open

    def __repr__(self) -> str:
        return f"PrefillBacklog({len(self)} waiting)"

    def add(self, slot: int, tokens: int, now_s: float, *, reports: bool) -> WaitingPrompt:
        """Add uncached tokens that a decision put on a slot; `reports`: the first token will be reported."""
        start_s = max(now_s, self._busy_until_s.get(slot, 0.0))
        due_s = done_s = start_s + self._columns.signals.time_ms(slot, tokens) / 1000
        self._busy_until_s[slot] = done_s
        patience_s = -1.0
        if reports:
            patience_s = GRACE_S + (done_s - now_s)
            due_s += patience_s
        entry = WaitingPrompt(slot, tokens, done_s, patience_s, due_s)
        self._arrivals += 1
        heapq.heappush(self._due, (due_s, self._arrivals, entry))
        self._open += 1
        self._columns.add_waiting(slot, tokens)
        return entry

    def release(self, entry: WaitingPrompt, *, first_s: float = -1.0) -> bool:
        """End the wait of a prompt; False when it waited no longer.

        first_s: time of the request's first token; negative for a request that ended without one.
        """
        if not entry.open:
            return False
        entry.open = False
        self._open -= 1
        slot = entry.slot
        self._columns.add_waiting(slot, -entry.tokens)
        if first_s >= 0:
            self._late_s[slot] = max(0.0, first_s - entry.done_s)
        if not self._columns.cells.waiting[slot]:
            self._busy_until_s.pop(slot, None)
        if len(self._due) > 64 + 2 * self._open:
            self._due = [due for due in self._due if due[2].open]
            heapq.heapify(self._due)
        return True

    def expire(self, now_s: float) -> None:
        """End the entries that are overdue. O(1) when none is."""
        while self._due and self._due[0][0] <= now_s:
            _, arrival, entry = self._due[0]
            if entry.open and entry.patience_s >= 0:
                due_s = entry.done_s + entry.patience_s + self._late_s.get(entry.slot, 0.0)
                if due_s > now_s:
                    entry.due_s = due_s
                    heapq.heapreplace(self._due, (due_s, arrival, entry))
                    continue
            heapq.heappop(self._due)
            if self.release(entry):
                self.decayed += 1

    def clear_slot(self, slot: int) -> None:
        """Release the prompts of a replica that left or restarted."""
        for entry in [entry for _, _, entry in self._due if entry.slot == slot]:
            self.release(entry)
        self._busy_until_s.pop(slot, None)
        self._late_s.pop(slot, None)
