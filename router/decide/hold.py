"""Requests held at the edge until there is room for them: the queue, and whose turn it is.

`HoldQueue` owns which requests wait, since when and until when, first come first served. `HoldTurns` asks the pipeline
again: for a request that HAProxy holds, and then for each that is first in its line. Every request is placed before the
next one is looked at, so room for one lets one go.

A wait ends in one of five ways, each counted: the request was admitted, its wait was over, it was refused for another
reason (the policy changed, the replicas left), its client left, or the router gave up on it. Nothing here keeps time:
`HoldTurns.step` is called every `STEP_S` while a request waits.

Each edge holds its own clients' requests. Edges share the KV footprint, so a request that one of them admits takes room
from those that wait at the others; among edges there is no order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

import msgspec

from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.fleet.replicas import Membership, ReplicaRegistry
from pointsman.router.metrics.histogram import Histogram
from pointsman.router.metrics.requests import DecisionMetrics

MAX_HELD = 1024
"""Each held request keeps two connections open: a client's and one to the router. At the limit requests are refused."""

STEP_S = 0.025
"""Seconds between two looks at the requests that wait, while there are any."""

MAX_TURNS = 64
"""Held requests decided in one step, which takes about 5 ms: lookups do not wait behind a whole queue let go."""

HELD_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Outcome(StrEnum):
    """Outcome of a request that a policy wanted to hold."""

    # Counted with every one of them; Enum's own hash is a Python call.
    __hash__ = str.__hash__

    ADMITTED = "admitted"
    TIMED_OUT = "timed-out"
    """Refused after its whole wait."""
    REFUSED = "refused"
    """Refused while it waited, for another reason."""
    GONE = "gone"
    """The client left."""
    DROPPED = "dropped"
    """The router stops, or failed: HAProxy chooses for it."""
    OVERFLOW = "overflow"
    """Refused at once, because too many wait."""


class Held(msgspec.Struct, eq=False, gc=False):
    """One request that waits for room."""

    features: RequestFeatures
    since_s: float
    until_s: float
    refusal: Decision
    """The answer when the wait is over."""


class HoldQueue:
    """The requests that wait for room, first come first."""

    def __init__(self, *, max_held: int = MAX_HELD) -> None:
        self.held: dict[str, Held] = {}
        """By request id, first come first; to be read only."""
        self.models: Counter[str] = Counter()
        """Number of waiting requests by model; to be read only."""
        self.outcomes: Counter[Outcome] = Counter()
        self.waited_s = Histogram(HELD_BOUNDS_S)
        """Seconds that requests waited, whatever became of them."""
        self._max_held = max_held

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self.held.values())

    def __repr__(self) -> str:
        return f"HoldQueue({len(self)} of at most {self._max_held})"

    @property
    def full(self) -> bool:
        return len(self.held) >= self._max_held

    def count_overflow(self) -> None:
        """Counts a request that was refused because the queue is full."""
        self.outcomes[Outcome.OVERFLOW] += 1

    def join(self, features: RequestFeatures, now_s: float, wait_s: float, refusal: Decision) -> Held:
        """Gives a request the last place. The queue is not full, and no request of that id waits.

        wait_s: seconds after which the request is answered with `refusal`.
        """
        assert not self.full and features.request_id not in self.held
        held = self.held[features.request_id] = Held(features, now_s, now_s + wait_s, refusal)
        self.models[features.model] += 1
        return held

    def leave(self, request_id: str, now_s: float, outcome: Outcome) -> bool:
        """Takes a request out of the queue and counts its outcome; False if it did not wait."""
        held = self.held.pop(request_id, None)
        if held is None:
            return False
        model = held.features.model
        self.models[model] -= 1
        if not self.models[model]:
            del self.models[model]
        self.outcomes[outcome] += 1
        self.waited_s.observe(now_s - held.since_s)
        return True

    def lines(self, replicas: ReplicaRegistry) -> dict[str, bytes]:
        """For each model that a request waits for, the slots that may serve it: equal bytes are one line."""
        return {model: replicas.membership(model).slots.tobytes() for model in self.models}

    def has_waiting(self, replicas: ReplicaRegistry, members: Membership) -> bool:
        """Whether a request waits for the very same replicas."""
        return members.slots.tobytes() in self.lines(replicas).values()

    def validate(self) -> None:
        """Raises AssertionError when the queue contradicts itself."""
        assert len(self.held) <= self._max_held, "more wait than may"
        assert self.models == Counter(held.features.model for held in self), "models are counted wrongly"
        assert all(held.features.request_id == name for name, held in self.held.items()), "one under another's id"
        since = [held.since_s for held in self]
        assert since == sorted(since), "not in the order they came"


class Deciding(Protocol):
    """The part of the pipeline that `HoldTurns` uses."""

    holds: HoldQueue

    def decide(self, features: RequestFeatures, now_s: float, *, its_turn: bool = False) -> Decision: ...

    def count_refusal(self, features: RequestFeatures, refusal: Decision) -> None: ...


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
        self._pipeline.count_refusal(features, refusal)
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
                self._pipeline.count_refusal(held.features, held.refusal)
                queue.leave(request_id, now_s, Outcome.TIMED_OUT)
                yield held, held.refusal

    def leave(self, held: Held, now_s: float, outcome: Outcome) -> None:
        """Ends a wait without a decision; nothing happens if it has ended."""
        self._queue.leave(held.features.request_id, now_s, outcome)
