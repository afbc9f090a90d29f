"""Requests held at the edge until there is room for them.

`HoldQueue` owns who waits, since when and until when. It is a plain queue, first come first served; whose turn it is,
`Pipeline.step_held` finds out, which decides as well. A place in it ends in one of five ways, each counted: the request
was admitted, its wait was over, it was refused for another reason (the policy changed, the replicas left), its client
left, or the router gave up on it. Nothing here keeps time: whoever waits is looked at while there is somebody.

Each edge holds its own clients' requests. What edges share is the KV footprint, so a request that one of them admits
takes room from those that wait at the others; among edges there is no order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.metrics.histogram import Histogram

MAX_HELD = 1024
"""Each keeps a client's connection and one to the router open. When met, requests are refused at once."""

STEP_S = 0.025
"""How often those who wait are looked at, while there is somebody."""

HELD_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Outcome(StrEnum):
    """What became of a request that would be held."""

    # Counted with every one of them; Enum's own hash is a Python call.
    __hash__ = str.__hash__

    ADMITTED = "admitted"
    TIMED_OUT = "timed-out"
    """Refused after its whole wait."""
    REFUSED = "refused"
    """Refused while it waited, for another reason."""
    GONE = "gone"
    """Its client left."""
    DROPPED = "dropped"
    """The router stops, or failed: HAProxy chooses for it."""
    OVERFLOW = "overflow"
    """Refused at once, because too many wait."""


class Held(msgspec.Struct, eq=False, gc=False):
    """One request that waits."""

    features: RequestFeatures
    since_s: float
    until_s: float
    refusal: Decision
    """What it is told when its wait is over."""


class HoldQueue:
    """Those who wait, in the order they came."""

    def __init__(self, *, max_held: int = MAX_HELD) -> None:
        self.held: dict[str, Held] = {}
        """By request id, first come first; to be read only."""
        self.models: Counter[str] = Counter()
        """How many wait for each model; to be read only."""
        self.outcomes: Counter[Outcome] = Counter()
        self.waited_s = Histogram(HELD_BOUNDS_S)
        """Of all that waited, whatever became of them."""
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

    def overflowed(self) -> None:
        """A request was refused because the queue is full."""
        self.outcomes[Outcome.OVERFLOW] += 1

    def join(self, features: RequestFeatures, now_s: float, wait_s: float, refusal: Decision) -> Held:
        """A request takes the last place. The queue is not full, and nobody of that id waits."""
        assert not self.full and features.request_id not in self.held
        held = self.held[features.request_id] = Held(features, now_s, now_s + wait_s, refusal)
        self.models[features.model] += 1
        return held

    def leave(self, request_id: str, now_s: float, outcome: Outcome) -> bool:
        """A request waits no longer; False if it did not."""
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

    def validate(self) -> None:
        """Raises AssertionError when the queue contradicts itself."""
        assert len(self.held) <= self._max_held, "more wait than may"
        assert self.models == Counter(held.features.model for held in self), "models are counted wrongly"
        assert all(held.features.request_id == name for name, held in self.held.items()), "one under another's id"
        since = [held.since_s for held in self]
        assert since == sorted(since), "not in the order they came"
