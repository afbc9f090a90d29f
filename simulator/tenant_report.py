"""Tenants of a run as tables for a terminal: what each asked for, got and waited, in one run beside the other."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from pointsman.simulator.measure import TenantSummary

MAX_ROWS = 30
"""Tenants of a table: those that were served most."""

NAME_WIDTH = 8
"""Least width of a name's column."""

NOBODY = "(none)"
"""Name of requests without a tenant."""

_COLUMNS = ("served", "unserved", "refused", "tokens", "share", "weight", "TTFT p50", "p99", "held p99")

_SHORT = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrent_requests": "concurrent",
    "tokens_per_day": "tokens/day",
    "tokens_per_month": "tokens/month",
}
"""Limits by the words of the table."""


def tenants_of(runs: Mapping[str, Mapping[str, TenantSummary]]) -> list[str]:
    """The names of all tenants, those first that were served most in all runs together."""
    tokens: dict[str, int] = {}
    for of in runs.values():
        for name, one in of.items():
            tokens[name] = tokens.get(name, 0) + one.tokens
    return sorted(tokens, key=lambda name: -tokens[name])


def tenant_table(runs: Mapping[str, Mapping[str, TenantSummary]]) -> Table | None:
    """The tenants of several runs, each with one row a run; None where there are none.

    runs: tenants by run.
    """
    names = tenants_of(runs)
    if not names:
        return None
    more = len(names) - MAX_ROWS
    title = "tenants" if more <= 0 else f"tenants; {more} more with --json"
    table = Table(title=title, title_justify="left")
    table.add_column("tenant", overflow="fold", min_width=NAME_WIDTH)
    if len(runs) > 1:
        table.add_column("run", overflow="fold", min_width=NAME_WIDTH)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name in names[:MAX_ROWS]:
        shown = name or NOBODY
        for run, of in runs.items():
            if name in of:
                table.add_row(shown, *([run] if len(runs) > 1 else []), *_cells(of[name]))
                shown = ""
    return table


def _cells(one: TenantSummary) -> list[str]:
    refused = sorted(one.refused.items(), key=lambda item: -item[1])
    return [
        f"{one.requests:,}",
        f"{one.abandoned + one.unasked:,}",
        "\n".join(f"{times:,} {_SHORT.get(limit, limit)}" for limit, times in refused),
        f"{one.tokens / 1e6:,.2f} M",
        f"{one.share:.1%}",
        f"{one.weight_share:.1%}",
        *(f"{value:,.0f}" for value in (one.ttft_ms.p50, one.ttft_ms.p99, one.waited_ms.p99)),
    ]
