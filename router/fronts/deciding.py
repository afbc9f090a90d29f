"""What every lookup front does with one question: features, decision, time taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pointsman.policies.decision import Decision
from pointsman.policies.request import Naming, RequestFeatures
from pointsman.router.decide.features import extract
from pointsman.router.decide.hold_queue import Held, Outcome
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.metrics.requests import DecisionMetrics
from pointsman.router.process.clock import Clock


class Decider:
    """The pipeline as a front sees it, with its clocks and its stopwatch."""

    __slots__ = ("_clock", "_isolate_tenants", "_metrics", "_pipeline", "_stopwatch")

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: DecisionMetrics,
        *,
        clock: Clock,
        stopwatch: Clock,
        isolate_tenants: bool = False,
    ) -> None:
        self._isolate_tenants = isolate_tenants
        self._pipeline = pipeline
        self._metrics = metrics
        self._clock = clock
        self._stopwatch = stopwatch

    def lookup(self, arguments: Mapping[str, object]) -> Decision:
        """Decides one lookup. A policy's programming error propagates, counted."""
        started_s = self._stopwatch()
        try:
            decision = self._pipeline.decide(self._extract(arguments), self._clock())
        except Exception:
            self._metrics.lookup_errors += 1
            raise
        self._metrics.lookup_s.observe(self._stopwatch() - started_s)
        return decision

    def hold(self, arguments: Mapping[str, object]) -> Held | Decision:
        """A place in the queue for a request that was told to wait, or its decision. Errors propagate, counted."""
        try:
            return self._pipeline.hold(self._extract(arguments), self._clock())
        except Exception:
            self._metrics.lookup_errors += 1
            raise

    def _extract(self, arguments: Mapping[str, object]) -> RequestFeatures:
        return extract(arguments, isolate_tenants=self._isolate_tenants, recall=self._recall)

    def _recall(self, session: str, naming: Naming) -> str | None:
        return self._pipeline.recall_model(session, naming, self._clock())

    def step_held(self) -> Iterator[tuple[Held, Decision]]:
        """Those of the held that wait no longer, with their decisions. Errors propagate, counted."""
        try:
            yield from self._pipeline.step_held(self._clock())
        except Exception:
            self._metrics.lookup_errors += 1
            raise

    def leave(self, held: Held, outcome: Outcome) -> None:
        """A held request waits no longer, undecided; nothing happens if it waited no longer anyway."""
        self._pipeline.holds.leave(held.features.request_id, self._clock(), outcome)
