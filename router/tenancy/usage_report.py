"""Usage added up by what a reader asks for, in the form in which the admin API shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pointsman.router.tenancy.usage import COLUMNS, DAY_H, HOUR_S, UsageKey, Values, add_up

EXACT = COLUMNS[:5]
ESTIMATED = {column: column.removeprefix("estimated_") for column in COLUMNS[5:]}
"""Figures that are estimates, and their names in the block `estimated`."""

SECONDS_AT = COLUMNS.index("seconds")


class UsageSums:
    """Sums of rows by group."""

    def __init__(self, by: Sequence[str]) -> None:
        """by: names of `pointsman.router.tenancy.usage_file.GROUPS`."""
        self._by = tuple(by)
        self._sums: dict[tuple[Any, ...], list[float]] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, rows: Iterable[tuple[UsageKey, Values]]) -> None:
        """Add rows."""
        add_up(self._sums, ((tuple(_part(key, name) for name in self._by), values) for key, values in rows))

    def groups(self) -> list[tuple[tuple[Any, ...], Values]]:
        """The sums, in the order of their groups."""
        return [(group, tuple(values)) for group, values in sorted(self._sums.items())]


def shown(by: Sequence[str], group: Sequence[Any], values: Values) -> dict[str, Any]:
    """One line of a report. An hour or a day is the moment at which it begins."""
    line: dict[str, Any] = {}
    for name, part in zip(by, group, strict=True):
        line[name] = moment(part * (DAY_H if name == "day" else 1)) if name in ("hour", "day") else part
    figures = dict(zip(COLUMNS, values, strict=True))
    line |= {column: round(figures[column], 3) if column == "seconds" else int(figures[column]) for column in EXACT}
    line["estimated"] = {name: int(figures[column]) for column, name in ESTIMATED.items()}
    return line


def moment(hour: int) -> str:
    """An hour since 1970 as ISO 8601."""
    return datetime.fromtimestamp(hour * HOUR_S, UTC).isoformat().replace("+00:00", "Z")


def _part(key: UsageKey, name: str) -> Any:
    if name == "hour":
        return key.hour
    if name == "day":
        return key.hour // DAY_H
    return getattr(key.names, name)
