"""Turns of the requests held at the edge: which may go next. `pointsman.router.requests.hold_queue` keeps them.

`HoldTurns` asks the pipeline again: for a request that HAProxy holds, and then for each that is first in its line.
Every request is placed before the next one is looked at, so room for one lets one go. Nothing here keeps time:
`HoldTurns.step` is called every `STEP_S` while a request waits.

Each edge holds its own clients' requests. Edges share the KV footprint, so a request that one of them admits takes room
from those that wait at the others; among edges there is no order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.counts.requests import DecisionMetrics
from pointsman.router.fleet.memberships import Membership
from pointsman.router.requests.hold_queue import Held, HoldQueue, Line, Outcome

STEP_S = 0.025
"""Seconds between two looks at the requests that wait, while there are any."""

MAX_TURNS = 64
"""Held requests decided in one step, which takes about 5 ms: lookups do not wait behind a whole queue let go."""


NO_REPLICA_S = 5.0
"""Seconds for which a line waits for a replica of its model to come back: those that wait would all go at once, and
HAProxy would choose for them. After a reload of HAProxy the checks of all replicas pass again within one."""


class Deciding(Protocol):
    """The part of the pipeline that `HoldTurns` uses."""

    holds: HoldQueue

    def decide(self, features: RequestFeatures, now_s: float, *, its_turn: bool = False) -> Decision: ...

    def count_refusal(self, features: RequestFeatures, refusal: Decision, now_s: float) -> None: ...

    def members_of(self, features: RequestFeatures) -> Membership: ...

    def is_under_way(self, features: RequestFeatures, now_s: float) -> bool: ...


class HoldTurns:
    """Asks the pipeline again for requests that should wait. Errors of a policy are counted and propagate."""

    def __init__(self, pipeline: Deciding, metrics: DecisionMetrics) -> None:
        self._pipeline = pipeline
        self._queue = pipeline.holds
        self._metrics = metrics
        self._shed: list[Held] = []
        self._alone_since_s: dict[str, float] = {}
        """By model, since when no replica of a model is eligible that requests wait for."""

    def ask(self, features: RequestFeatures, now_s: float) -> Held | Decision:
        """A place in the queue for a request that was answered with `hold_ms`.

        A decision instead where there is room by now, or where the request can have no place. Where the queue is full,
        the place is that of a lower request, which the next `step` refuses.
        """
        try:
            decision = self._pipeline.decide(features, now_s)
        except Exception:
            self._metrics.lookup_errors += 1
            raise
        if not decision.hold_ms:
            return decision
        refusal = msgspec.structs.replace(decision, hold_ms=0)
        if features.request_id and features.request_id not in self._queue.held:
            return self._join(features, now_s, decision.hold_ms / 1000, refusal)
        # A person asks by hand, or twice: nothing will end such a request's wait.
        self._pipeline.count_refusal(features, refusal, now_s)
        return refusal

    def _join(self, features: RequestFeatures, now_s: float, wait_s: float, refusal: Decision) -> Held:
        queue = self._queue
        lower = queue.displaced_by(features)
        if lower is not None:
            self._pipeline.count_refusal(lower.features, lower.refusal, now_s)
            queue.leave(lower.features.request_id, now_s, Outcome.SHED)
            self._shed.append(lower)
        share = queue.shares.of(features.model, self._pipeline.members_of(features))
        under_way = self._pipeline.is_under_way(features, now_s)
        return queue.join(features, now_s, wait_s, refusal, under_way=under_way, share=share)

    def take_shed(self) -> list[Held]:
        """The requests that lost their places since the last call; each is to be answered with its refusal."""
        shed, self._shed = self._shed, []
        return shed

    def step(self, now_s: float) -> Iterator[tuple[Held, Decision]]:
        """Decides for the requests whose turn it is, and refuses those whose wait is over; both have left the queue.

        Requests that the very same replicas may serve are one line, and only the first of a line may go.
        """
        for held in self.take_shed():
            yield held, held.refusal
        try:
            yield from self._step(now_s)
        except Exception:
            self._metrics.lookup_errors += 1
            raise

    def _step(self, now_s: float) -> Iterator[tuple[Held, Decision]]:
        turns = 0
        for line in self._queue.lines(self._pipeline.members_of):
            for answered in self._let_go(line, MAX_TURNS - turns, now_s):
                turns += 1
                yield answered
        if self._alone_since_s:
            waited_for = self._queue.models
            self._alone_since_s = {of: since for of, since in self._alone_since_s.items() if of in waited_for}
        for held in self._queue.overdue(now_s):
            self._pipeline.count_refusal(held.features, held.refusal, now_s)
            self._queue.leave(held.features.request_id, now_s, Outcome.TIMED_OUT)
            yield held, held.refusal

    def _let_go(self, line: Line, turns: int, now_s: float) -> Iterator[tuple[Held, Decision]]:
        """Decides for one request of a line after the other until one has to wait on.

        A session that begins may have to wait where one under way has room, so the first of these is asked, too.
        """
        queue, under_way = self._queue, False
        while turns > 0:
            held = queue.first(line, under_way=under_way)
            if held is None or self._waits_for_replicas(held.features, now_s):
                return
            decision = self._pipeline.decide(held.features, now_s, its_turn=True)
            if decision.hold_ms:
                if held.under_way:
                    return
                under_way = True
                continue
            turns -= 1
            queue.leave(held.features.request_id, now_s, Outcome.REFUSED if decision.status else Outcome.ADMITTED)
            yield held, decision

    def _waits_for_replicas(self, features: RequestFeatures, now_s: float) -> bool:
        """Whether no replica is eligible for a request, and has not been for a short time only."""
        model = features.model
        if len(self._pipeline.members_of(features).slots):
            self._alone_since_s.pop(model, None)
            return False
        return now_s - self._alone_since_s.setdefault(model, now_s) < NO_REPLICA_S

    def leave(self, held: Held, now_s: float, outcome: Outcome) -> None:
        """Ends a wait without a decision; nothing happens if it has ended."""
        self._queue.leave(held.features.request_id, now_s, outcome)
