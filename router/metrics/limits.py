"""Metrics of limits: requests that were refused because of one."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter
from pointsman.router.tenancy.limits import Limits


class LimitCollector(FamilyCollector):
    """Reads `Limits` at scrape."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def collect(self) -> Iterator[Family]:
        yield from counter(
            "pointsman_limited",
            "Requests that were refused because their tenant or API key is over a limit, by tenant and limit; model: "
            "the key may not ask for the model. 64 tenants are told apart, the others are counted as other.",
            sorted(self._limits.refused.items()),
            "tenant",
            "limit",
        )
