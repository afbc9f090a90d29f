"""Tenants at one pace as one SVG: a row for each tenant, a column for each quantity, a dot for each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import NamedTuple

from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.experiment import Outcome
from pointsman.simulator.measure import TenantSummary
from pointsman.simulator.plots import COLOURS, LEGEND_LINE, linear_axis, log_axis, on_axis, svg_begin
from pointsman.simulator.tenant_report import NOBODY, tenants_of

MAX_ROWS = 40
"""Tenants that are drawn: those that were served most."""

NAMES, PANEL, GAP = 130.0, 230.0, 36.0
"""Widths of the names, of a panel and between two of them, in pixels."""

HEAD, FOOT = 24.0, 26.0
"""Heights of the titles and of the axes."""

Runs = Mapping[str, Mapping[str, TenantSummary]]
"""Tenants by run."""


class Column(NamedTuple):
    title: str
    value: Callable[[TenantSummary], float | None]
    log: bool = False
    mark: Callable[[TenantSummary], float] | None = None
    """Value of the tick in a row; None for none."""


COLUMNS = (
    Column("TTFT, p50, ms", lambda one: one.ttft_ms.p50 if one.requests else None, log=True),
    Column("TTFT, p99, ms", lambda one: one.ttft_ms.p99 if one.requests else None, log=True),
    Column(
        "share of tokens, % (tick: by weight)", lambda one: 100 * one.share, mark=lambda one: 100 * one.weight_share
    ),
    Column("refused, % of asked", lambda one: 100 * sum(one.refused.values()) / max(1, _asked(one))),
)


def _asked(one: TenantSummary) -> int:
    """Requests and refusals: how often the tenant asked."""
    return one.requests + sum(one.refused.values())


def as_svg(outcome: Outcome) -> str:
    """Raises ExperimentError where the trace names no tenants."""
    runs = {name: summary.tenants for name, summary in outcome.averages().items()}
    names = tenants_of(runs)[:MAX_ROWS]
    if not names:
        raise ExperimentError("plot", 1, "two loads or more, or a trace with tenants")
    row = 8.0 + 8.0 * len(runs)
    legend = LEGEND_LINE * len(runs) + 8
    width, height = NAMES + len(COLUMNS) * (PANEL + GAP), legend + HEAD + row * len(names) + FOOT
    parts = svg_begin(width, height)
    for number, run in enumerate(runs):
        y = 16 + number * LEGEND_LINE
        parts.append(f'<circle cx="20" cy="{y - 4:g}" r="4" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(f'<text x="30" y="{y:g}">{escape(run)}</text>')
    parts.append(f'<g transform="translate(0 {legend + HEAD:g})">')
    for number, name in enumerate(names):
        if number % 2 == 0:
            parts.append(f'<rect y="{number * row:g}" width="{width:g}" height="{row:g}" fill="#f4f4f4"/>')
        y = (number + 0.5) * row + 4
        parts.append(f'<text x="{NAMES - 10:g}" y="{y:g}" text-anchor="end">{escape(name or NOBODY)}</text>')
    for number, column in enumerate(COLUMNS):
        parts.append(f'<g transform="translate({NAMES + number * (PANEL + GAP):g} 0)">')
        parts += _column(column, runs, names, row)
        parts.append("</g>")
    return "\n".join([*parts, "</g>", "</svg>\n"])


def _column(column: Column, runs: Runs, names: list[str], row: float) -> list[str]:
    found = [one for of in runs.values() for name, one in of.items() if name in names]
    values = [value for one in found if (value := column.value(one)) is not None]
    marks = [column.mark(one) for one in found] if column.mark is not None else []
    low, high, ticks = log_axis(values or [1.0]) if column.log else linear_axis([0.0, *values, *marks])

    def at(value: float) -> float:
        return on_axis(value, low, high, log=column.log) * PANEL

    bottom = row * len(names)
    parts = [f'<text y="{-9:g}" font-weight="bold">{escape(column.title)}</text>']
    for tick in ticks:
        parts.append(f'<path d="M{at(tick):.1f} 0V{bottom:g}" stroke="#ddd"/>')
        parts.append(f'<text x="{at(tick):.1f}" y="{bottom + 15:g}" text-anchor="middle">{tick:,.10g}</text>')
    for place, name in enumerate(names):
        for number, of in enumerate(runs.values()):
            one = of.get(name)
            if one is None:
                continue
            y = place * row + 8 + 8 * number
            colour = COLOURS[number % len(COLOURS)]
            if column.mark is not None:
                x = at(column.mark(one))
                parts.append(f'<path d="M{x:.1f} {y - 4:g}v8" stroke="{colour}" stroke-width="1.5"/>')
            value = column.value(one)
            if value is not None:
                parts.append(f'<circle cx="{at(value):.1f}" cy="{y:g}" r="3" fill="{colour}"/>')
    return parts
