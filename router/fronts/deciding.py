"""What every lookup front does with one question: features, decision, time taken."""

from __future__ import annotations

from collections.abc import Mapping

from policies.types import Decision
from router.clock import Clock
from router.features import extract
from router.metrics import DecisionMetrics
from router.pipeline import Pipeline


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
            decision = self._pipeline.decide(extract(arguments, isolate_tenants=self._isolate_tenants), self._clock())
        except Exception:
            self._metrics.lookup_errors += 1
            raise
        self._metrics.lookup_s.observe(self._stopwatch() - started_s)
        return decision
