"""Metrics of the queue of held requests, read from it at scrape."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, gauge, histogram
from pointsman.router.requests.hold_queue import HoldQueue, Outcome


class HoldCollector(FamilyCollector):
    """Reads the queue's counts."""

    def __init__(self, holds: HoldQueue) -> None:
        self._holds = holds

    def collect(self) -> Iterator[Family]:
        holds = self._holds
        yield from gauge("pointsman_held", "Requests held at the edge that wait for free KV.", len(holds))
        yield from counter(
            "pointsman_holds",
            "Requests that a policy wanted to hold at the edge, by outcome.",
            ((outcome, holds.outcomes[outcome]) for outcome in Outcome),
            "outcome",
        )
        yield from histogram("pointsman_hold_seconds", "Time that requests were held at the edge.", holds.waited_s)
