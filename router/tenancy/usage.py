"""Usage of the fleet by hour, tenant, API key, model and adapter: what this edge counted since it started.

`UsageLedger` owns the rows of one *life* of an edge, from its start to its end. Each row only grows, and what is kept
of it elsewhere is its present value, so that to write it twice does no harm. `pointsman.router.requests.usage_meter`
counts, `pointsman.router.watch.usage_keeper` keeps.

What always holds: an hour has at most `MAX_ROWS` rows of their own, beyond which a tenant's further keys and models are
counted together as `other`, and beyond `MAX_TENANTS` further tenants too. No request that was counted is in no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

HOUR_S = 3600
DAY_H = 24

OTHER = "other"
"""Name of what has no row of its own."""

MAX_ROWS = 32_768
"""Rows of one hour: 10,000 keys that use three models each, in 15 MB."""

MAX_TENANTS = 1024
"""Tenants that have a row for what goes beyond `MAX_ROWS`."""

MAX_HOURS = 31 * DAY_H
MAX_ROWS_IN_MEMORY = 131_072
"""Rows of all hours, and hours, that are remembered where nothing keeps them; beyond, the oldest hour goes."""

MAX_TOTALS = 256
"""Tenants that have totals of their own on the page of metrics; further ones are counted as `other`."""

MAX_SUMS = 65_536
"""Sums that are followed; beyond, the one asked for first is no longer followed."""

COLUMNS = (
    *("requests", "prompt_tokens", "cached_tokens", "output_tokens", "seconds"),
    *("estimated_requests", "estimated_prompt_tokens", "estimated_cached_tokens", "estimated_output_tokens"),
)
"""Figures of a row. The latter four are the part of the others that is an estimate."""

Values = tuple[float, ...]
"""Figures of a row, in the order of `COLUMNS`."""

Key = TypeVar("Key")

NOTHING: Values = (0.0,) * len(COLUMNS)


class UsageNames(NamedTuple):
    """Who used what."""

    tenant: str = ""
    """Empty where no API keys are used."""
    key: str = ""
    """Id of the API key; empty where keys have none."""
    model: str = ""
    adapter: str = ""
    """LoRA adapter; empty for the model itself."""


class UsageKey(NamedTuple):
    """Place of a row among those of all edges."""

    hour: int
    """Hours since 1970, UTC."""
    names: UsageNames


class Tokens(NamedTuple):
    """Tokens that were used."""

    prompt: int = 0
    cached: int = 0
    """Of `prompt`, those that an engine found in its prefix cache."""
    output: int = 0


class UsageSum:
    """Tokens of some rows, which grows with them."""

    __slots__ = ("cached_tokens", "output_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0

    def add(self, prompt: int, cached: int, output: int) -> None:
        """Add tokens."""
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.output_tokens += output

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.prompt_tokens, self.cached_tokens, self.output_tokens)


class UsageRow:
    """Figures of one hour, tenant, key, model and adapter."""

    __slots__ = (*COLUMNS, "added", "changed", "key", "sums")

    def __init__(self, key: UsageKey) -> None:
        self.key = key
        self.changed = False
        """Whether the row is among the ledger's changed rows."""
        self.sums: list[UsageSum] = []
        """Sums that it is part of."""
        self.added: Values = NOTHING
        """Figures as they were last added to the totals of its tenant."""
        self.requests = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.seconds = 0.0
        """Time of its requests in engines; of those that no engine reported, at the edge."""
        self.estimated_requests = 0
        self.estimated_prompt_tokens = 0
        self.estimated_cached_tokens = 0
        self.estimated_output_tokens = 0

    @property
    def values(self) -> Values:
        return tuple(getattr(self, column) for column in COLUMNS)


