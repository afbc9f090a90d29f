"""The simulator's comparison: what is played, what is kept, what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.simulate import SCENARIOS, Scenario, as_json, as_markdown, by_policy, play, read, run_all
from simulator.settings import FleetSettings

SMALL = Scenario("small", "single_turn", 0.5, ("kv_cost", "lmetric"), FleetSettings(replicas=2), requests=60)


@pytest.fixture(scope="module")
def runs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of `SMALL` with two seeds."""
    path = tmp_path_factory.mktemp("simulate") / "runs.jsonl"
    run_all(path, (1, 2), [SMALL])
    return path


def test_runs_are_kept_and_not_made_again(runs_file: Path) -> None:
    """One line a run; a second time the file stays as it is, and says what was played."""
    lines = runs_file.read_text()
    assert len(lines.splitlines()) == 4
    again = run_all(runs_file, (1, 2), [SMALL])
    assert runs_file.read_text() == lines
    key, summary = play((SMALL, "lmetric", 2))
    assert again[key] == read(runs_file)[key] == summary


def test_a_table_compares_ours_with_each(runs_file: Path) -> None:
    """Policies by mean; ours has nothing to be compared with."""
    table = as_markdown(SMALL, by_policy(SMALL, read(runs_file), (1, 2)))
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == 2
    assert {row.count(" of 2") for row in rows} == {0, 2}


def test_the_report_says_what_was_played(runs_file: Path) -> None:
    """Fleet, documents and seeds stand beside the averages."""
    report = as_json(SMALL, by_policy(SMALL, read(runs_file), (1, 2)), (1, 2))
    assert report["seeds"] == [1, 2]
    assert report["fleet"]["replicas"] == 2
    assert report["documents"]["lmetric"] == {"policy": "lmetric"}
    assert report["policies"]["kv_cost"]["requests"] == 120
    assert set(report["kv_cost_against"]) == {"lmetric"}


def test_scenarios_have_names_of_their_own() -> None:
    """A run is found again by its scenario's name."""
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
