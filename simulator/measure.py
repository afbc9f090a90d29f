"""Measurements of a run: one record per request, and the figures to compare."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from pointsman.policies.request import NORMAL

SLO_TTFT_S = 2.0
SLO_ITL_S = 0.025
"""NVIDIA's published pair for agentic serving; goodput counts requests that keep both."""


class Served(msgspec.Struct, frozen=True, gc=False):
    """One finished request; virtual seconds."""

    turn: int
    arrived_s: float
    first_s: float
    """When its first token was there; retries, refusals and holds before count as waiting."""
    end_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    replica: int
    tenant: str = ""
    priority: int = NORMAL
    waited_s: float = 0.0
    """Time in the routers' queues, which is a part of that from `arrived_s` to `first_s`."""

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrived_s

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer."""
        return self.prompt_tokens + self.output_tokens

    @property
    def itl_s(self) -> float:
        """Mean time between its tokens; 0 for a single one."""
        return (self.end_s - self.first_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


class Spread(msgspec.Struct, frozen=True):
    """A quantity over requests; percentiles by nearest rank."""

    mean: float
    p50: float
    p95: float
    p99: float


class TenantSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's part of a run."""

    requests: int
    """Requests that were served."""
    refused: dict[str, int]
    """Refusals by limit; those of `admission` are not for a limit of the tenant's."""
    abandoned: int
    """Requests given up after a refusal."""
    unasked: int
    """Turns behind those, which were never asked for."""
    tokens: int
    """Tokens of prompts and answers served."""
    share: float
    """Share of all tokens served while sessions began."""
    weight: float
    weight_share: float
    """The tenant's weight over those of all tenants of the trace."""
    ttft_ms: Spread
    waited_ms: Spread
    """Time in the routers' queues, of all its requests that were served."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run in numbers."""

    requests: int
    ttft_ms: Spread
    tpot_ms: Spread
    """Mean time between the tokens of a request, over requests."""
    later_ttft_ms: Spread
    """`ttft_ms` of turns after the first."""
    first_ttft_ms: Spread = Spread(0.0, 0.0, 0.0, 0.0)
    """Time to first token of first turns, which pay for holding sessions back."""
    hit_rate: float
    """Prompt tokens found in the cache over all prompt tokens."""
    imbalance: float
    """Prefilled tokens of the busiest replica over the mean; of prefill replicas alone where there are any."""
    within_slo: float
    """Share of requests with TTFT <= 2 s and 25 ms or less between tokens."""
    goodput_per_s: float
    """Such requests a second of the run."""
    preemptions: int
    retried: int
    """Requests asked for again because their replica died."""
    held: int = 0
    """Requests that waited at the edge for room; once more for each time."""
    refused: int
    """Answers that said: come back later."""
    abandoned: int
    """Requests given up after too many of those."""
    handed_over: int
    """Requests whose prompt a prefill replica computed."""
    reasons: dict[str, int]
    """Decisions by reason."""
    tenants: dict[str, TenantSummary] = {}
    """By tenant, "" for requests of none; empty where the trace names none."""


class TenantCounts(msgspec.Struct, kw_only=True):
    """Counters of one tenant besides its records."""

    refused: dict[str, int] = {}
    abandoned: int = 0
    unasked: int = 0


class Counts(msgspec.Struct, kw_only=True):
    """Counters of a run besides its records."""

    preemptions: int = 0
    retried: int = 0
    held: int = 0
    refused: int = 0
    abandoned: int = 0
    handed_over: int = 0
    reasons: dict[str, int] = {}
    tenants: dict[str, TenantCounts] = {}

    def of(self, tenant: str) -> TenantCounts:
        """The counters of a tenant."""
        return self.tenants.setdefault(tenant, TenantCounts())


def summarise(
    served: Sequence[Served],
    prefill_tokens: Sequence[int],
    counts: Counts,
    tenants: Mapping[str, TenantSummary] | None = None,
) -> Summary:
    """`prefill_tokens` is what each replica that is there to prefill computed. At least one request was served."""
    ttft_ms = [record.ttft_s * 1000 for record in served]
    good = sum(record.ttft_s <= SLO_TTFT_S and record.itl_s <= SLO_ITL_S for record in served)
    span_s = max(record.end_s for record in served) - min(record.arrived_s for record in served)
    mean_prefill = statistics.fmean(prefill_tokens)
    return Summary(
        requests=len(served),
        ttft_ms=spread(ttft_ms),
        tpot_ms=spread([record.itl_s * 1000 for record in served if record.output_tokens > 1]),
        later_ttft_ms=spread([ms for ms, record in zip(ttft_ms, served, strict=True) if record.turn]),
        first_ttft_ms=spread([ms for ms, record in zip(ttft_ms, served, strict=True) if not record.turn]),
        hit_rate=sum(record.cached_tokens for record in served) / sum(record.prompt_tokens for record in served),
        imbalance=max(prefill_tokens) / mean_prefill if mean_prefill else 1.0,
        within_slo=good / len(served),
        goodput_per_s=good / span_s if span_s else 0.0,
        preemptions=counts.preemptions,
        retried=counts.retried,
        held=counts.held,
        refused=counts.refused,
        abandoned=counts.abandoned,
        handed_over=counts.handed_over,
        reasons=counts.reasons,
        tenants=dict(tenants or {}),
    )


