"""The simulator's comparison: what is played and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.simulate import SCENARIOS, Scenario, by_policy, compare, play, read, run_all
from pointsman.simulator.settings import FleetSettings

pytestmark = pytest.mark.xdist_group("simulate")

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


def test_the_comparison_says_what_was_played(runs_file: Path) -> None:
    """Fleet, documents and seeds stand beside the averages."""
    compared = compare(SMALL, by_policy(SMALL, read(runs_file), (1, 2)), (1, 2))
    assert compared.seeds == [1, 2]
    assert compared.fleet["replicas"] == 2
    assert compared.documents["lmetric"] == {"policy": "lmetric"}
    assert compared.policies["kv_cost"].requests == 120
    assert set(compared.kv_cost_against) == {"lmetric"}


def test_scenarios_have_names_of_their_own() -> None:
    """A run is found again by its scenario's name."""
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
