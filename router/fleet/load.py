"""Load of each replica: work in flight, as columns by slot.

`LoadTable` owns one column per signal. `pointsman.router.requests.table` adds what a decision reserves and removes it
when the request ends, so a count is exact the millisecond HAProxy's line arrives. What other edges have in flight is
added as they publish it (`add_elsewhere`). Two comparisons keep our own count honest when lines are lost or when work
arrives that no decision of ours placed:

- `observe` compares with HAProxy's own sessions per server. What HAProxy has beyond our reservations, twice in a row,
  is *foreign* work (balanced requests, requests that failed open) and counts as load. What we hold beyond HAProxy's
  sessions, at every comparison for `SETTLE_S`, is leaked, and reported to the caller.
- `observe_engine` compares with the requests an engine counts, where somebody looks at it. What it has beyond all
  of these, twice in a row, is *outside* work (clients that reach it past every edge) and counts as load.

Twice in a row, because a poll and a stream of events are never of the same instant. Longer for what has leaked, because
nobody can tell which reservation it is: lines that are late, as after a reload, or a request that has not reached its
server yet, would end a reservation that has its session. The table knows no request by name.
"""

from __future__ import annotations

import numpy as np

from pointsman.policies.candidates import Column
from pointsman.router.fleet.slots import INITIAL_SLOTS, grown

MAX_REQUEST_TOKENS = 2**24
"""Tokens one request counts as at most, beyond any context there is. A million reservations of that are 2^44, and other
edges publish at most 2^53 tokens each, so a column of 64 bits does not wrap."""


SETTLE_S = 2.0
"""Seconds for which reservations have to be without a session before they have leaked."""


