"""Outcomes as JSON and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table

from pointsman.simulator.experiment import Outcome
from pointsman.simulator.measure import Spread, Summary
from pointsman.simulator.tenant_report import tenant_table

_COLUMNS = ("TTFT ms mean", "p50", "p95", "p99", "TPOT ms", "hit", "imbalance", "in SLO", "goodput/s")


def as_json(outcomes: Sequence[Outcome], about: dict[str, Any]) -> dict[str, Any]:
    """`about` (what was asked for), and `policies` for a single pace or `sweep` with one entry a pace."""
    entries = [_entry(outcome) for outcome in outcomes]
    return about | (entries[0] if len(entries) == 1 else {"sweep": entries})


def _entry(outcome: Outcome) -> dict[str, Any]:
    policies = {}
    for name, summary in outcome.averages().items():
        policies[name] = msgspec.to_builtins(summary) | {
            "seeds": {str(seed): msgspec.to_builtins(run) for seed, run in outcome.by_seed[name].items()}
        }
    first = next(iter(outcome.by_seed))
    return {
        "load": outcome.pace.load,
        "sessions_per_s": outcome.sessions_per_s,
        "policies": policies,
        "first_against": {name: msgspec.to_builtins(found) for name, found in outcome.against(first).items()},
    }


def as_tables(outcomes: Sequence[Outcome]) -> RenderableType:
    """One table a pace, and how the first policy compares with each other one."""
    return Group(*(part for outcome in outcomes for part in _tables(outcome)))


def _tables(outcome: Outcome) -> list[RenderableType]:
    averages = outcome.averages()
    first = next(iter(averages))
    seeds = len(outcome.by_seed[first])
    requests = next(iter(averages.values())).requests
    title = f"{outcome.pace} ({outcome.sessions_per_s:.3g} sessions/s), {requests} requests, {_count(seeds, 'seed')}"
    table = Table(title=title, title_justify="left")
    table.add_column("policy")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for name, summary in sorted(averages.items(), key=lambda item: item[1].ttft_ms.mean):
        table.add_row(name, *_cells(summary))
    of_tenants = tenant_table({name: summary.tenants for name, summary in averages.items()})
    parts: list[RenderableType] = [table] if of_tenants is None else [table, of_tenants]
    if len(averages) == 1:
        return parts
    differences = Table(title=f"{first} against others, paired by seed", title_justify="left")
    for column in ("other", "mean TTFT", "lower on", "p99 TTFT", "lower on"):
        differences.add_column(column, justify="left" if column == "other" else "right")
    for name, found in outcome.against(first).items():
        differences.add_row(
            name,
            f"{found.mean_ttft:+.1%} ± {found.mean_ttft_error:.1%}",
            f"{found.lower_mean} of {found.seeds}",
            f"{found.p99_ttft:+.1%} ± {found.p99_ttft_error:.1%}",
            f"{found.lower_p99} of {found.seeds}",
        )
    return [*parts, differences]


def _cells(summary: Summary) -> list[str]:
    ttft: Spread = summary.ttft_ms
    return [
        *(f"{value:,.0f}" for value in (ttft.mean, ttft.p50, ttft.p95, ttft.p99)),
        f"{summary.tpot_ms.mean:.1f}",
        f"{summary.hit_rate:.3f}",
        f"{summary.imbalance:.2f}",
        f"{summary.within_slo:.3f}",
        f"{summary.goodput_per_s:.2f}",
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