class UsageLedger:
    """The rows of one life of an edge."""

    def __init__(self, hour: int = 0) -> None:
        """hour: the present one, in hours since 1970, UTC."""
        self.hour = hour
        self._rows: dict[int, dict[UsageNames, UsageRow]] = {hour: {}}
        self._tenants: set[str] = set()
        """Tenants of this hour that have a row for what goes beyond the limit."""
        self._now = self._rows[hour]
        self.changed: list[UsageRow] = []
        """Rows that changed since `take_changed`."""
        self.keeps_hours = True
        """Whether all hours are remembered here, because nothing else keeps them."""
        self._base: dict[tuple[int, UsageNames], list[int]] = {}
        """Tokens of earlier lives and of other edges when this life began, by day and names."""
        self._sums: dict[tuple[str, str, str, int], UsageSum] = {}
        self._totals: dict[str, list[float]] = {}
        self.overflows = 0
        """Rows that were not made because of a limit."""

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def __iter__(self) -> Iterator[UsageRow]:
        """The rows that are remembered here, by hour."""
        for rows in list(self._rows.values()):
            yield from list(rows.values())

    def __repr__(self) -> str:
        return f"UsageLedger({len(self)} rows in {len(self._rows)} hours)"

    # Counting

    def row(self, tenant: str, key: str, model: str, adapter: str) -> UsageRow:
        """The row of the present hour that counts for these names."""
        row = self._now.get((tenant, key, model, adapter))  # type: ignore[call-overload]
        return self._add(UsageNames(tenant, key, model, adapter)) if row is None else row

    def touch(self, row: UsageRow) -> None:
        """Note that a row changed."""
        if not row.changed:
            row.changed = True
            self.changed.append(row)

    def count_tokens(self, row: UsageRow, prompt: int, cached: int, output: int) -> None:
        """Count tokens in a row."""
        row.prompt_tokens += prompt
        row.cached_tokens += cached
        row.output_tokens += output
        if row.sums:
            for followed in row.sums:
                followed.add(prompt, cached, output)
        if not row.changed:
            row.changed = True
            self.changed.append(row)

    def set_hour(self, hour: int) -> None:
        """Count in this hour from here on; hours only move forward."""
        if hour <= self.hour:
            return
        self.hour = hour
        self._now = self._rows[hour] = {}
        self._tenants = set()
        if self.keeps_hours:
            self.take_changed()
            while len(self._rows) > 1 and (len(self._rows) > MAX_HOURS or len(self) > MAX_ROWS_IN_MEMORY):
                del self._rows[next(iter(self._rows))]
        month_began = self._month_began()
        for asked in [asked for asked in self._sums if asked[-1] < month_began]:
            del self._sums[asked]

    def take_changed(self) -> list[UsageRow]:
        """The rows that changed since the last call."""
        changed, self.changed = self.changed, []
        for row in changed:
            row.changed = False
            self._add_to_totals(row)
        return changed

    def totals(self) -> Iterator[tuple[str, Values]]:
        """Figures of each tenant in this life."""
        for row in self.changed:
            self._add_to_totals(row)
        return iter([(tenant, tuple(values)) for tenant, values in self._totals.items()])

    def _add_to_totals(self, row: UsageRow) -> None:
        tenant, values = row.key.names.tenant, row.values
        if tenant not in self._totals:
            if len(self._totals) >= MAX_TOTALS:
                tenant = OTHER
            self._totals.setdefault(tenant, list(NOTHING))
        total = self._totals[tenant]
        for at, value in enumerate(values):
            total[at] += value - row.added[at]
        row.added = values

    def forget_kept(self) -> None:
        """Forget hours before the last one, all of whose rows are kept elsewhere."""
        for hour in [hour for hour in self._rows if hour < self.hour - 1]:
            if not any(row.changed for row in self._rows[hour].values()):
                del self._rows[hour]

    def _add(self, names: UsageNames) -> UsageRow:
        rows = self._now
        if len(rows) >= MAX_ROWS:
            self.overflows += 1
            tenant = names.tenant
            if tenant not in self._tenants:
                if len(self._tenants) >= MAX_TENANTS:
                    tenant = OTHER
                self._tenants.add(tenant)
            names = UsageNames(tenant, OTHER, OTHER)
            if names in rows:
                return rows[names]
        row = rows[names] = UsageRow(UsageKey(self.hour, names))
        for (tenant, key, model, since), followed in self._sums.items():
            if tenant == names.tenant and key in ("", names.key) and model in ("", names.model) and since <= self.hour:
                row.sums.append(followed)
        return row

    # Sums

    def restore(self, rows: Iterable[tuple[UsageKey, Values]]) -> None:
        """Take over what was counted before this life and by other edges, for `tokens_of`. Called at the start."""
        for (hour, names), values in rows:
            known = self._base.setdefault((hour // DAY_H, names), [0, 0, 0])
            for at, value in enumerate(values[1:4]):
                known[at] += int(value)

    def tokens_of(self, tenant: str, key: str = "", model: str = "", *, since: int = 0) -> Tokens:
        """Tokens since an hour, which is the first of a day. A microsecond, except for the first time an answer is
        asked for.

        key, model: empty for all of the tenant's. since: hours since 1970, UTC.
        """
        followed = self._sums.get((tenant, key, model, since))
        return (self._follow(tenant, key, model, since) if followed is None else followed).tokens

    def _follow(self, tenant: str, key: str, model: str, since: int) -> UsageSum:
        if len(self._sums) >= MAX_SUMS:
            self._drop_sum(next(iter(self._sums)))
        followed = self._sums[tenant, key, model, since] = UsageSum()

        def counts(names: UsageNames) -> bool:
            return names.tenant == tenant and key in ("", names.key) and model in ("", names.model)

        for (day, names), (prompt, cached, output) in self._base.items():
            if day * DAY_H >= since and counts(names):
                followed.add(prompt, cached, output)
        for row in self:
            if row.key.hour >= since and counts(row.key.names):
                followed.add(row.prompt_tokens, row.cached_tokens, row.output_tokens)
                row.sums.append(followed)
        return followed

    def _drop_sum(self, asked: tuple[str, str, str, int]) -> None:
        dropped = self._sums.pop(asked)
        for row in self:
            row.sums = [followed for followed in row.sums if followed is not dropped]

    def _month_began(self) -> int:
        """An hour before which no budget begins: a calendar month has at most 31 days."""
        return self.hour - MAX_HOURS


def summed(rows: Iterable[tuple[UsageKey, Values]]) -> Mapping[UsageKey, Values]:
    """Rows of several lives and edges, added up."""
    sums: dict[UsageKey, list[float]] = {}
    add_up(sums, rows)
    return {key: tuple(values) for key, values in sums.items()}


def add_up(sums: dict[Key, list[float]], rows: Iterable[tuple[Key, Values]]) -> None:
    """Add rows to the sums of their keys."""
    for key, values in rows:
        known = sums.get(key)
        if known is None:
            sums[key] = list(values)
        else:
            for at, value in enumerate(values):
                known[at] += value
