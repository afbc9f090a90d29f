"""Every request this edge placed, from its reservation to its end: one record each, and the one place where it ends.

`RequestTable` owns the records (`pointsman.router.requests.request`), by request id. The steps of a request's life are
methods of the table:

- `reserve`, `reserve_prefill` and `place`: a decision put the request on a replica.
- `first_token`: the prompt is computed, as HAProxy saw it; `report`: as an engine reports it. That engine serves the
  request, wherever the decision wanted it, and has its reservation from then on.
- `end`: HAProxy's line. The reservation is over; the record lingers (`pointsman.router.requests.ended`), since the line
  may overtake what the engine reports. An engine's report of an end leaves the reservation to HAProxy's line.

A record also ends by its age, by the limit, because HAProxy has no such session (`observe`), or as far as its replica's
columns go because that replica left (`clear_slot`).

What always holds: the load columns are the sums of the open reservations, and a prompt waits in the backlog only while
its record is here. The table decides nothing and knows no replica but by its slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import LEG_SUFFIX
from pointsman.policies.candidates import NO_SLOT, Candidates
from pointsman.policies.request import BATCH, RequestFeatures
from pointsman.router.fleet.load import MAX_REQUEST_TOKENS, SETTLE_S, LoadTable
from pointsman.router.kv.parts import Placement, Prompt
from pointsman.router.kv.state import KVState
from pointsman.router.requests.ended import EndedRequests
from pointsman.router.requests.hold_queue import HoldQueue, Outcome
from pointsman.router.requests.outcomes import Outcomes
from pointsman.router.requests.request import PrefillRequest, Request, queue_prompt

MAX_REQUESTS = 262_144
"""Beyond any number of streams one HAProxy holds open, with those that ended just now. When met, the oldest goes."""


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
        self._ended = EndedRequests(max_requests)
        self.on_forgotten: Callable[[Request], None] = lambda request: None
        """Called with each record that the table has no longer and that is not counted."""

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def __contains__(self, request_id: object) -> bool:
        """Whether a request was placed by this edge, named by its own id or by that of its prefill request."""
        assert isinstance(request_id, str)
        return request_id in self._requests or request_id.removesuffix(LEG_SUFFIX) in self._requests

    def __repr__(self) -> str:
        return f"RequestTable({len(self)} of at most {self._max}, {len(self._ended)} ended)"

    def get(self, request_id: str) -> Request | None:
        """The record of a request; None for one that was not placed here, or ended long ago."""
        return self._requests.get(request_id)

    def is_reserved(self, request_id: str) -> bool:
        """Whether a request is in flight as far as HAProxy's lines tell."""
        request = self._requests.get(request_id)
        return request is not None and request.slot != NO_SLOT

    # A decision

    def reserve(
        self,
        request_id: str,
        slot: int,
        tokens: int,
        now_s: float,
        *,
        announced: int = 0,
        features: RequestFeatures | None = None,
    ) -> None:
        """Counts a request on a slot until its end. A repeated id (HAProxy asked twice) moves its reservation.

        announced: tokens it has beyond `tokens` if all of its body arrives; they count once its prompt is computed.
        features: what the request asked for.
        """
        requests = self._requests
        if tokens > MAX_REQUEST_TOKENS:
            tokens = MAX_REQUEST_TOKENS
        # What may fail comes first: a slot or a number that does not fit leaves nothing behind.
        self._load.add(slot, tokens)
        if announced > MAX_REQUEST_TOKENS - tokens:
            announced = MAX_REQUEST_TOKENS - tokens
        of_batch = features is not None and features.priority == BATCH
        request = requests.pop(request_id, None)
        if request is None:
            if len(requests) >= self._max:
                self._drop(next(iter(requests.values())), now_s)
            request = requests[request_id] = Request(request_id, now_s, slot, tokens, announced, features)
            if of_batch:
                request.batch_began(self._load)
            if self._holds.held:
                request.held_s = self._holds.waited_of(request_id, now_s)
            return
        request.release(self._load)
        again = Request(request_id, now_s, slot, tokens, announced, features, request.held_s)
        if of_batch:
            again.batch_began(self._load)
        # What was expected of it is given up when it is placed again: until then its conversation lasts.
        again.placement, again.waiting, again.prefill = request.placement, request.waiting, request.prefill
        again.usage_row, again.used_slot, again.first_token = request.usage_row, request.used_slot, request.first_token
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
    ) -> Placement:
        """A decision sent a prompt to a slot: its keys are expected there, its prefill is in front of others.

        prefill: the slot where the prompt is computed, when that is another; keys are expected on both then.
        """
        kv = self._kv
        placement = kv.place(features, prompt, slot, candidates, now_s, prefill=prefill)
        if not features.request_id:  # a person asks by hand: nothing would ever end it
            return placement
        request = self._requests[features.request_id]
        if request.placement is not None or request.prefill is not None:
            self._give_up(request, now_s)
        placement.ahead = kv.columns.cells.waiting[slot]
        request.placement = placement
        if prefill == NO_SLOT:
            request.waiting = queue_prompt(kv, placement, prompt, now_s)
            return placement
        computed = kv.place_prefill(features, prompt, prefill)
        request.prefill = PrefillRequest(placement=computed, waiting=queue_prompt(kv, computed, prompt, now_s))
        return placement

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
        if request.prompt_computed(self._load, self._backlog, first_s) and took_ms > 0 and placement is not None:
            self._kv.lessons.prefill_time(placement, took_ms)

    # What engines report

    def report(self, slot: int, events: EngineEvents, now_s: float) -> None:
        """The engine on a slot reported first tokens and ends; requests of other edges are passed over."""
        for first in events.first:
            part = self._reported(first.id, slot, now_s)
            if part is not None:
                part.first_token = first
                if part.placement is not None:
                    self._outcomes.first_token(part.placement, slot, first)
        if self._holds.shares.charges and events.finished:
            self._holds.shares.report(events.finished)
        for finished in events.finished:
            part = self._reported(finished.id, slot, -1.0)
            if part is not None and part.placement is not None:
                self._outcomes.finished(part.placement, slot, finished, now_s)
                part.placement = None

    def _reported(self, request_id: str, slot: int, first_s: float) -> Request | PrefillRequest | None:
        """The request or prefill request that the engine on a slot names, whose prompt was computed at `first_s`, or is
        not wanted any more (negative); None for one that was not placed here."""
        request = self._requests.get(request_id)
        if request is not None:
            if first_s < 0:
                request.finished = True
            else:  # HAProxy places it elsewhere when the decision comes too late, and when its replica fails
                request.move(self._load, slot)
            request.prompt_computed(self._load, self._backlog, first_s)
            return request
        if request_id.endswith(LEG_SUFFIX):
            request = self._requests.get(request_id.removesuffix(LEG_SUFFIX))
            if request is not None and request.prefill is not None:
                request.prefill.prompt_computed(self._load, self._backlog)
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
        if not served and self._holds.shares.charges:
            self._holds.shares.give_back(request_id)
        request = self._requests.get(request_id)
        if request is None:
            return
        slot = request.slot
        request.release(self._load)
        if took_ms >= 0:
            self._first_token(request, now_s, took_ms)
        request.prompt_computed(self._load, self._backlog)
        placement = request.placement
        if placement is not None:
            self._outcomes.ended(placement, now_s, served_by=served_by, served=served)
        elif not request.awaits_report and (request.finished or slot == NO_SLOT or not self._kv.reports(slot)):
            del self._requests[request_id]  # nothing is left to be reported
            if not request.counted:
                self.on_forgotten(request)
            return
        if not request.ended:
            request.ended = True
            for overdue in self._ended.add(request, now_s):
                self._drop(overdue, now_s)

    def _drop(self, request: Request, now_s: float) -> None:
        """Nothing of a request is waited for any more."""
        if self._requests.get(request.id) is not request:
            return
        del self._requests[request.id]
        if not request.counted:
            self.on_forgotten(request)
        self._load.expired += request.release(self._load)
        self._give_up(request, now_s)

    def _give_up(self, request: Request, now_s: float) -> None:
        """Drop the prediction of a request."""
        if request.placement is not None:
            self._outcomes.over(request.placement, now_s)
            request.placement = None
        request.prompt_computed(self._load, self._backlog)
        request.prefill = None

    # Without an end

    def observe(self, slot: int, sessions: int, now_s: float) -> None:
        """Compares with the sessions (serving and queued) HAProxy counts on the slot's server: the oldest reservations
        that have had none for `SETTLE_S` are over."""
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
            request.release(self._load)
            if not request.awaits_report:
                del self._requests[request.id]
                if not request.counted:
                    self.on_forgotten(request)
        self._load.dropped(slot, len(found))

    def clear_slot(self, slot: int) -> None:
        """The replica there left, or the slot is another's: nothing is reserved on it. What was predicted of requests
        there stays until their end."""
        if not self._load.reserved[slot]:
            return
        for request in list(self._requests.values()):
            prefill = request.prefill
            if request.slot == slot:
                request.release(self._load)
                if not request.awaits_report:
                    del self._requests[request.id]
                    if not request.counted:
                        self.on_forgotten(request)
            elif prefill is not None and prefill.slot == slot:
                prefill.release(self._load)

    def expire(self, now_s: float) -> int:
        """Ends requests older than their TTL, and forgets those that ended long enough ago; how many reservations of
        the former there were."""
        requests, before = self._requests, self._load.expired
        for overdue in self._ended.take_overdue(now_s, len(self._ended)):
            self._drop(overdue, now_s)
        while requests:
            oldest = next(iter(requests.values()))
            if oldest.made_s > now_s - self._ttl_s:
                break
            self._drop(oldest, now_s)
        return self._load.expired - before
