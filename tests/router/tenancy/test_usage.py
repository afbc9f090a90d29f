"""Rows of usage, their bounds, and sums that follow them."""

from __future__ import annotations

import pytest

from pointsman.router.tenancy import usage
from pointsman.router.tenancy.usage import DAY_H, OTHER, Tokens, UsageKey, UsageLedger, UsageNames, summed

DAY = 20_000 * DAY_H


def count(
    ledger: UsageLedger, tenant: str, key: str = "", model: str = "m", tokens: tuple[int, ...] = (10, 4, 2)
) -> None:
    row = ledger.row(tenant, key, model, "")
    row.requests += 1
    ledger.count_tokens(row, *tokens)


def figures(ledger: UsageLedger) -> dict[tuple[str, ...], tuple[int, int]]:
    """Requests and prompt tokens by names."""
    return {tuple(row.key.names): (row.requests, row.prompt_tokens) for row in ledger}


def test_rows_are_by_hour_and_names() -> None:
    """Another hour begins other rows; the earlier ones stay as they are."""
    ledger = UsageLedger(DAY)
    for _ in range(2):
        count(ledger, "acme")
    count(ledger, "acme", "k1")
    ledger.set_hour(DAY + 1)
    count(ledger, "acme")
    found = {(row.key.hour - DAY, *row.key.names): row.values[:4] for row in ledger}
    assert found == {
        (0, "acme", "", "m", ""): (2, 20, 8, 4),
        (0, "acme", "k1", "m", ""): (1, 10, 4, 2),
        (1, "acme", "", "m", ""): (1, 10, 4, 2),
    }


def test_beyond_the_limit_a_tenant_has_one_row_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no client's names take another tenant's rows; beyond that limit, tenants are counted together."""
    monkeypatch.setattr(usage, "MAX_ROWS", 2)
    monkeypatch.setattr(usage, "MAX_TENANTS", 2)
    ledger = UsageLedger()
    for name in ("m1", "m2", "m3", "m4"):
        count(ledger, "acme", model=name)
    for tenant in ("b", "c", "d"):
        count(ledger, tenant)
    assert figures(ledger) == {
        ("acme", "", "m1", ""): (1, 10),
        ("acme", "", "m2", ""): (1, 10),
        ("acme", OTHER, OTHER, ""): (2, 20),
        ("b", OTHER, OTHER, ""): (1, 10),
        (OTHER, OTHER, OTHER, ""): (2, 20),
    }
    assert ledger.overflows == 5


def test_changed_rows_are_taken_once() -> None:
    """Until they change again."""
    ledger = UsageLedger()
    count(ledger, "acme")
    count(ledger, "acme")
    (row,) = ledger.take_changed()
    assert ledger.take_changed() == []
    count(ledger, "acme")
    assert ledger.take_changed() == [row]


def test_hours_that_are_kept_elsewhere_are_forgotten() -> None:
    """Not the last one, and none that changed meanwhile."""
    ledger = UsageLedger(DAY)
    ledger.keeps_hours = False
    count(ledger, "early")
    late = ledger.row("late", "", "m", "")
    ledger.take_changed()
    ledger.set_hour(DAY + 2)
    ledger.touch(late)
    ledger.forget_kept()
    assert len(ledger) == 2
    ledger.take_changed()
    ledger.forget_kept()
    assert len(ledger) == 0


def test_without_a_store_the_oldest_hours_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number, and by the number of rows."""
    monkeypatch.setattr(usage, "MAX_HOURS", 3)
    ledger = UsageLedger(DAY)
    for hour in range(5):
        ledger.set_hour(DAY + hour)
        count(ledger, "acme")
    assert {row.key.hour - DAY for row in ledger} == {2, 3, 4}
    monkeypatch.setattr(usage, "MAX_ROWS_IN_MEMORY", 1)
    ledger.set_hour(DAY + 5)
    assert {row.key.hour - DAY for row in ledger} == {4}


def test_totals_of_a_tenant_outlive_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what counters on the page of metrics show: they never fall, and their names are bounded."""
    monkeypatch.setattr(usage, "MAX_TOTALS", 1)
    ledger = UsageLedger(DAY)
    ledger.keeps_hours = False
    count(ledger, "acme")
    assert dict(ledger.totals())["acme"][:2] == (1, 10)
    ledger.take_changed()
    ledger.set_hour(DAY + 2)
    ledger.forget_kept()
    count(ledger, "acme")
    count(ledger, "zeta")
    assert {tenant: values[1] for tenant, values in ledger.totals()} == {"acme": 20, OTHER: 10}


def test_tokens_are_summed_for_whoever_asks() -> None:
    """Of all keys and models or one, since an hour, with those of earlier lives; and they grow with the rows."""
    ledger = UsageLedger(DAY)
    ledger.restore(
        [
            (UsageKey(DAY - DAY_H, UsageNames("acme", "k1", "m")), (1, 100, 50, 10, *[0] * 5)),
            (UsageKey(DAY + 3, UsageNames("acme", "k2", "m")), (1, 1000, 500, 100, *[0] * 5)),
        ]
    )
    count(ledger, "acme", "k1")
    assert ledger.tokens_of("acme") == Tokens(1110, 554, 112)
    assert ledger.tokens_of("acme", since=DAY) == Tokens(1010, 504, 102)
    assert ledger.tokens_of("acme", "k1") == Tokens(110, 54, 12)
    assert ledger.tokens_of("acme", model="n") == Tokens()
    count(ledger, "acme", "k1", "n")
    count(ledger, "acme", "k1")
    ledger.set_hour(DAY + 1)
    count(ledger, "acme", "k1", "n")
    assert ledger.tokens_of("acme", model="n") == Tokens(20, 8, 4)
    assert ledger.tokens_of("acme", "k1", since=DAY) == Tokens(40, 16, 8)
    assert ledger.tokens_of("zeta") == Tokens()


def test_sums_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is no longer followed is added up anew when it is asked for."""
    monkeypatch.setattr(usage, "MAX_SUMS", 1)
    ledger = UsageLedger(DAY)
    count(ledger, "acme")
    assert ledger.tokens_of("acme").prompt == 10
    assert ledger.tokens_of("zeta").prompt == 0
    count(ledger, "acme")
    assert all(len(row.sums) == 0 for row in ledger)
    assert ledger.tokens_of("acme").prompt == 20


def test_rows_of_several_lives_are_added_up() -> None:
    """Row by row."""
    key = UsageKey(DAY, UsageNames("acme"))
    assert summed([(key, (1.0,) * 9), (key, (2.0,) * 9)]) == {key: (3.0,) * 9}
