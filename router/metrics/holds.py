"""Metrics of the queue of held requests, read from it at scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pointsman.policies.request import Priority
from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, gauge, histogram
from pointsman.router.requests.hold_queue import HoldQueue, Outcome


class HoldCollector(FamilyCollector):
    """Reads the queue's counts."""

    def __init__(self, holds: HoldQueue) -> None:
        self._holds = holds

    def collect(self) -> Iterator[Family]:
        holds, outcomes = self._holds, self._holds.outcomes
        yield from gauge("pointsman_held", "Requests held at the edge that wait for room at replicas.", len(holds))
        yield from gauge(
            "pointsman_held_by_priority",
            "Requests held at the edge that wait for room at replicas, by priority class.",
            _by_class(holds),
            "priority",
        )
        yield from gauge(
            "pointsman_held_bytes", "Bytes of request bodies that HAProxy keeps of held requests, at most.", holds.bytes
        )
        yield from counter(
            "pointsman_holds",
            "Requests that a policy wanted to hold at the edge, by outcome.",
            ((outcome, outcomes[outcome]) for outcome in Outcome),
            "outcome",
        )
        yield from counter(
            "pointsman_holds_by_priority",
            "Requests that a policy wanted to hold at the edge, by priority class and outcome.",
            (((Priority(of).label, outcome), count) for (outcome, of), count in holds.by_class.items()),
            "priority",
            "outcome",
        )
        yield from histogram("pointsman_hold_seconds", "Time that requests were held at the edge.", holds.waited_s)
        yield from histogram(
            "pointsman_hold_by_priority_seconds",
            "Time that requests were held at the edge, by priority class.",
            ((of.label, waited_s) for of, waited_s in holds.waited_by_class_s.items()),
            "priority",
        )


def _by_class(holds: HoldQueue) -> Iterator[tuple[str, float]]:
    """Return the number of waiting requests of each class."""
    held = Counter[int]()
    for (priority, _), count in holds.owners.items():
        held[priority] += count
    return ((of.label, held[of]) for of in Priority)
