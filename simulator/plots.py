"""A sweep as one SVG: a panel for each quantity over load, a line for each policy, a band from the least to the most of
its seeds. Written by hand, so that plotting needs no library and the file is small enough to be checked in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.experiment import Outcome
from pointsman.simulator.measure import Summary

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Okabe and Ito's, told apart by the colour-blind too; further policies get them again, dashed."""

COLUMNS = 2
WIDTH, HEIGHT = 400.0, 230.0
"""Of a panel, in pixels."""

LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 26.0, 34.0
"""Margins inside a panel."""

LEGEND_LINE = 18.0
LEGEND_COLUMNS = 4

Point = tuple[float, float]


class Panel(NamedTuple):
    title: str
    value: Callable[[Summary], float]
    log: bool = False


PANELS = (
    Panel("TTFT, mean, ms", lambda run: run.ttft_ms.mean, log=True),
    Panel("TTFT, p50, ms", lambda run: run.ttft_ms.p50, log=True),
    Panel("TTFT, p95, ms", lambda run: run.ttft_ms.p95, log=True),
    Panel("TTFT, p99, ms", lambda run: run.ttft_ms.p99, log=True),
    Panel("time between tokens, mean, ms", lambda run: run.tpot_ms.mean),
    Panel("hit rate", lambda run: run.hit_rate),
    Panel("imbalance (busiest replica over the mean)", lambda run: run.imbalance),
    Panel("goodput (TTFT 2 s, 25 ms a token), requests/s", lambda run: run.goodput_per_s),
)


def as_svg(outcomes: Sequence[Outcome]) -> str:
    """Raises ExperimentError for a single pace: there is nothing to draw a line through."""
    if len(outcomes) < 2:
        raise ExperimentError("plot", len(outcomes), "two or more loads")
    policies = list(outcomes[0].by_seed)
    legend_height = LEGEND_LINE * math.ceil(len(policies) / LEGEND_COLUMNS) + 8
    width, height = COLUMNS * WIDTH, math.ceil(len(PANELS) / COLUMNS) * HEIGHT + legend_height
    parts = svg_begin(width, height)
    for number, policy in enumerate(policies):
        row, column = divmod(number, LEGEND_COLUMNS)
        x, y = 16 + column * (width - 32) / LEGEND_COLUMNS, 16 + row * LEGEND_LINE
        parts.append(f'<line x1="{x:g}" y1="{y:g}" x2="{x + 22:g}" y2="{y:g}" {_stroke(number)}/>')
        parts.append(f'<text x="{x + 28:g}" y="{y + 4:g}">{escape(policy)}</text>')
    for number, panel in enumerate(PANELS):
        row, column = divmod(number, COLUMNS)
        parts.append(f'<g transform="translate({column * WIDTH:g} {legend_height + row * HEIGHT:g})">')
        parts += _panel(panel, outcomes, policies)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, outcomes: Sequence[Outcome], policies: Sequence[str]) -> list[str]:
    loads = [_x(outcome) for outcome in outcomes]
    values = {
        policy: [[panel.value(run) for run in outcome.by_seed[policy].values()] for outcome in outcomes]
        for policy in policies
    }
    every = [value for of_policy in values.values() for runs in of_policy for value in runs]
    low, high, ticks = log_axis(every) if panel.log else linear_axis(every)

    def at(load: float, value: float) -> Point:
        x = LEFT + (load - loads[0]) / (loads[-1] - loads[0]) * (WIDTH - LEFT - RIGHT)
        share = on_axis(value, low, high, log=panel.log)
        return x, HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT:g}" y="{TOP - 9:g}" font-weight="bold">{escape(panel.title)}</text>']
    for tick in ticks:
        y = at(loads[0], tick)[1]
        parts.append(f'<path d="M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 5:g}" y="{y + 4:.1f}" text-anchor="end">{tick:,.4g}</text>')
    for load in loads:
        x = at(load, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14:g}" text-anchor="middle">{load:.3g}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 6:g}" text-anchor="middle" fill="#555">'
        f"{_axis_title(outcomes)}</text>"
    )
    for number, policy in enumerate(policies):
        runs = list(zip(loads, values[policy], strict=True))
        upper = [at(load, max(found)) for load, found in runs]
        lower = [at(load, min(found)) for load, found in runs]
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<path d="M{_joined(upper + lower[::-1])}Z" fill="{colour}" fill-opacity="0.12"/>')
        means = [at(load, sum(found) / len(found)) for load, found in runs]
        parts.append(f'<path d="M{_joined(means)}" fill="none" {_stroke(number)}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>' for x, y in means]
    return parts


def _x(outcome: Outcome) -> float:
    return outcome.pace.load if outcome.pace.load is not None else outcome.sessions_per_s


def _axis_title(outcomes: Sequence[Outcome]) -> str:
    return "load, share of the knee" if outcomes[0].pace.load is not None else "sessions a second"


def _stroke(number: int) -> str:
    dashes = f' stroke-dasharray="{4 * (number // len(COLOURS))} 3"' if number >= len(COLOURS) else ""
    return f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="1.8"{dashes}'


def _joined(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f} {y:.1f}" for x, y in points)


def svg_begin(width: float, height: float) -> list[str]:
    """Return the first lines of an SVG of this size, in pixels, on white."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
    ]


def on_axis(value: float, low: float, high: float, *, log: bool) -> float:
    """Return where a value stands on an axis, from 0 at its lower end to 1."""
    return math.log(max(value, low) / low) / math.log(high / low) if log else (value - low) / (high - low)


def log_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Lower and upper end at 1, 2 or 5 times a power of ten, and such numbers between them."""
    least, most = max(min(values), 1e-3), max(*values, 1e-3)
    ladder = [step * 10.0**power for power in range(-3, 10) for step in (1, 2, 5)]
    low = max(step for step in ladder if step <= least)
    high = min(step for step in ladder if step >= most and step > low)
    ticks = [step for step in ladder if low <= step <= high]
    return low, high, ticks if len(ticks) <= 8 else [tick for tick in ticks if f"{tick:e}".startswith("1.")]


def linear_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """About five round numbers that enclose all values."""
    least, most = min(values), max(values)
    rough = max((most - least) / 4, abs(most) * 1e-3, 1e-9)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.floor(least / step), math.ceil(most / step)
    last = max(last, first + 1)
    return first * step, last * step, [number * step for number in range(first, last + 1)]
