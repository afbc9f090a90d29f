"""Usage by tenant, and how well it is kept."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, gauge
from pointsman.router.requests.usage_meter import UsageMeter
from pointsman.router.tenancy.usage import COLUMNS
from pointsman.router.watch.usage_keeper import UsageKeeper

KINDS = ("prompt", "cached", "output")
"""Kinds of tokens; cached ones are among those of the prompt."""


class UsageCollector(FamilyCollector):
    """Reads the ledger's totals."""

    def __init__(self, meter: UsageMeter, keeper: UsageKeeper) -> None:
        self._meter = meter
        self._keeper = keeper

    def collect(self) -> Iterator[Family]:
        meter = self._meter
        totals = [(tenant, dict(zip(COLUMNS, values, strict=True))) for tenant, values in sorted(meter.ledger.totals())]
        for prefix, which in (("", ""), ("estimated_", ", as far as it is an estimate because no engine reported it")):
            yield from counter(
                f"pointsman_usage_{prefix}requests",
                f"Usage in requests that a replica served, by tenant (the API key's; empty without API keys){which}.",
                [(tenant, figures[f"{prefix}requests"]) for tenant, figures in totals],
                "tenant",
            )
            yield from counter(
                f"pointsman_usage_{prefix}tokens",
                "Usage in tokens, by tenant and kind (prompt; cached: prompt tokens found in a prefix cache; output), "
                f"of aborted and retried requests too{which}.",
                [((kind, tenant), figures[f"{prefix}{kind}_tokens"]) for tenant, figures in totals for kind in KINDS],
                *("kind", "tenant"),
            )
        yield from counter(
            "pointsman_usage_seconds",
            "Time of requests in engines, by tenant; of requests that no engine reported, their time at the edge.",
            [(tenant, figures["seconds"]) for tenant, figures in totals],
            "tenant",
        )
        yield from gauge(
            "pointsman_usage_open_requests",
            "Requests that wait for HAProxy's line or their engine's report of usage, after their record is gone.",
            len(meter),
        )
        yield from counter(
            "pointsman_usage_lost_reports",
            "Reports of usage that engines dropped before this router had them, since it was away for too long.",
            meter.lost_reports,
        )
        yield from counter(
            "pointsman_usage_other_rows",
            "Rows of usage that were counted as `other`, because an hour had too many.",
            meter.ledger.overflows,
        )
        yield from counter(
            "pointsman_usage_write_errors",
            "Failed writes of usage to its file or to Redis; what was not written is tried again.",
            self._keeper.errors,
        )
