"""The micro-bench of decisions runs and says what it measured; how long things take is nothing to test."""

from __future__ import annotations

import json

import pytest

from bench.decide import DOCUMENTS, main
from pointsman.policies.registry import POLICIES


def test_table_has_a_row_per_policy(capsys: pytest.CaptureFixture[str]) -> None:
    """Each configuration is a row, each fleet size a column."""
    main(["--replicas", "1", "4", "--rounds", "1", "--keys", "64"])
    lines = capsys.readouterr().out.splitlines()
    assert [label for label in DOCUMENTS if any(line.startswith(label) for line in lines)] == list(DOCUMENTS)
    assert "1 replicas" in lines[1]
    assert "4 replicas" in lines[1]


def test_json_carries_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json: machine, versions, ranking and ring times."""
    main(["--replicas", "3", "--rounds", "2", "--keys", "64", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert {row["policy"] for row in result["rank_us"]} == set(DOCUMENTS)
    assert all(0 < row["best_us"] <= row["median_us"] for row in result["rank_us"])
    assert {row["request"] for row in result["decide_us"]} == {"turn", "begins"}
    assert all(0 < row["rank_best_us"] < row["decide_best_us"] for row in result["decide_us"])
    assert result["ring_ms"][0]["cold_ms"] > 0
    assert result["numpy"]


def test_every_shipped_policy_is_timed() -> None:
    """No policy is left out."""
    assert {document["policy"] for document in DOCUMENTS.values()} >= set(POLICIES)
