"""Tenants of runs as a table and as a plot."""

from __future__ import annotations

from io import StringIO
from xml.etree import ElementTree

import pytest
from rich.console import Console

from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.experiment import Outcome, Pace
from pointsman.simulator.measure import Counts, Served, Summary, average, by_tenant, summarise
from pointsman.simulator.tenant_plots import as_svg
from pointsman.simulator.tenant_report import MAX_ROWS, tenant_table


def make_summary(*tenants: str, ttft_s: float = 0.1, refused: int = 0) -> Summary:
    """One request of each; the first one's tenant was refused so many."""
    served = [Served(0, 0.0, ttft_s, ttft_s + 1.0, 100, 10, 0, 0, tenant) for tenant in tenants]
    counts = Counts()
    counts.of(tenants[0]).refused["tokens_per_minute"] = refused
    return summarise(served, [1], counts, by_tenant(served, counts, dict.fromkeys(tenants, 1.0), 5.0))


def printed(runs: dict[str, Summary]) -> str:
    console = Console(width=130, file=StringIO(), force_terminal=False)
    table = tenant_table({name: summary.tenants for name, summary in runs.items()})
    assert table is not None
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def make_outcome(**runs: Summary) -> Outcome:
    return Outcome(pace=Pace(load=1.0), sessions_per_s=1.0, by_seed={name: {1: run} for name, run in runs.items()})


def test_runs_stand_beside_each_other() -> None:
    """Each tenant has a row for each run; a refusal has its limit."""
    text = printed({"none": make_summary("acme", ""), "set": make_summary("acme", "", ttft_s=0.3, refused=7)})
    lines = [line for line in text.splitlines() if "none" in line or "set" in line]
    assert [("acme" in line, "set" in line) for line in lines[:2]] == [(True, False), (False, True)]
    assert "7 tokens/min" in lines[1]
    assert "(none)" in text
    assert "50.0%" in lines[0]


def test_a_table_ends_somewhere() -> None:
    """It says how many it leaves out."""
    text = printed({"kv_cost": make_summary(*(f"t{number}" for number in range(MAX_ROWS + 5)))})
    assert "5 more with --json" in text
    assert sum("│" in line for line in text.splitlines()) == MAX_ROWS


def test_no_tenants_have_no_table() -> None:
    """Nothing is printed for traces that name none."""
    assert tenant_table({"kv_cost": {}}) is None


def test_seeds_are_averaged_by_tenant() -> None:
    """Requests are summed; a tenant that a seed does not have counts where it is."""
    both = average([make_summary("a", "b", refused=2), make_summary("a", ttft_s=0.3, refused=3)])
    assert (both.tenants["a"].requests, both.tenants["b"].requests) == (2, 1)
    assert both.tenants["a"].refused == {"tokens_per_minute": 5}
    assert both.tenants["a"].ttft_ms.p99 == pytest.approx(200.0)
    assert both.tenants["a"].share == pytest.approx(0.75)


def test_a_plot_has_a_dot_for_each_run_and_quantity() -> None:
    """Two tenants, two runs, four quantities, and two dots in the legend; names are escaped."""
    svg = as_svg(make_outcome(none=make_summary("a", "b"), **{"<set>": make_summary("a", "b", refused=1)}))
    root = ElementTree.fromstring(svg)
    assert len(root.findall(".//{*}circle")) == 2 * 2 * 4 + 2
    assert "&lt;set&gt;" in svg


def test_a_plot_of_no_tenants_is_an_error() -> None:
    """A single pace has nothing else to draw."""
    with pytest.raises(ExperimentError, match="a trace with tenants"):
        as_svg(make_outcome(kv_cost=summarise([Served(0, 0.0, 0.1, 1.0, 100, 10, 0, 0)], [1], Counts())))