def by_tenant(
    served: Sequence[Served], counts: Counts, weights: Mapping[str, float], until_s: float
) -> dict[str, TenantSummary]:
    """The parts of all tenants, by descending tokens.

    weights: weight of each tenant of the trace.
    until_s: begin of the last session: what is served later depends on what was asked for, not on who goes first.
    """
    records: dict[str, list[Served]] = {tenant: [] for tenant in weights}
    for record in served:
        records[record.tenant].append(record)
    early = {tenant: sum(r.tokens for r in of if r.end_s <= until_s) for tenant, of in records.items()}
    in_all, weight_in_all = sum(early.values()), sum(weights.values())
    found = {}
    for tenant, of in sorted(records.items(), key=lambda item: -sum(r.tokens for r in item[1])):
        own = counts.of(tenant)
        found[tenant] = TenantSummary(
            requests=len(of),
            refused=own.refused,
            abandoned=own.abandoned,
            unasked=own.unasked,
            tokens=sum(record.tokens for record in of),
            share=early[tenant] / in_all if in_all else 0.0,
            weight=weights[tenant],
            weight_share=weights[tenant] / weight_in_all,
            ttft_ms=spread([record.ttft_s * 1000 for record in of]),
            waited_ms=spread([record.waited_s * 1000 for record in of]),
        )
    return found


def spread(values: Sequence[float]) -> Spread:
    """Mean and percentiles; all 0 without values."""
    if not values:
        return Spread(0.0, 0.0, 0.0, 0.0)
    ordered = np.sort(np.asarray(values))
    at = [float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) for share in (0.5, 0.95, 0.99)]
    return Spread(float(ordered.mean()), *at)


def average(summaries: Sequence[Summary]) -> Summary:
    """The mean of each number over runs (seeds); counts are summed."""

    def mean(name: str) -> float:
        return statistics.fmean(getattr(summary, name) for summary in summaries)

    def total(name: str) -> int:
        return sum(getattr(summary, name) for summary in summaries)

    def spreads(name: str) -> Spread:
        return _mean_spread([getattr(summary, name) for summary in summaries])

    return Summary(
        requests=total("requests"),
        ttft_ms=spreads("ttft_ms"),
        tpot_ms=spreads("tpot_ms"),
        later_ttft_ms=spreads("later_ttft_ms"),
        first_ttft_ms=spreads("first_ttft_ms"),
        hit_rate=mean("hit_rate"),
        imbalance=mean("imbalance"),
        within_slo=mean("within_slo"),
        goodput_per_s=mean("goodput_per_s"),
        preemptions=total("preemptions"),
        retried=total("retried"),
        held=total("held"),
        refused=total("refused"),
        abandoned=total("abandoned"),
        handed_over=total("handed_over"),
        reasons=_added([summary.reasons for summary in summaries]),
        tenants=_average_tenants([summary.tenants for summary in summaries]),
    )


def _average_tenants(runs: Sequence[Mapping[str, TenantSummary]]) -> dict[str, TenantSummary]:
    """The means over the runs in which a tenant is; counts are summed."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: _average_tenant([run[name] for run in runs if name in run]) for name in names}


def _average_tenant(found: Sequence[TenantSummary]) -> TenantSummary:
    return TenantSummary(
        requests=sum(one.requests for one in found),
        refused=_added([one.refused for one in found]),
        abandoned=sum(one.abandoned for one in found),
        unasked=sum(one.unasked for one in found),
        tokens=sum(one.tokens for one in found),
        share=statistics.fmean(one.share for one in found),
        weight=statistics.fmean(one.weight for one in found),
        weight_share=statistics.fmean(one.weight_share for one in found),
        ttft_ms=_mean_spread([one.ttft_ms for one in found if one.requests]),
        waited_ms=_mean_spread([one.waited_ms for one in found if one.requests]),
    )


def _mean_spread(found: Sequence[Spread]) -> Spread:
    """The mean of each number; all 0 without any."""
    rows = [msgspec.structs.astuple(one) for one in found]
    return Spread(*(statistics.fmean(column) for column in zip(*rows, strict=True))) if rows else spread([])


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, times in one.items():
            found[name] = found.get(name, 0) + times
    return found


class Difference(msgspec.Struct, frozen=True):
    """One policy against another on the same seeds: the mean of the ratio less 1, and on how many it was lower."""

    mean_ttft: float
    mean_ttft_error: float
    """Standard error over seeds; 0 with one."""
    p99_ttft: float
    p99_ttft_error: float
    lower_mean: int
    lower_p99: int
    seeds: int


def paired(ours: Mapping[int, Summary], theirs: Mapping[int, Summary]) -> Difference:
    """`ours` against `theirs`, both by seed, over the seeds that both have."""
    seeds = sorted(ours.keys() & theirs.keys())
    means = [ours[seed].ttft_ms.mean / theirs[seed].ttft_ms.mean - 1 for seed in seeds]
    tails = [ours[seed].ttft_ms.p99 / theirs[seed].ttft_ms.p99 - 1 for seed in seeds]
    return Difference(
        statistics.fmean(means),
        _standard_error(means),
        statistics.fmean(tails),
        _standard_error(tails),
        sum(value < 0 for value in means),
        sum(value < 0 for value in tails),
        len(seeds),
    )


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
