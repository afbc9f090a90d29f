"""The micro-bench of the index runs and says what it measured."""

from __future__ import annotations

import json

import pytest

from bench.index import main


def test_json_has_all_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory, events, and a match for each fleet, chain and kind of prompt."""
    main(["--keys", "5000", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert all(megabytes > 0 for megabytes in result["memory_mb"].values())
    assert result["events_per_s"] > 0
    assert len(result["match_us"]) == 3 * 2 * 3
    assert all(0 < row["best_us"] <= row["median_us"] for row in result["match_us"])
