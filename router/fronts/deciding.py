"""Decision for one lookup, for every lookup front: features, decision, time taken."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from pointsman.policies.decision import Decision
from pointsman.policies.request import Naming, RequestFeatures
from pointsman.router.counts.requests import DecisionMetrics
from pointsman.router.decide.features import ClassOf, extract, ranked
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.fleet.alias_table import AliasTable
from pointsman.router.process.clock import Clock
from pointsman.router.tenancy.tenants import TenantTable

TRACE_VARIABLE = "trace"
"""Name of the variable that tells HAProxy the `traceparent` for a replica."""

RATES_VARIABLE = "rates"
"""Name of the variable that tells HAProxy what is left of limits a minute."""


class Decider:
    """The pipeline as a front sees it, with its clocks and its stopwatch."""

    __slots__ = (
        *("_aliases", "_class_of", "_clock", "_isolate_tenants", "_isolated", "_metrics", "_pipeline", "_stopwatch"),
        *("limits", "trace"),
    )

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: DecisionMetrics,
        *,
        clock: Clock,
        stopwatch: Clock,
        isolate_tenants: bool = False,
        tenants: TenantTable | None = None,
        aliases: AliasTable | None = None,
        trace: Callable[[Mapping[str, object]], str] | None = None,
    ) -> None:
        """isolate_tenants: whether all tenants have sessions and prefixes of their own; else those have whose document
        says so.
        tenants: whose documents say that, and the classes of their requests; None: all requests have one class.
        aliases: names that requests may ask for besides those of replicas.
        trace: called with the arguments of a lookup that was decided; what its replica is to get as `traceparent`,
        empty for nothing. None: no request is traced."""
        self.trace = trace
        self.limits = pipeline.limits
        """Limits of tenants and keys, which say what is left for a request."""
        self._isolate_tenants = isolate_tenants
        self._class_of: ClassOf | None = None if tenants is None else tenants.class_of
        self._isolated: Container[str] = () if tenants is None else tenants.isolated
        self._aliases = aliases
        self._pipeline = pipeline
        self._metrics = metrics
        self._clock = clock
        self._stopwatch = stopwatch

    def lookup(self, arguments: Mapping[str, object]) -> Decision:
        """Decides one lookup. A policy's programming error propagates, counted."""
        started_s = self._stopwatch()
        try:
            decision = self._pipeline.decide(self.features(arguments), self._clock())
        except Exception:
            self._metrics.lookup_errors += 1
            raise
        self._metrics.lookup_s.observe(self._stopwatch() - started_s)
        return decision

    def features(self, arguments: Mapping[str, object]) -> RequestFeatures:
        """Features of one lookup, its model recalled where the request does not show it."""
        features = extract(
            arguments,
            isolate_tenants=self._isolate_tenants,
            isolated=self._isolated,
            recall=self._recall,
            aliases=self._aliases,
        )
        return ranked(features, arguments, self._class_of)

    def _recall(self, session: str, naming: Naming) -> str | None:
        return self._pipeline.recall_model(session, naming, self._clock())
