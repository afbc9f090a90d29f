"""Draws the dashboards as pictures from a Prometheus, without a Grafana.

    .venv/bin/python -m deploy.grafana.source.preview http://127.0.0.1:9090 --minutes 15 --out FOLDER

One SVG a dashboard, laid out as Grafana does. Axes, legends and units are near enough to judge titles and layout; what
Grafana does beyond (tooltips, zoom) is left out.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx

from deploy.grafana.source.boards import BOARDS
from deploy.grafana.source.build import GRID_WIDTH, POLICY_CHANGES
from deploy.grafana.source.model import Board, Kind, Panel, Query

COLUMN, LINE = 52.0, 30.0
"""Width of a column and height of a line of Grafana's grid, in pixels."""

GAP = 6.0
STEPS = 120
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#8c564b", "#7f7f00")
NAMED = {
    "green": "#2e8b57", "red": "#c4162a", "orange": "#e0752d", "yellow": "#d9a400", "blue": "#3274d9", "text": "#222",
}  # fmt: skip

Point = tuple[float, float]


class Line(NamedTuple):
    """One series of a panel."""

    name: str
    points: list[Point]

    @property
    def last(self) -> float:
        values = [value for _, value in self.points if not math.isnan(value)]
        return values[-1] if values else math.nan


class Span(NamedTuple):
    """The range of time that is drawn, in seconds since 1970."""

    begin_s: float
    end_s: float

    @property
    def step_s(self) -> float:
        return max(0.5, (self.end_s - self.begin_s) / STEPS)


class Source(Protocol):
    """Origin of series."""

    @property
    def span(self) -> Span: ...

    def lines(self, query: Query) -> list[Line]: ...

    def marks(self) -> list[float]: ...


class Prometheus:
    """A Prometheus, asked with Grafana's variables filled in."""

    def __init__(self, url: str, span: Span, rate: str) -> None:
        """rate: what stands for `$__rate_interval`."""
        self._client = httpx.Client(base_url=url, timeout=60.0, trust_env=False)
        self._rate = rate
        self.span = span

    def lines(self, query: Query) -> list[Line]:
        """The series of a query, named as its legend says."""
        return [Line(_name(query.legend, found["metric"]), _points(found["values"])) for found in self._ask(query.expr)]

    def marks(self) -> list[float]:
        """Times at which the policy was changed."""
        changes = POLICY_CHANGES.replace("[1m]", f"[{math.ceil(2 * self.span.step_s)}s]")
        times = sorted({float(at) for found in self._ask(changes) for at, _ in found["values"]})
        return [at for before, at in zip([0.0, *times], times, strict=False) if at - before > 1.5 * self.span.step_s]

    def _ask(self, expr: str) -> list[dict[str, Any]]:
        for name in ("edge", "model", "tenant", "replica"):
            expr = expr.replace(f"${name}", ".*")
        seconds = max(60, round(self.span.end_s - self.span.begin_s))
        expr = expr.replace("$__rate_interval", self._rate).replace("$__range", f"{seconds}s")
        params: dict[str, str | float] = {"query": expr, "start": self.span.begin_s, "end": self.span.end_s}
        answer = self._client.get("/api/v1/query_range", params=params | {"step": self.span.step_s}).json()
        if answer["status"] != "success":
            raise SystemExit(f"{expr}: {answer.get('error')}")
        return list(answer["data"]["result"])


def _name(legend: str, labels: dict[str, str]) -> str:
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return re.sub(r"{{\w+}} ?", "", legend)  # a label that a series has not is left out, as Grafana does


def _points(values: Iterable[tuple[float, str]]) -> list[Point]:
    return [(float(at), float(value)) for at, value in values]


def shown(value: float, unit: str) -> str:
    """A value with its unit, as short as Grafana writes it."""
    if math.isnan(value) or math.isinf(value):
        return "no data"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s" and value and abs(value) < 1:
        return f"{1000 * value:.3g} ms" if abs(value) >= 1e-3 else f"{1e6 * value:.3g} µs"
    suffix = {"s": " s", "reqps": " req/s", "ops": "/s", "cps": "/s", "bytes": "B", "Bps": "B/s"}.get(unit, "")
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {letter}{suffix.strip()}"
    return f"{value:.3g}{suffix}"


class Box(NamedTuple):
    """A rectangle on the page."""

    x: float
    y: float
    width: float
    height: float


