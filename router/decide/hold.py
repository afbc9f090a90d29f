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
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.requests.hold_queue import Held, HoldQueue, Outcome

STEP_S = 0.025
"""Seconds between two looks at the requests that wait, while there are any."""

MAX_TURNS = 64
"""Held requests decided in one step, which takes about 5 ms: lookups do not wait behind a whole queue let go."""


class Deciding(Protocol):
    """The part of the pipeline that `HoldTurns` uses."""

    holds: HoldQueue

    def decide(self, features: RequestFeatures, now_s: float, *, its_turn: bool = False) -> Decision: ...

    def count_refusal(self, features: RequestFeatures, refusal: Decision, now_s: float) -> None: ...


class HoldTurns:
    """Asks the pipeline again for requests that should wait. Errors of a policy are counted and propagate."""

    def __init__(self, pipeline: Deciding, replicas: ReplicaRegistry, metrics: DecisionMetrics) -> None:
        self._pipeline = pipeline
        self._queue = pipeline.holds
        self._replicas = replicas
        self._metrics = metrics

    def ask(self, features: RequestFeatures, now_s: float) -> Held | Decision:
        """A place in the queue for a request that was answered with `hold_ms`.

        A decision instead where there is room by now, or where the request can have no place.
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
            return self._queue.join(features, now_s, decision.hold_ms / 1000, refusal)
        # A person asks by hand, or twice: nothing will end such a request's wait.
        self._pipeline.count_refusal(features, refusal, now_s)
        return refusal

    def step(self, now_s: float) -> Iterator[tuple[Held, Decision]]:
        """Decides for the requests whose turn it is, and refuses those whose wait is over; both have left the queue.

        Requests that the very same replicas may serve are one line, and only the first of a line may go.
        """
        try:
            yield from self._step(now_s)
        except Exception:
            self._metrics.lookup_errors += 1
            raise

    def _step(self, now_s: float) -> Iterator[tuple[Held, Decision]]:
        queue, turns = self._queue, 0
        lines, standing = queue.lines(self._replicas), set[bytes]()
        for held in list(queue):
            request_id = held.features.request_id
            line = lines[held.features.model]
            if line not in standing and turns < MAX_TURNS:
                decision = self._pipeline.decide(held.features, now_s, its_turn=True)
                if not decision.hold_ms:
                    queue.leave(request_id, now_s, Outcome.REFUSED if decision.status else Outcome.ADMITTED)
                    turns += 1
                    yield held, decision
                    continue
            standing.add(line)
            if now_s >= held.until_s:
                self._pipeline.count_refusal(held.features, held.refusal, now_s)
                queue.leave(request_id, now_s, Outcome.TIMED_OUT)
                yield held, held.refusal

    def leave(self, held: Held, now_s: float, outcome: Outcome) -> None:
        """Ends a wait without a decision; nothing happens if it has ended."""
        self._queue.leave(held.features.request_id, now_s, outcome)