class LoadTable:
    """Requests and tokens in flight per slot."""

    def __init__(self, *, reservation_ttl_s: float = 3600.0) -> None:
        """reservation_ttl_s: seconds after which a reservation has ended in any case."""
        self._ttl_s = reservation_ttl_s
        self._columns(INITIAL_SLOTS)
        self._blind_until_s = 0.0
        self.total_in_flight = 0
        """Sum of `in_flight`."""
        self._held = 0
        self.expired = 0
        """Reservations ended by their age or by the limit."""
        self.leaked = 0
        """Reservations ended because HAProxy has no such session."""

    def _columns(self, size: int) -> None:
        self.in_flight: Column = np.zeros(size, dtype=np.int64)
        """Requests: reserved, foreign, elsewhere and outside."""
        self.in_flight_tokens: Column = np.zeros(size, dtype=np.int64)
        self.reserved: Column = np.zeros(size, dtype=np.int64)
        self.foreign: Column = np.zeros(size, dtype=np.int64)
        self.batch: Column = np.zeros(size, dtype=np.int64)
        """Reserved requests of the batch class, which are in `in_flight` too."""
        self.batch_prompts: Column = np.zeros(size, dtype=np.int64)
        """Requests of the batch class whose prompts are not computed yet."""
        self.elsewhere: Column = np.zeros(size, dtype=np.int64)
        """Requests other edges have in flight."""
        self.elsewhere_tokens: Column = np.zeros(size, dtype=np.int64)
        self._surplus: Column = np.zeros(size, dtype=np.int64)
        """Sessions less reservations at the last `observe`; negative when we hold more."""
        self._missing: Column = np.zeros(size, dtype=np.int64)
        """Fewest reservations beyond the sessions at any `observe` since there are some; 0 when there are none."""
        self._missing_since_ms: Column = np.zeros(size, dtype=np.int64)
        """Time of the first `observe` with some beyond."""
        self.outside: Column = np.zeros(size, dtype=np.int64)
        self._excess: Column = np.zeros(size, dtype=np.int64)
        """Requests that the engine counted beyond all other work at the last `observe_engine`."""
        self._all = (
            self.in_flight, self.in_flight_tokens, self.reserved, self.foreign, self.elsewhere, self.elsewhere_tokens,
            self._surplus, self._missing, self._missing_since_ms, self.outside, self._excess, self.batch,
            self.batch_prompts,
        )  # fmt: skip

    def __len__(self) -> int:
        """Reservations held."""
        return self._held

    def __repr__(self) -> str:
        busy = np.flatnonzero(self.in_flight)
        return f"LoadTable({', '.join(f'{s}:{self.in_flight[s]}' for s in busy.tolist())})"

    def add_slot(self, slot: int) -> None:
        """Makes room for a slot and starts it at zero."""
        if slot >= len(self.in_flight):
            old = self._all
            self._columns(grown(len(self.in_flight), slot))
            for column, before in zip(self._all, old, strict=True):
                column[: len(before)] = before
        self.clear_slot(slot)

    def clear_slot(self, slot: int) -> None:
        """Drops all that is known of a slot: its replica left, or another takes the number."""
        self.total_in_flight -= int(self.in_flight[slot])
        self._held -= int(self.reserved[slot])
        for column in self._all:
            column[slot] = 0

    def add(self, slot: int, tokens: int) -> None:
        """One more request is reserved on a slot. For a slot there is not: raises IndexError, and nothing changes."""
        self.in_flight_tokens[slot] += tokens
        self.reserved[slot] += 1
        self.in_flight[slot] += 1
        self.total_in_flight += 1
        self._held += 1

    def add_tokens(self, slot: int, tokens: int) -> None:
        """A request reserved on a slot has so many more tokens."""
        self.in_flight_tokens[slot] += tokens

    def remove(self, slot: int, tokens: int) -> None:
        """A reservation of so many tokens on a slot is over."""
        self.reserved[slot] -= 1
        self.in_flight[slot] -= 1
        self.total_in_flight -= 1
        self._held -= 1
        self.in_flight_tokens[slot] -= tokens

    def add_elsewhere(self, slot: int, requests: int, tokens: int) -> None:
        """Another edge has so many more requests in flight on a slot, or fewer."""
        self.elsewhere[slot] += requests
        self.elsewhere_tokens[slot] += tokens
        self.in_flight[slot] += requests
        self.total_in_flight += requests
        self.in_flight_tokens[slot] += tokens

    def observe(self, slot: int, sessions: int, now_s: float) -> int:
        """Compares with the sessions (serving and queued) HAProxy counts on the slot's server; how many reservations
        have had none for `SETTLE_S`. None are missed while streams may run where HAProxy's count does not see them."""
        surplus = sessions - int(self.reserved[slot])
        before = int(self._surplus[slot])
        foreign = max(0, min(surplus, before))
        more = foreign - int(self.foreign[slot])
        self.in_flight[slot] += more
        self.total_in_flight += more
        self.foreign[slot] = foreign
        self._surplus[slot] = surplus
        return self._leaked(slot, -surplus, now_s) if surplus < 0 or self._missing[slot] else 0

    def _leaked(self, slot: int, missing: int, now_s: float) -> int:
        """Reservations that have been missing on a slot for `SETTLE_S`, of so many that are missing now."""
        now_ms = int(now_s * 1000)
        if missing <= 0 or now_s < self._blind_until_s:
            self._missing[slot] = 0
            return 0
        if not self._missing[slot]:
            self._missing[slot], self._missing_since_ms[slot] = missing, now_ms
        elif missing < self._missing[slot]:
            self._missing[slot] = missing
        return int(self._missing[slot]) if now_ms - self._missing_since_ms[slot] >= SETTLE_S * 1000 else 0

    def dropped(self, slot: int, count: int) -> None:
        """So many of the reservations that `observe` missed on a slot were removed: they are missed no more."""
        self._surplus[slot] += count
        self._missing[slot] = max(0, self._missing[slot] - count)
        self.leaked += count

    def observe_engine(self, slot: int, requests: int) -> None:
        """Compares with the requests (running and waiting) the slot's engine counts."""
        before = int(self.outside[slot])
        excess = max(0, requests - (int(self.in_flight[slot]) - before))
        outside = min(excess, int(self._excess[slot]))
        self.in_flight[slot] += outside - before
        self.total_in_flight += outside - before
        self.outside[slot] = outside
        self._excess[slot] = excess

    def lose_sight(self, now_s: float) -> None:
        """Takes nothing for leaked from now on, because streams may run in old workers of HAProxy whose sessions are
        unknown, until `regain_sight`, or at the latest when every reservation of now has expired."""
        self._blind_until_s = now_s + self._ttl_s
        self._surplus[:] = self._missing[:] = 0

    def regain_sight(self) -> None:
        """Compares again, because the sessions of all workers are known: what none of them has leaks."""
        self._blind_until_s = 0.0
        self._surplus[:] = self._missing[:] = 0

    @property
    def is_blind(self) -> bool:
        """Whether streams may run where `observe` cannot see them."""
        return self._blind_until_s > 0.0
