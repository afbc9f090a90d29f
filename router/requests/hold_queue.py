"""Requests held at the edge until there is room for them.

`HoldQueue` owns which requests wait, since when and until when, first come first served. A wait ends in one of five
ways, each counted: the request was admitted, its wait was over, it was refused for another reason (the policy changed,
the replicas left), its client left, or the router gave up on it. Nothing here keeps time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.counts.histogram import Histogram
from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.replicas import ReplicaRegistry

MAX_HELD = 1024
"""Each held request keeps two connections open: a client's and one to the router. At the limit requests are refused."""

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

    def waited_of(self, request_id: str, now_s: float) -> float:
        """Return the seconds for which a request has waited; 0 for one that does not wait."""
        held = self.held.get(request_id)
        return 0.0 if held is None else now_s - held.since_s

    def lines(self, replicas: ReplicaRegistry) -> dict[str, bytes]:
        """For each model that a request waits for, the slots that may serve it: equal bytes are one line."""
        return {model: replicas.memberships.of(model).slots.tobytes() for model in self.models}

    def has_waiting(self, replicas: ReplicaRegistry, members: Membership) -> bool:
        """Whether a request waits for the very same replicas."""
        return members.slots.tobytes() in self.lines(replicas).values()