def draw(board: Board, source: Source) -> str:
    """The dashboard as one SVG."""
    marks = source.marks()
    parts, y = [], 34.0
    for row in board.rows:
        parts.append(_text(8, y + 16, row.title, 13, bold=True))
        y, x, height = y + 24, 0, 0
        for panel in row.panels:
            if x + panel.width > GRID_WIDTH:
                x, y, height = 0, y + height * LINE, 0
            box = Box(x * COLUMN + GAP, y, panel.width * COLUMN - GAP, panel.height * LINE - GAP)
            parts += _panel(
                panel, [line for query in panel.queries for line in source.lines(query)], box, source, marks
            )
            x, height = x + panel.width, max(height, panel.height)
        y += height * LINE
    width = GRID_WIDTH * COLUMN + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {y:g}" width="{width:g}" height="{y:g}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#f4f5f5"/>'
    )
    return "\n".join([head, _text(8, 22, board.title, 16, bold=True), *parts, "</svg>\n"])


def _panel(panel: Panel, lines: list[Line], box: Box, source: Source, marks: Sequence[float]) -> list[str]:
    parts = [
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" fill="#fff" stroke="#ddd"/>',
        _text(box.x + 8, box.y + 16, panel.title, 12, bold=True, room=box.width - 16),
    ]
    lines = [line for line in lines if not math.isnan(line.last)]
    if panel.kind is Kind.STAT:
        return parts + _stat(panel, lines, box)
    if not lines:
        waits = "; ".join(sorted({query.waits_for for query in panel.queries if query.waits_for}))
        words = f"no data: waits for {waits}" if waits else "no data"
        return [*parts, _text(box.x + 8, box.y + box.height / 2, words, 11, colour="#888", room=box.width - 16)]
    if panel.kind is Kind.TOP:
        return parts + _top(panel, lines, box)
    margin = 120 if panel.kind is Kind.STATES else 58
    inner = Box(box.x + margin, box.y + 26, box.width - margin - 10, box.height - 26 - 18 - _legend_height(lines, box))
    parts += _legend(lines, box, panel.kind)
    if panel.kind is Kind.STATES:
        return parts + _states(panel, lines, inner, source.span)
    return parts + _plot(panel, lines, inner, source.span, marks)


def _stat(panel: Panel, lines: list[Line], box: Box) -> list[str]:
    if not lines:
        return [_text(box.x + 8, box.y + box.height * 0.7, "no data", 22, colour="#888")]
    value = lines[0].last
    words = {of: (word, colour) for of, word, colour in panel.words}
    text, colour = words.get(value, (shown(value, panel.unit), "text"))
    for limit, name in panel.steps:
        if not panel.words and (limit is None or value >= limit):
            colour = name
    return [_text(box.x + 8, box.y + box.height * 0.72, text, 26, colour=NAMED[colour], bold=True)]


def _top(panel: Panel, lines: list[Line], box: Box) -> list[str]:
    lines = sorted(lines, key=lambda line: -line.last)[:10]
    most, parts = max(line.last for line in lines) or 1.0, []
    for number, line in enumerate(lines):
        y = box.y + 30 + number * 19
        parts.append(_text(box.x + 8, y + 12, line.name, 11, room=120))
        width = (box.width - 220) * line.last / most
        parts.append(f'<rect x="{box.x + 130:g}" y="{y:g}" width="{max(1, width):g}" height="14" fill="#0072b2"/>')
        parts.append(_text(box.x + 136 + max(1, width), y + 12, shown(line.last, panel.unit), 11))
    return parts


def _states(panel: Panel, lines: list[Line], inner: Box, span: Span) -> list[str]:
    colours = {value: NAMED[colour] for value, _, colour in panel.words}
    height, parts = min(22.0, inner.height / len(lines)), []
    scale = inner.width / (span.end_s - span.begin_s)
    for number, line in enumerate(lines):
        y = inner.y + number * height
        parts.append(_text(inner.x - 112, y + height - 6, line.name, 10, room=108))
        for at, value in line.points:
            x = inner.x + (at - span.begin_s) * scale
            width = span.step_s * scale + 0.5
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 2:g}" width="{min(width, inner.x + inner.width - x):.1f}" '
                f'height="{height - 4:g}" fill="{colours.get(value, "#bbb")}"/>'
            )
    x = inner.x
    for _, word, colour in panel.words:
        parts.append(
            f'<rect x="{x:g}" y="{inner.y + inner.height + 20:g}" width="9" height="9" fill="{NAMED[colour]}"/>'
        )
        parts.append(_text(x + 12, inner.y + inner.height + 28, word, 10))
        x += 30 + 6 * len(word)
    return parts


