"""Counts by model, tenant and operation, whatever names clients send."""

from __future__ import annotations

from pointsman.router.counts.models import (
    MAX_MODELS,
    MAX_ROWS,
    MAX_STATUSES,
    MAX_TENANTS,
    OTHER,
    OTHER_STATUS,
    ModelCounts,
    ModelRow,
)


def test_each_model_tenant_and_operation_has_its_row() -> None:
    """And the same three always the same."""
    counts = ModelCounts()
    rows = [counts.row(*key) for key in (("m", "", "chat"), ("m", "t", "chat"), ("n", "", "chat"), ("m", "", "other"))]
    assert len(set(map(id, rows))) == len(counts) == 4
    assert counts.row("m", "t", "chat") is rows[1]
    assert [key for key, _ in counts][1] == ("m", "t", "chat")


def test_models_beyond_the_limit_are_one() -> None:
    """Their names come from clients: no number of them makes the metrics page longer."""
    counts = ModelCounts()
    for number in range(MAX_MODELS):
        counts.row(f"m{number}", "", "chat")
    assert counts.row("one more", "", "chat") is counts.row("another", "", "chat")
    assert len(counts) == MAX_MODELS + 1
    assert counts.row("m0", "", "chat") is not counts.row(OTHER, "", "chat")


def test_a_model_that_left_gives_way_to_one_that_came() -> None:
    """Names of models change for as long as a router runs; one that nobody serves does not push out any."""
    served = {f"m{number}" for number in range(MAX_MODELS)}
    counts = ModelCounts(served.__contains__)
    for model in sorted(served):
        counts.row(model, "", "chat")
    served.remove("m7")
    assert counts.row("invented", "", "chat") is counts.row(OTHER, "", "chat")
    served.add("new")
    counts.row("new", "", "chat")
    models = {key.model for key, _ in counts}
    assert "new" in models
    assert "m7" not in models
    assert len(models) == MAX_MODELS + 1


def test_tenants_beyond_the_limit_are_one() -> None:
    """For each model."""
    counts = ModelCounts()
    for number in range(MAX_TENANTS):
        counts.row("m", f"t{number}", "chat")
    assert counts.row("m", "one more", "chat") is counts.row("m", OTHER, "chat")
    assert counts.row("n", "t0", "chat") is not counts.row("n", "one more", "chat")


def test_rows_are_limited_however_models_and_tenants_mix() -> None:
    """Beyond the limit a model keeps one row an operation for all its further tenants."""
    counts = ModelCounts()
    for model in range(2 * MAX_MODELS):
        for tenant in range(2 * MAX_TENANTS):
            counts.row(f"m{model}", f"t{tenant}", "chat")
    assert len(counts) <= MAX_ROWS + MAX_MODELS + 1


def test_statuses_of_a_row_are_limited() -> None:
    """A replica can answer with any number; none at all is counted with those beyond."""
    row = ModelRow()
    for status in range(200, 200 + MAX_STATUSES):
        row.duration(status)
    assert row.duration(599) is row.duration(-1) is row.durations_s[OTHER_STATUS]
    assert row.duration(200) is row.durations_s[200]
