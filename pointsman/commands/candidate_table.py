"""The why of one decision: candidates with their terms, who could not be chosen, what would have changed it.

Drawn for past decisions (`pointsman decisions ID`) and for those that would be made (`pointsman explain`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman.commands.inquiry import table_of
from pointsman.commands.shown import ABSENT, fitted, whole

REPLICA_WIDTH = 20

MARK = "*"
"""Stands behind the candidate that was chosen."""

SHOWN_MAX = 12
"""Candidates in a table; of a large fleet the best are of interest, and `--json` has all that the router kept."""

EXCLUDED_SHOWN = 4
"""Replicas named for one cause of exclusion; more are counted."""


def candidates_shown(candidates: Sequence[Mapping[str, Any]], chosen: str, *, total: int | None = None) -> Table | Text:
    """Candidates, the best first, one term of the score in each column.

    chosen: id of the first choice. total: candidates considered, where the router kept fewer.
    """
    if not candidates:
        return Text(" no candidate")
    shown = candidates[:SHOWN_MAX]
    terms = list(dict.fromkeys(term for row in shown for term in row.get("terms") or {}))
    loaded = ("score", "resident", "in flight")
    rows = [_row(row, terms, chosen) for row in shown]
    more = (total or len(candidates)) - len(shown)
    if more > 0:
        rows.append((f" and {whole(more)} more", *("" for _ in range(len(terms) + len(loaded)))))
    return table_of(("candidate", *terms, *loaded), rows, right=(*terms, *loaded))


def _row(row: Mapping[str, Any], terms: Sequence[str], chosen: str) -> tuple[str | Text, ...]:
    first = row["replica"] == chosen
    name = fitted(row["replica"], REPLICA_WIDTH) + (f" {MARK}" if first else "")
    values = row.get("terms") or {}
    cells = [
        *(_term(values.get(term)) for term in terms),
        _term(row.get("score")),
        whole(row.get("resident_tokens")),
        whole(row["in_flight"]),
    ]
    style = "bold" if first else ""
    return (Text(name, style=style), *(Text(cell, style=style) for cell in cells))


def _term(value: float | None) -> str:
    """A term of a score: milliseconds in whole numbers, and small scores of other policies with their digits."""
    if value is None:
        return ABSENT
    if value and abs(value) < 9.95:
        return f"{value:,.1f}" if abs(value) >= 0.05 else f"{value:.2g}"
    return whole(value)


def excluded_shown(excluded: Mapping[str, str] | None) -> Iterable[str]:
    """A line for each cause of exclusion."""
    by_cause: dict[str, list[str]] = {}
    for replica, cause in (excluded or {}).items():
        by_cause.setdefault(cause, []).append(replica)
    for cause, replicas in by_cause.items():
        named = ", ".join(fitted(replica, REPLICA_WIDTH) for replica in replicas[:EXCLUDED_SHOWN])
        more = f" and {whole(len(replicas) - EXCLUDED_SHOWN)} more" if len(replicas) > EXCLUDED_SHOWN else ""
        yield f"{named}{more} not eligible: {cause}"


def why_shown(
    candidates: Sequence[Mapping[str, Any]] | None,
    chosen: str,
    *,
    excluded: Mapping[str, str] | None = None,
    would_change: str | None = None,
    total: int | None = None,
) -> RenderableType:
    """The table, the excluded, and the sentence, one below the other."""
    parts: list[RenderableType] = []
    if candidates is not None:
        parts.append(candidates_shown(candidates, chosen, total=total))
    parts += [Text(line, style="yellow") for line in excluded_shown(excluded)]
    if would_change:
        parts.append(Text(re.sub(r"\s+", " ", would_change)))
    return Group(*parts)
