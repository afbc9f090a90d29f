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

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrived_s

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


class Counts(msgspec.Struct, kw_only=True):
    """Counters of a run besides its records."""

    preemptions: int = 0
    retried: int = 0
    held: int = 0
    refused: int = 0
    abandoned: int = 0
    handed_over: int = 0
    reasons: dict[str, int] = {}


def summarise(served: Sequence[Served], prefill_tokens: Sequence[int], counts: Counts) -> Summary:
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
    )


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
        found = [msgspec.structs.astuple(getattr(summary, name)) for summary in summaries]
        return Spread(*(statistics.fmean(column) for column in zip(*found, strict=True)))

    reasons: dict[str, int] = {}
    for summary in summaries:
        for reason, times in summary.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + times
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
        reasons=reasons,
    )


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
