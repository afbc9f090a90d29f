"""What the bench of agents makes of aiperf's records and of CPU clocks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.agentic import Run, used_between
from bench.aiperf import read_records
from bench.cpu import Reading
from bench.peers import PeerError


def record(turn: int, begins_ns: int, ends_ns: int, **metrics: float) -> dict[str, Any]:
    return {
        "metadata": {"turn_index": turn, "request_start_ns": begins_ns, "request_end_ns": ends_ns},
        "metrics": {name: {"value": value, "unit": "any"} for name, value in metrics.items()},
    }


def write(folder: Path, records: list[dict[str, Any]]) -> Path:
    file = folder / "profile_export.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    return file


def test_a_record_says_what_the_client_and_the_engine_saw(tmp_path: Path) -> None:
    """Times from the client, token counts from the engine; one token has no pace."""
    usage = {"usage_prompt_tokens": 100, "usage_prompt_cache_read_tokens": 60, "usage_completion_tokens": 1}
    played = read_records(write(tmp_path, [record(3, 10, 20, time_to_first_token=7.5, **usage)]))
    (answer,) = played.answers
    assert (answer.turn, answer.ttft_ms, answer.prompt_tokens, answer.cached_tokens) == (3, 7.5, 100, 60)
    assert math.isnan(answer.tpot_ms)


def test_a_request_without_a_first_token_is_an_error(tmp_path: Path) -> None:
    """It counts as one, and bounds the time that was played."""
    failed = {**record(0, 5, 90), "error": {"code": 503}}
    played = read_records(write(tmp_path, [record(0, 10, 20, time_to_first_token=1.0), failed]))
    assert (len(played.answers), played.errors, played.first_ns, played.last_ns) == (1, 1, 5, 90)


def test_a_file_without_records_is_no_result(tmp_path: Path) -> None:
    """Nothing was played: that is no run with zeros."""
    with pytest.raises(PeerError, match="wrote no request"):
        read_records(write(tmp_path, []))


def test_cpu_counts_from_the_first_request_to_the_last_answer() -> None:
    """What the edge did while the client got ready is left out, as far as readings tell."""
    clocks = [0, 100, 250, 900, 901]
    seen = [(number * 10, Reading({1: clock * 1_000_000}, {1: 0}, {1: "all"})) for number, clock in enumerate(clocks)]
    assert used_between(seen, 12, 28) == pytest.approx({"all": 0.8})
    assert used_between(seen, 0, 40) == pytest.approx({"all": 0.901})


def test_a_run_is_summed_up_by_tokens_and_by_turns(tmp_path: Path) -> None:
    """Hits go by tokens, imbalance by replicas, and later turns are told apart."""
    first = record(0, 0, 1, time_to_first_token=300.0, usage_prompt_tokens=100, usage_prompt_cache_read_tokens=0)
    later = record(1, 2, 3, time_to_first_token=100.0, usage_prompt_tokens=300, usage_prompt_cache_read_tokens=200)
    run = Run(
        {"haproxy": 50.0, "router": 20.0}, read_records(write(tmp_path, [first, later])), prompt_tokens=[300, 100]
    )
    assert (run.hit_rate, run.imbalance, run.edge_us) == (0.5, 1.5, 70.0)
    assert (run.figures()["ttft_ms"]["mean"], run.figures()["later_ttft_ms"]["mean"]) == (200.0, 100.0)
