"""Experiments: the same sessions for everybody, at the pace asked for."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console
from sim_trace import make_session, make_trace, make_turn

from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.experiment import Outcome, Pace, run_experiment
from pointsman.simulator.generate import WORKLOADS, generate
from pointsman.simulator.knee import knee_sessions_per_s
from pointsman.simulator.report import as_json, as_tables
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Trace

SETTINGS = FleetSettings(replicas=2, kv_tokens=100_000)
POLICIES = {"least": {"policy": "least_load"}, "sticky": {"policy": "session_affinity"}}


def short(seed: int) -> Trace:
    return generate(WORKLOADS["short_sessions"], sessions=20, seed=seed)


def experiment(loads: list[float], seeds: list[int]) -> list[Outcome]:
    return run_experiment(
        short, paces=[Pace(load=load) for load in loads], policies=POLICIES, settings=SETTINGS, seeds=seeds
    )


def test_a_load_is_a_share_of_the_knee() -> None:
    """Half of the knee's rate, whatever the trace's own."""
    trace = short(1)
    paced = Pace(load=0.5).apply(trace, SETTINGS, 1)
    assert paced.sessions_per_s == pytest.approx(0.5 * knee_sessions_per_s(trace, SETTINGS))


def test_a_rate_is_a_rate_and_nothing_leaves_the_trace_alone() -> None:
    """Sessions a second as given, or as recorded."""
    trace = short(1)
    assert Pace(sessions_per_s=3.0).apply(trace, SETTINGS, 1).sessions_per_s == pytest.approx(3.0)
    assert Pace().apply(trace, SETTINGS, 1) is trace


def test_a_trace_without_arrivals_needs_a_pace() -> None:
    """All at once would be a test of nothing."""
    trace = make_trace(make_session("a", 0.0, make_turn()), make_session("b", 0.0, make_turn()))
    with pytest.raises(ExperimentError, match="expected a load or a rate"):
        Pace().apply(trace, SETTINGS, 1)


def test_every_policy_plays_every_seed_at_every_load() -> None:
    """Two loads, two seeds, two policies: eight runs of 60 requests."""
    low, high = experiment([0.3, 0.9], [1, 2])
    assert low.sessions_per_s < high.sessions_per_s
    for outcome in (low, high):
        assert {name: sorted(runs) for name, runs in outcome.by_seed.items()} == {"least": [1, 2], "sticky": [1, 2]}
        assert outcome.averages()["sticky"].requests == 120


def test_json_of_one_load_has_the_policies_on_top() -> None:
    """The form scripts rely on, with each seed's run beside the average."""
    document = json.loads(json.dumps(as_json(experiment([0.5], [1, 2]), {"trace": "short"})))
    assert document["trace"] == "short"
    sticky = document["policies"]["sticky"]
    assert set(sticky["ttft_ms"]) == {"mean", "p50", "p95", "p99"}
    assert {"tpot_ms", "hit_rate", "imbalance", "goodput_per_s"} <= set(sticky)
    means = [sticky["seeds"][seed]["ttft_ms"]["mean"] for seed in ("1", "2")]
    assert sticky["ttft_ms"]["mean"] == pytest.approx(sum(means) / 2)
    assert document["first_against"]["sticky"]["seeds"] == 2


def test_json_of_a_sweep_has_an_entry_a_load() -> None:
    """In the order asked for."""
    document = as_json(experiment([0.3, 0.9], [1]), {})
    assert [entry["load"] for entry in document["sweep"]] == [0.3, 0.9]


def test_tables_name_policies_and_differences() -> None:
    """Best mean first, then how the first policy compares, seed by seed."""
    console = Console(width=130, record=True, file=StringIO())
    console.print(as_tables(experiment([0.5], [1, 2])))
    text = console.export_text()
    assert "0.5 of the knee" in text
    assert "least against others, paired by seed" in text
    assert "of 2" in text


def test_one_policy_has_nobody_to_be_compared_with() -> None:
    """One table, and no second."""
    outcomes = run_experiment(
        short, paces=[Pace(load=0.5)], policies={"least": {"policy": "least_load"}}, settings=SETTINGS, seeds=[1]
    )
    console = Console(width=130, record=True, file=StringIO())
    console.print(as_tables(outcomes))
    assert "against" not in console.export_text()
