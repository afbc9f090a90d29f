"""The tables of the simulator's comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.comparison import BEGIN, DOCS, RESULTS, Compared, Comparison, detail, overview, read_comparison, write_docs
from bench.report import END
from pointsman.simulator.measure import Difference, Spread, Summary

LIMITED = "kv_cost, limit 0.9"


def said(mean_ms: float, p99_ms: float) -> Summary:
    """A run with these times to first token."""
    ttft = Spread(mean_ms, mean_ms, p99_ms, p99_ms)
    return Summary(
        requests=100,
        ttft_ms=ttft,
        tpot_ms=Spread(20.0, 20.0, 20.0, 20.0),
        later_ttft_ms=ttft,
        hit_rate=0.9,
        imbalance=1.1,
        within_slo=0.8,
        goodput_per_s=1.0,
        preemptions=0,
        retried=0,
        refused=0,
        abandoned=0,
        handed_over=0,
        reasons={},
    )


@pytest.fixture
def compared() -> Compared:
    """One peer best in mean and one best in p99, and ours with a limit, which beats both in mean."""
    return Compared(
        name="agentic at 1.0",
        workload="agentic",
        load=1.0,
        seeds=[1, 2],
        fleet={"replicas": 8},
        documents={
            "kv_cost": {"policy": "kv_cost"},
            LIMITED: {"policy": "kv_cost", "admission": {"limit": 0.9}},
            "lmetric": {"policy": "lmetric"},
            "ramjet": {"policy": "ramjet"},
        },
        policies={
            "kv_cost": said(100, 800),
            LIMITED: said(90, 4000),
            "lmetric": said(125, 1600),
            "ramjet": said(200, 796),
        },
        kv_cost_against={
            LIMITED: Difference(0.1, 0.0, -0.8, 0.0, 0, 2, 2),
            "lmetric": Difference(-0.2, 0.01, -0.5, 0.02, 2, 2, 2),
            "ramjet": Difference(-0.5, 0.01, 0.004, 0.02, 2, 1, 2),
        },
    )


def test_detail_goes_by_mean_and_compares_with_peers(compared: Compared) -> None:
    """Ours, with whatever settings, is compared with nothing."""
    rows = detail(compared).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["`kv_cost`, limit 0.9", "`kv_cost`", "`lmetric`", "`ramjet`"]
    assert [row.count(" of 2") for row in rows] == [0, 0, 2, 2]
    assert "-20% ± 1%, 2 of 2" in rows[2]


def test_overview_names_the_best_peer_of_each_measure(compared: Compared) -> None:
    """A difference that rounds to nothing has no sign."""
    mean, tail = overview([compared]).splitlines()[-1].split(" | ")[-2:]
    assert mean == "-20%, `lmetric`"
    assert tail == "0%, `ramjet` |"


def test_the_page_shows_the_results() -> None:
    """docs/how-to-simulate.md is made of bench/results/simulate.json."""
    assert read_comparison(RESULTS).markdown() in DOCS.read_text()


def test_tables_are_put_between_the_markers(compared: Compared, tmp_path: Path) -> None:
    """What stands around them stays."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    comparison = Comparison(machine="m", python="3.11", command="c", runs=[compared])
    write_docs(comparison, page)
    assert page.read_text() == f"before\n{BEGIN}\n\n{comparison.markdown()}\n\n{END}\nafter\n"
