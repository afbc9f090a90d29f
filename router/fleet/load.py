"""How much work is in flight on each replica.

`LoadTable` owns one column per signal, indexed by slot. A decision *reserves*; the end-of-request line from HAProxy
*releases* by request id, so a count is exact the millisecond a request ends. What other edges have in flight is added
as they tell it (`add_elsewhere`). Two things keep our own count honest when lines are lost or when work arrives that no
decision of ours placed:

- `observe` compares with HAProxy's own sessions per server. What HAProxy has beyond our reservations, twice in a row,
  is *foreign* work (balanced requests, requests that failed open) and counts as load. What we hold
  beyond HAProxy's sessions, twice in a row, is leaked: the oldest settled reservations go.
- `observe_engine` compares with the requests an engine counts, where somebody looks at it. What it has beyond all
  of these, twice in a row, is *outside* work (clients that reach it past every edge) and counts as load.
- a reservation older than `reservation_ttl_s` goes in any case.

Twice in a row, because a poll and a stream of events are never of the same instant.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from pointsman.contract.registration import leg_id
from pointsman.policies.candidates import Column
from pointsman.router.fleet.slots import INITIAL_SLOTS, grown

MAX_RESERVATIONS = 1_000_000
"""About 250 MB of bookkeeping; beyond any number of streams one HAProxy holds open. When met, the oldest goes."""

MAX_REQUEST_TOKENS = 2**24
"""Tokens one request counts as at most, beyond any context there is. A million reservations of that are 2^44, and other
edges tell of at most 2^53 tokens each, so a column of 64 bits does not wrap."""

SETTLE_S = 2.0
"""A reservation younger than this may not have reached its server yet, so a comparison never takes it for leaked."""


class Reservation(msgspec.Struct, gc=False):
    """Work one decision put on a replica."""

    slot: int
    tokens: int
    made_s: float


class LoadTable:
    """Requests and tokens in flight per slot."""

    def __init__(self, *, reservation_ttl_s: float = 3600.0, max_reservations: int = MAX_RESERVATIONS) -> None:
        self._ttl_s = reservation_ttl_s
        self._max = max_reservations
        self._reservations: dict[str, Reservation] = {}
        self._legs: set[str] = set()
        self._announced: dict[str, int] = {}
        """By request, tokens of its prompt that were announced and count once it is computed."""
        self._columns(INITIAL_SLOTS)
        self._blind_until_s = 0.0
        self.total_in_flight = 0
        """Sum of `in_flight`."""
        self.expired = 0
        """Reservations ended by their TTL or by the limit."""
        self.leaked = 0
        """Reservations ended because HAProxy has no such session."""

    def _columns(self, size: int) -> None:
        self.in_flight: Column = np.zeros(size, dtype=np.int64)
        """Requests: reserved, foreign, elsewhere and outside."""
        self.in_flight_tokens: Column = np.zeros(size, dtype=np.int64)
        self.reserved: Column = np.zeros(size, dtype=np.int64)
        self.foreign: Column = np.zeros(size, dtype=np.int64)
        self.elsewhere: Column = np.zeros(size, dtype=np.int64)
        """Requests other edges have in flight."""
        self.elsewhere_tokens: Column = np.zeros(size, dtype=np.int64)
        self._surplus: Column = np.zeros(size, dtype=np.int64)
        """Sessions less reservations at the last `observe`; negative when we hold more."""
        self.outside: Column = np.zeros(size, dtype=np.int64)
        self._excess: Column = np.zeros(size, dtype=np.int64)
        """What the engine counted beyond all other work at the last `observe_engine`."""
        self._all = (
            self.in_flight, self.in_flight_tokens, self.reserved, self.foreign, self.elsewhere, self.elsewhere_tokens,
            self._surplus, self.outside, self._excess,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._reservations)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._reservations

    def __iter__(self) -> Iterator[tuple[str, Reservation]]:
        return iter(self._reservations.items())

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
        if slot < len(self.reserved) and self.reserved[slot]:
            for request_id in [rid for rid, r in self._reservations.items() if r.slot == slot]:
                self.release(request_id)
        self.total_in_flight -= int(self.in_flight[slot])
        for column in self._all:
            column[slot] = 0

    def reserve(self, request_id: str, slot: int, tokens: int, now_s: float, *, announced: int = 0) -> None:
        """Counts one request on a slot until `release`. A repeated id (HAProxy asked twice) moves its reservation.

        `announced`: tokens it has beyond `tokens` if all of its body arrives; they count from `prefilled` on.
        """
        reservations = self._reservations
        if tokens > MAX_REQUEST_TOKENS:
            tokens = MAX_REQUEST_TOKENS
        if request_id in reservations:
            self.release(request_id)
        elif len(reservations) >= self._max:
            self.release(next(iter(reservations)))
            self.expired += 1
        # What may fail comes first: a slot or a number that does not fit leaves nothing behind.
        self.in_flight_tokens[slot] += tokens
        self.reserved[slot] += 1
        self.in_flight[slot] += 1
        self.total_in_flight += 1
        reservations[request_id] = Reservation(slot, tokens, now_s)
        if announced > 0:
            self._announced[request_id] = min(announced, MAX_REQUEST_TOKENS - tokens)

    def prefilled(self, request_id: str) -> None:
        """The prompt of a request is computed: its prefill leg is over, and its body had arrived."""
        if self._legs:
            self.release_leg(request_id)
        if self._announced:
            more = self._announced.pop(request_id, 0)
            if more:
                reservation = self._reservations[request_id]
                reservation.tokens += more
                self.in_flight_tokens[reservation.slot] += more

    def reserve_leg(self, request_id: str, slot: int, tokens: int, now_s: float) -> None:
        """Counts the prefill leg of a request on a slot until `release_leg`, or until the request itself is released.

        HAProxy does not carry legs, so `observe` is not for slots of prefill replicas.
        """
        leg = leg_id(request_id)
        self._legs.add(leg)
        self.reserve(leg, slot, tokens, now_s)

    def release_leg(self, request_id: str) -> None:
        """The prompt is computed: its prefill leg, by its own id or the request's, is over. Nothing without one."""
        if self._legs:
            leg = leg_id(request_id)
            if leg in self._legs:
                self.release(leg)

    def release(self, request_id: str) -> int | None:
        """Ends a reservation; its slot, or None when there is none (not ours, or released before)."""
        if self._legs:
            self._legs.discard(request_id)
            self.release_leg(request_id)
        if self._announced:
            self._announced.pop(request_id, None)
        reservation = self._reservations.pop(request_id, None)
        if reservation is None:
            return None
        slot = reservation.slot
        self.reserved[slot] -= 1
        self.in_flight[slot] -= 1
        self.total_in_flight -= 1
        self.in_flight_tokens[slot] -= reservation.tokens
        return slot

    def add_elsewhere(self, slot: int, requests: int, tokens: int) -> None:
        """Another edge has so many more requests in flight on a slot, or fewer."""
        self.elsewhere[slot] += requests
        self.elsewhere_tokens[slot] += tokens
        self.in_flight[slot] += requests
        self.total_in_flight += requests
        self.in_flight_tokens[slot] += tokens

    def observe(self, slot: int, sessions: int, now_s: float) -> None:
        """Compares with the sessions (serving and queued) HAProxy counts on the slot's server."""
        surplus = sessions - int(self.reserved[slot])
        before = int(self._surplus[slot])
        foreign = max(0, min(surplus, before))
        leaked = max(0, min(-surplus, -before))
        if leaked and now_s >= self._blind_until_s:
            surplus += self._drop_leaked(slot, leaked, now_s)
        more = foreign - int(self.foreign[slot])
        self.in_flight[slot] += more
        self.total_in_flight += more
        self.foreign[slot] = foreign
        self._surplus[slot] = surplus

    def observe_engine(self, slot: int, requests: int) -> None:
        """Compares with the requests (running and waiting) the slot's engine counts."""
        before = int(self.outside[slot])
        excess = max(0, requests - (int(self.in_flight[slot]) - before))
        outside = min(excess, int(self._excess[slot]))
        self.in_flight[slot] += outside - before
        self.total_in_flight += outside - before
        self.outside[slot] = outside
        self._excess[slot] = excess

    def _drop_leaked(self, slot: int, count: int, now_s: float) -> int:
        settled = now_s - SETTLE_S
        found: list[str] = []
        for request_id, reservation in self._reservations.items():  # oldest first
            if len(found) == count or reservation.made_s > settled:
                break
            if reservation.slot == slot:
                found.append(request_id)
        for request_id in found:
            self.release(request_id)
        self.leaked += len(found)
        return len(found)

    def lose_sight(self, now_s: float) -> None:
        """Takes nothing for leaked from now on, because streams may run in old workers of HAProxy whose sessions are
        unknown, until `regain_sight`, or at the latest when every reservation of now has expired."""
        self._blind_until_s = now_s + self._ttl_s
        self._surplus[:] = 0

    def regain_sight(self) -> None:
        """Compares again, because the sessions of all workers are known: what none of them has leaks."""
        self._blind_until_s = 0.0
        self._surplus[:] = 0

    @property
    def is_blind(self) -> bool:
        """Whether streams may run where `observe` cannot see them."""
        return self._blind_until_s > 0.0

    def expire(self, now_s: float) -> int:
        """Ends reservations older than their TTL; how many."""
        oldest_s = now_s - self._ttl_s
        count = 0
        while self._reservations:
            request_id, reservation = next(iter(self._reservations.items()))
            if reservation.made_s > oldest_s:
                break
            self.release(request_id)
            count += 1
        self.expired += count
        return count

    def validate(self) -> None:
        """Raises AssertionError when columns and reservations disagree (tests call it after every step)."""
        reserved = np.zeros_like(self.reserved)
        tokens = np.zeros_like(self.in_flight_tokens)
        for reservation in self._reservations.values():
            reserved[reservation.slot] += 1
            tokens[reservation.slot] += reservation.tokens
        assert (reserved == self.reserved).all(), "reserved column is not the sum of reservations"
        assert (tokens + self.elsewhere_tokens == self.in_flight_tokens).all(), "tokens are not those of reservations"
        parts = self.reserved + self.foreign + self.elsewhere + self.outside
        assert (self.in_flight == parts).all(), "in-flight is not reserved, foreign, elsewhere and outside"
        assert self.in_flight.sum() == self.total_in_flight, "the total is not the sum of in-flight"
        assert (self.foreign >= 0).all(), "foreign work is negative"
        assert self._announced.keys() <= self._reservations.keys(), "an announced prompt without its reservation"
        assert self._legs <= self._reservations.keys(), "a leg without its reservation"
        assert (self.elsewhere >= 0).all(), "work elsewhere is negative"
        assert (self.outside >= 0).all(), "outside work is negative"
