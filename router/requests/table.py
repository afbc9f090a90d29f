"""Every request this edge placed, from its reservation to its end: one record each, and the one place where it ends.

`RequestTable` owns the record of a request: the slot it is reserved on with its tokens, its prefill request where
another replica computes the prompt, its prompt in the prefill backlog, and what the decision predicted of the KV. The
steps of its life, each a method:

- `reserve`, `reserve_prefill` and `place`: a decision put it on a replica.
- `first_token`: the prompt is computed, as HAProxy saw it; `report`: as an engine reports it.
- `end`: HAProxy's line. The reservation is over; the record is kept for `LINGER_S`, since the line may overtake what
  the engine reports. An engine's report of an end leaves the reservation to HAProxy's line.

A record also ends by its age, by the limit, because HAProxy has no such session (`observe`), or as far as its replica's
columns go because that replica left (`clear_slot`).

What always holds: the load columns are the sums of the open reservations, and a prompt waits in the backlog only while
its record is here. The table decides nothing and knows no replica but by its slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec
import numpy as np

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import LEG_SUFFIX
from pointsman.policies.candidates import NO_SLOT, Candidates
from pointsman.policies.request import RequestFeatures
from pointsman.router.fleet.load import MAX_REQUEST_TOKENS, LoadTable
from pointsman.router.kv.parts import Placement, Prompt
from pointsman.router.kv.prefill_backlog import WaitingPrompt
from pointsman.router.kv.state import KVState
from pointsman.router.requests.hold_queue import HoldQueue, Outcome
from pointsman.router.requests.outcomes import Outcomes

MAX_REQUESTS = 262_144
"""Beyond any number of streams one HAProxy holds open, with those that ended just now. When met, the oldest goes."""

LINGER_S = 5.0
"""HAProxy's line may overtake the engine's message; a request that ended is remembered for so long."""

SETTLE_S = 2.0
"""A reservation younger than this may not have reached its server yet, so a comparison never takes it for leaked."""


class PrefillRequest(msgspec.Struct, gc=False):
    """The part of a request that computes its prompt on another replica."""

    slot: int = NO_SLOT
    """Where it is reserved; NO_SLOT once the prompt is computed."""
    tokens: int = 0
    placement: Placement | None = None
    """Prediction of the request under policies with KV signals, until its engine reports the end."""
    waiting: WaitingPrompt | None = None


class Request(msgspec.Struct, gc=False):
    """One request in flight, or ended just now."""

    id: str
    made_s: float
    slot: int
    """Where it is reserved; NO_SLOT once that is over."""
    tokens: int
    announced: int = 0
    """Tokens of its prompt that were announced and count once it is computed."""
    placement: Placement | None = None
    """Prediction of the request under policies with KV signals, until its engine reports the end."""
    waiting: WaitingPrompt | None = None
    prefill: PrefillRequest | None = None
    ended: bool = False
    """HAProxy reported its end."""


class RequestTable:
    """The requests in flight."""

    def __init__(
        self,
        *,
        load: LoadTable,
        kv: KVState,
        holds: HoldQueue,
        ttl_s: float = 3600.0,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        """ttl_s: seconds after which a request without an end is over.
        max_requests: records, of ended requests too; beyond, the oldest goes."""
        self._load = load
        self._kv = kv
        self._backlog = kv.backlog
        self._holds = holds
        self._outcomes = Outcomes(kv)
        self._ttl_s = ttl_s
        self._max = max_requests
        self._requests: dict[str, Request] = {}
        """By id, in the order of `made_s`."""
        self._lingering: deque[tuple[float, Request]] = deque()
        """Requests that ended, and when."""

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def __contains__(self, request_id: object) -> bool:
        """Whether a request was placed by this edge, named by its own id or by that of its prefill request."""
        assert isinstance(request_id, str)
        return request_id in self._requests or request_id.removesuffix(LEG_SUFFIX) in self._requests

    def __repr__(self) -> str:
        return f"RequestTable({len(self)} of at most {self._max}, {len(self._lingering)} ended)"

    def get(self, request_id: str) -> Request | None:
        """A request by its own id; None when it was not placed here, or is forgotten."""
        return self._requests.get(request_id)

    def is_reserved(self, request_id: str) -> bool:
        """Whether a request is in flight as far as HAProxy's lines tell."""
        request = self._requests.get(request_id)
        return request is not None and request.slot != NO_SLOT

    # A decision

    def reserve(self, request_id: str, slot: int, tokens: int, now_s: float, *, announced: int = 0) -> None:
        """Counts a request on a slot until its end. A repeated id (HAProxy asked twice) moves its reservation.

        announced: tokens it has beyond `tokens` if all of its body arrives; they count once its prompt is computed.
        """
        requests = self._requests
        if tokens > MAX_REQUEST_TOKENS:
            tokens = MAX_REQUEST_TOKENS
        # What may fail comes first: a slot or a number that does not fit leaves nothing behind.
        self._load.add(slot, tokens)
        if announced > MAX_REQUEST_TOKENS - tokens:
            announced = MAX_REQUEST_TOKENS - tokens
        request = requests.pop(request_id, None)
        if request is None:
            if len(requests) >= self._max:
                self._drop(next(iter(requests.values())), now_s)
            requests[request_id] = Request(request_id, now_s, slot, tokens, announced)
            return
        self._release(request)
        again = Request(request_id, now_s, slot, tokens, announced)
        # What was expected of it is given up when it is placed again: until then its conversation lasts.
        again.placement, again.waiting, again.prefill = request.placement, request.waiting, request.prefill
        requests[request_id] = again

    def reserve_prefill(self, request_id: str, slot: int, tokens: int) -> None:
        """Counts the prefill request of a reserved request on a slot until its prompt is computed.

        HAProxy does not carry prefill requests, so `observe` is not for slots of prefill replicas.
        """
        request = self._requests[request_id]
        if request.prefill is None:
            request.prefill = PrefillRequest()
        if tokens > MAX_REQUEST_TOKENS:
            tokens = MAX_REQUEST_TOKENS
        self._load.add(slot, tokens)
        request.prefill.slot, request.prefill.tokens = slot, tokens

    def place(
        self,
        features: RequestFeatures,
        prompt: Prompt,
        slot: int,
        candidates: Candidates,
        now_s: float,
        *,
        prefill: int = NO_SLOT,
    ) -> None:
        """A decision sent a prompt to a slot: its keys are expected there, its prefill is in front of others.

        prefill: the slot where the prompt is computed, when that is another; keys are expected on both then.
        """
        kv = self._kv
        placement = kv.place(features, prompt, slot, candidates, now_s, prefill=prefill)
        if not features.request_id:  # a person asks by hand: nothing would ever end it
            return
        request = self._requests[features.request_id]
        if request.placement is not None or request.prefill is not None:
            self._give_up(request, now_s)
        placement.ahead = kv.columns.cells.waiting[slot]
        request.placement = placement
        if prefill == NO_SLOT:
            request.waiting = self._queue(placement, prompt, now_s)
            return
        computed = kv.place_prefill(features, prompt, prefill)
        request.prefill = PrefillRequest(placement=computed, waiting=self._queue(computed, prompt, now_s))

    def _queue(self, placement: Placement, prompt: Prompt, now_s: float) -> WaitingPrompt:
        """Put a prompt into the backlog of the slot that computes it, as far as it arrived."""
        slot = placement.slot
        tokens = placement.uncached if prompt.whole else min(placement.uncached, prompt.arrived)
        # An announced prompt may never arrive, so its first token is given no grace.
        return self._backlog.add(slot, tokens, now_s, reports=self._kv.reports(slot) and prompt.whole)

    # Its first token

    def first_token(self, request_id: str, now_s: float) -> None:
        """HAProxy saw the first token of a request just now."""
        request = self._requests.get(request_id)
        if request is not None:
            self._first_token(request, now_s, 0.0)

    def _first_token(self, request: Request, now_s: float, took_ms: float) -> None:
        """HAProxy saw the first token: just now, or `took_ms` after the request where it was timed."""
        placement = request.placement
        first_s = now_s
        if placement is not None:
            self._outcomes.answered(placement)
            if took_ms > 0:
                first_s = min(now_s, request.made_s + took_ms / 1000)
        if self._prompt_computed(request, first_s) and took_ms > 0 and placement is not None:
            self._kv.lessons.prefill_time(placement, took_ms)

    def _prompt_computed(self, request: Request, first_s: float = -1.0) -> bool:
        """The prompt was computed at `first_s`, or is not wanted any more (negative); True if it still waited at the
        request's own replica."""
        if request.prefill is not None:
            self._prefill_over(request.prefill)
        if request.announced:
            request.tokens += request.announced
            self._load.add_tokens(request.slot, request.announced)
            request.announced = 0
        waiting = request.waiting
        if waiting is None:
            return False
        request.waiting = None
        return self._backlog.release(waiting, first_s=first_s)

    def _prefill_over(self, prefill: PrefillRequest) -> None:
        if prefill.slot != NO_SLOT:
            self._load.remove(prefill.slot, prefill.tokens)
            prefill.slot = NO_SLOT
        if prefill.waiting is not None:
            self._backlog.release(prefill.waiting)
            prefill.waiting = None

    # What engines report

    def report(self, slot: int, events: EngineEvents, now_s: float) -> None:
        """The engine on a slot reported first tokens and ends; requests of other edges are passed over."""
        for first in events.first:
            part = self._reported(first.id, now_s)
            if part is not None and part.placement is not None:
                self._outcomes.first_token(part.placement, slot, first)
        for finished in events.finished:
            part = self._reported(finished.id, -1.0)
            if part is not None and part.placement is not None:
                self._outcomes.finished(part.placement, slot, finished, now_s)
                part.placement = None

    def _reported(self, request_id: str, first_s: float) -> Request | PrefillRequest | None:
        """The request or prefill request that an engine names, whose prompt was computed at `first_s`, or is not wanted
        any more (negative); None for one that was not placed here."""
        request = self._requests.get(request_id)
        if request is not None:
            self._prompt_computed(request, first_s)
            return request
        if request_id.endswith(LEG_SUFFIX):
            request = self._requests.get(request_id.removesuffix(LEG_SUFFIX))
            if request is not None and request.prefill is not None:
                self._prefill_over(request.prefill)
                return request.prefill
        return None

    # Its end

    def end(
        self,
        request_id: str,
        now_s: float,
        *,
        served_by: int = NO_SLOT,
        served: bool = True,
        took_ms: float = -1.0,
    ) -> None:
        """HAProxy saw the end of a request, whether it was served, refused, held or placed by HAProxy alone.

        served_by: the slot it really went to, where that is another than it was placed on; else NO_SLOT.
        served: whether an answer with a status of 2xx began.
        took_ms: from the request to its first token, in milliseconds; negative where nobody measured it.
        """
        if self._holds.held:
            self._holds.leave(request_id, now_s, Outcome.GONE)
        request = self._requests.get(request_id)
        if request is None:
            return
        self._release(request)
        if took_ms >= 0:
            self._first_token(request, now_s, took_ms)
        self._prompt_computed(request)
        placement = request.placement
        if placement is not None:
            self._outcomes.ended(placement, now_s, served_by=served_by, served=served)
        elif request.prefill is None or request.prefill.placement is None:
            del self._requests[request_id]  # nothing is left to be reported
            return
        if not request.ended:
            request.ended = True
            self._lingering.append((now_s, request))
            # Two for each that comes: under load the sweep has few to forget, and holds nobody up.
            self._forget(now_s, 2)

    def _release(self, request: Request) -> int:
        """The reservation is over; how many there were."""
        if request.prefill is not None and request.prefill.slot != NO_SLOT:
            self._load.remove(request.prefill.slot, request.prefill.tokens)
            request.prefill.slot = NO_SLOT
        request.announced = 0
        if request.slot == NO_SLOT:
            return 0
        self._load.remove(request.slot, request.tokens)
        request.slot = NO_SLOT
        return 1

    def _forget(self, now_s: float, count: int) -> None:
        """Drop up to `count` requests that ended too long ago, or that are too many."""
        lingering = self._lingering
        while count and lingering and (lingering[0][0] <= now_s - LINGER_S or len(lingering) > self._max):
            self._drop(lingering.popleft()[1], now_s)
            count -= 1

    def _drop(self, request: Request, now_s: float) -> None:
        """Nothing of a request is waited for any more."""
        if self._requests.get(request.id) is not request:
            return
        del self._requests[request.id]
        self._load.expired += self._release(request)
        self._give_up(request, now_s)

    def _give_up(self, request: Request, now_s: float) -> None:
        """Drop the prediction of a request."""
        if request.placement is not None:
            self._outcomes.over(request.placement, now_s)
            request.placement = None
        self._prompt_computed(request)
        request.prefill = None

    # Without an end

    def observe(self, slot: int, sessions: int, now_s: float) -> None:
        """Compares with the sessions (serving and queued) HAProxy counts on the slot's server: the oldest reservations
        that have none, twice in a row, are over."""
        missing = self._load.observe(slot, sessions, now_s)
        if not missing:
            return
        settled_s = now_s - SETTLE_S
        found: list[Request] = []
        for request in self._requests.values():  # oldest first
            if len(found) == missing or request.made_s > settled_s:
                break
            if request.slot == slot:
                found.append(request)
        for request in found:
            self._release(request)
            self._forget_if_empty(request)
        self._load.dropped(slot, len(found))

    def clear_slot(self, slot: int) -> None:
        """The replica there left, or the slot is another's: nothing is reserved on it. What was predicted of requests
        there stays until their end."""
        if not self._load.reserved[slot]:
            return
        for request in list(self._requests.values()):
            prefill = request.prefill
            if request.slot == slot:
                self._release(request)
                self._forget_if_empty(request)
            elif prefill is not None and prefill.slot == slot:
                self._load.remove(slot, prefill.tokens)
                prefill.slot = NO_SLOT

    def _forget_if_empty(self, request: Request) -> None:
        if request.placement is None and (request.prefill is None or request.prefill.placement is None):
            self._requests.pop(request.id, None)

    def expire(self, now_s: float) -> int:
        """Ends requests older than their TTL, and forgets those that ended long enough ago; how many reservations of
        the former there were."""
        requests, before = self._requests, self._load.expired
        self._forget(now_s, len(self._lingering))
        while requests:
            oldest = next(iter(requests.values()))
            if oldest.made_s > now_s - self._ttl_s:
                break
            self._drop(oldest, now_s)
        return self._load.expired - before

    def validate(self) -> None:
        """Raises AssertionError when the table and the columns disagree (tests call it after every step)."""
        load = self._load
        reserved, tokens = np.zeros_like(load.reserved), np.zeros_like(load.in_flight_tokens)
        waiting = 0
        for request_id, request in self._requests.items():
            assert request.id == request_id, "a request under another's id"
            parts = [(request.slot, request.tokens, request.waiting)]
            if request.prefill is not None:
                parts.append((request.prefill.slot, request.prefill.tokens, request.prefill.waiting))
            for slot, count, entry in parts:
                if slot != NO_SLOT:
                    reserved[slot] += 1
                    tokens[slot] += count
                waiting += entry is not None and entry.open
            assert request.slot != NO_SLOT or not request.announced, "an announced prompt without its reservation"
        assert (reserved == load.reserved).all(), "reserved column is not the sum of reservations"
        assert (tokens + load.elsewhere_tokens == load.in_flight_tokens).all(), "tokens are not those of reservations"
        assert waiting == len(self._backlog), "a prompt waits whose request is not here"
        assert len(self._requests) <= self._max and len(self._lingering) <= self._max, "more requests than the limit"