def _plot(panel: Panel, lines: list[Line], inner: Box, span: Span, marks: Sequence[float]) -> list[str]:
    stacked = panel.kind in (Kind.STACK, Kind.BARS)
    tops: dict[float, float] = {}
    stacks: list[tuple[list[Point], list[Point]]] = []
    for line in lines:
        values = [(at, value) for at, value in line.points if math.isfinite(value)]
        lower = [(at, tops.get(at, 0.0) if stacked else 0.0) for at, _ in values]
        upper = [(at, value + below) for (at, value), (_, below) in zip(values, lower, strict=True)]
        if stacked:
            tops.update(upper)
        stacks.append((lower, upper))
    heights = [value for _, upper in stacks for _, value in upper]
    least = min([*heights, *([panel.least] if panel.least is not None else [])], default=0.0)
    most = panel.most if panel.most is not None else max(heights, default=1.0)
    if most <= least:
        least, most = (least - 0.1, most) if panel.most is not None else (least, least + 1.0)

    def place(at: float, value: float) -> str:
        x = inner.x + (at - span.begin_s) / (span.end_s - span.begin_s) * inner.width
        y = inner.y + inner.height * (1 - (min(value, most) - least) / (most - least))
        return f"{x:.1f},{y:.1f}"

    parts = []
    for part in range(5):
        value = least + (most - least) * part / 4
        y = inner.y + inner.height * (1 - part / 4)
        parts.append(f'<path d="M{inner.x:g},{y:.1f}h{inner.width:g}" stroke="#eee"/>')
        parts.append(_text(inner.x - 4, y + 4, shown(value, panel.unit), 9, colour="#666", end=True))
    for number, (lower, upper) in enumerate(stacks):
        colour = COLOURS[number % len(COLOURS)]
        if stacked and upper:
            around = [place(*point) for point in upper] + [place(*point) for point in reversed(lower)]
            parts.append(f'<path d="M{" ".join(around)}Z" fill="{colour}" fill-opacity="0.5"/>')
        path = " ".join(place(*point) for point in upper)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
    for at in marks:
        left = place(at, least).split(",")[0]
        parts.append(f'<path d="M{left},{inner.y:g}v{inner.height:g}" stroke="#8f3bb8" stroke-dasharray="4 3"/>')
    for part in range(3):
        at = span.begin_s + (span.end_s - span.begin_s) * part / 2
        words = time.strftime("%H:%M:%S", time.localtime(at))
        x = inner.x + inner.width * part / 2 - (0, 20, 40)[part]
        parts.append(_text(x, inner.y + inner.height + 12, words, 9, colour="#666"))
    return parts


def _legend_height(lines: list[Line], box: Box) -> float:
    return 14.0 * len(_rows(lines, box)) + 4


def _rows(lines: list[Line], box: Box) -> list[list[tuple[int, Line]]]:
    rows: list[list[tuple[int, Line]]] = [[]]
    used = 0.0
    for number, line in enumerate(lines):
        width = 22 + 5.6 * len(line.name)
        if used + width > box.width - 16 and rows[-1]:
            rows.append([])
            used = 0.0
        rows[-1].append((number, line))
        used += width
    return rows[:3]


def _legend(lines: list[Line], box: Box, kind: Kind) -> list[str]:
    if kind is Kind.STATES:
        return []
    parts, rows = [], _rows(lines, box)
    for index, row in enumerate(rows):
        x, y = box.x + 8, box.y + box.height - 14.0 * (len(rows) - index) + 8
        for number, line in row:
            colour = COLOURS[number % len(COLOURS)]
            parts.append(f'<rect x="{x:g}" y="{y - 5:g}" width="9" height="4" fill="{colour}"/>')
            parts.append(_text(x + 13, y, line.name, 10))
            x += 22 + 5.6 * len(line.name)
    return parts


def _text(
    x: float, y: float, words: str, size: float, *, colour: str = "#222", bold: bool = False, end: bool = False,
    room: float = math.inf,
) -> str:  # fmt: skip
    letters = room / (0.56 * size)
    if len(words) > letters:
        words = words[: max(1, int(letters) - 1)] + "…"
    style = ' font-weight="600"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}"{style}{anchor}>{escape(words)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Prometheus's address")
    parser.add_argument("--minutes", type=float, default=60.0, help="range of time that is drawn")
    parser.add_argument("--rate", default="1m", help="range of rates, four times the scrape interval or more")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end_s = time.time()
    source = Prometheus(options.url, Span(end_s - 60 * options.minutes, end_s), options.rate)
    for board in BOARDS:
        path = options.out / f"{board.uid}.svg"
        path.write_text(draw(board, source))
        print(path)


if __name__ == "__main__":
    main()
