"""Dashboards as data: each panel with the question it answers, what it shows, and what to do about it.

Whoever writes a panel writes all three: `docs/dashboards.md`, the panel's description in Grafana and the preview are
made of them. A query that has no series on a healthy edge says which event it waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Ways to draw a panel."""

    STAT = "stat"
    """The last value, large."""
    LINES = "lines"
    STACK = "stack"
    """Lines one upon the other: parts of a whole."""
    BARS = "bars"
    """Events in each interval."""
    STATES = "states"
    """A coloured strip for each series."""
    TOP = "top"
    """The largest series at this moment, as bars."""


@dataclass(frozen=True)
class Query:
    """One expression of a panel."""

    expr: str
    """PromQL with Grafana's variables."""
    legend: str
    waits_for: str = ""
    """The event without which the query has no series; empty: it always has one."""


Steps = tuple[tuple[float | None, str], ...]
"""Colours from a value on; the first one has no value."""

GOOD_WHEN_ZERO: Steps = ((None, "green"), (0.0001, "red"))


@dataclass(frozen=True)
class Panel:
    """One panel."""

    title: str
    question: str
    shows: str
    """Description of the drawing, in plain words."""
    do: str
    """Advice to the reader, and the value from which on it holds."""
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = Kind.LINES
    width: int = 8
    """Columns of 24."""
    height: int = 8
    least: float | None = 0
    """Lower end of the axis; None where it follows the values."""
    most: float | None = None
    decimals: int | None = None
    steps: Steps = ()
    words: tuple[tuple[float, str, str], ...] = ()
    """Values that are words: value, word, colour."""

    @property
    def description(self) -> str:
        """The text behind the panel's `i`."""
        return f"{self.question} {self.shows} {self.do}"


@dataclass(frozen=True)
class Row:
    """Panels below one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    text: str
    rows: tuple[Row, ...]
    variables: tuple[str, ...] = ("edge",)
    """Of `edge`, `model`, `tenant` and `replica`, those that its panels use."""

    def panels(self) -> Iterator[Panel]:
        for row in self.rows:
            yield from row.panels


def stat(
    title: str,
    question: str,
    shows: str,
    do: str,
    query: Query,
    unit: str = "short",
    *,
    steps: Steps = (),
    decimals: int | None = None,
    words: tuple[tuple[float, str, str], ...] = (),
) -> Panel:
    """One number, four columns wide."""
    return Panel(
        title,
        question,
        shows,
        do,
        (query,),
        unit,
        Kind.STAT,
        width=4,
        height=4,
        steps=steps,
        decimals=decimals,
        words=words,
    )
