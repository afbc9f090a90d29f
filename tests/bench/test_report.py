"""Reports, and the page that shows one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.report import (
    BEGIN,
    DOCS,
    END,
    Bystanders,
    Report,
    Table,
    load_report,
    median,
    put_between,
    spread,
    write_docs,
)

FOLDER = Path(__file__).parents[2] / "bench" / "results"
RESULTS = sorted(FOLDER.glob("edges*.json"))
AGENTS = FOLDER / "agentic.json"


def make_report() -> Report:
    table = Table("A title", ["what", "measured"], [["p50 | p99", "1"]], ["a note"])
    return Report(
        {"cpu": "a processor"}, {"haproxy": "2.8"}, "python -m bench edge", "2026-01-01", [table], {"edge": {}}
    )


def test_a_spread_is_median_and_extremes() -> None:
    """One value stands alone."""
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0-3.0)"
    assert spread([1.25], 2) == "1.25"


def test_the_median_of_an_even_number_lies_between() -> None:
    """And of nothing there is none."""
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert median([]) != median([])


def test_markdown_holds_title_rows_and_notes() -> None:
    """A bar inside a cell does not part it."""
    assert make_report().tables[0].markdown().splitlines() == [
        "### A title",
        "",
        "| what | measured |",
        "| --- | --- |",
        "| p50 \\| p99 | 1 |",
        "",
        "- a note",
    ]


def test_a_report_round_trips(tmp_path: Path) -> None:
    """What is written is what is read."""
    file = tmp_path / "report.json"
    file.write_text(make_report().json())
    assert load_report(file) == make_report()


def test_a_page_takes_the_report_between_its_markers(tmp_path: Path) -> None:
    """What stands around the markers stays, however often it is written."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_docs(make_report(), page)
    text = page.read_text()
    assert text.startswith(
        f"before\n{BEGIN}\n\nTaken 2026-01-01 by `python -m bench edge` on a processor; haproxy 2.8."
    )
    assert text.endswith(f"- a note\n\n{END}\nafter\n")
    assert "old" not in text


def test_a_page_without_markers_is_refused() -> None:
    """Nothing is written where it would be lost."""
    with pytest.raises(ValueError, match="markers"):
        put_between("a page", "text")


def test_the_page_shows_a_checked_in_run() -> None:
    """docs/benchmarks.md holds the tables of one of bench/results/, word for word."""
    page = DOCS.read_text()
    assert any(put_between(page, load_report(file).markdown()) == page for file in RESULTS)


def test_the_page_shows_the_checked_in_run_of_agents(tmp_path: Path) -> None:
    """They have a place of their own, apart from the edges'."""
    page = tmp_path / "page.md"
    page.write_text(DOCS.read_text())
    write_docs(load_report(AGENTS), page)
    assert page.read_text() == DOCS.read_text()


@pytest.mark.parametrize("file", [*RESULTS, AGENTS], ids=lambda file: file.name)
def test_results_say_where_they_come_from(file: Path) -> None:
    """Machine, versions and command are in every result file."""
    report = load_report(file)
    assert {"cpu", "cores", "kernel"} <= report.machine.keys()
    assert {"pointsman", "haproxy", "python"} <= report.versions.keys()
    assert report.command.startswith("python -m bench ")
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_own_work_is_not_that_of_bystanders() -> None:
    """A share of the machine: never less than nothing; over no time at all it has no upper end."""
    assert Bystanders().share() >= 0
