"""Policies side by side on a simulated fleet: `python -m bench.simulate RUNS.jsonl [--seeds 21 22 23 24] [--out FILE]`.

Plays every scenario of `SCENARIOS` with every policy and seed, on two processes. Each finished run is a line of
RUNS.jsonl, and runs that are there already are not made again, so it may be stopped at any time and go on later.
When all are there it prints them as Markdown, and `--out` writes their averages as JSON, whose tables `python -m
bench.comparison` puts onto docs/how-to-simulate.md. Virtual time: results do not
depend on the machine, nor on what else it does.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.comparison import OURS, Compared, Comparison
from pointsman.simulator.experiment import Pace
from pointsman.simulator.fleet import VirtualFleet
from pointsman.simulator.generate import WORKLOADS, generate
from pointsman.simulator.measure import Summary, average, paired
from pointsman.simulator.peers.registry import policy_named
from pointsman.simulator.settings import FleetSettings, Restart

SEEDS = (21, 22, 23, 24)
PROCESSES = 2

LIMITED = {f"kv_cost, limit {limit}": {"policy": OURS, "admission": {"limit": limit}} for limit in (0.9, 1.0)}
BEST = ("kv_cost", "dynamo_tuned", "lmetric", "ramjet")
GOOD = (*BEST, "two_tier", "session_affinity")
REST = ("kv_cost", "stick_or_spill", "predicted_ttft", "dynamo_agentic", "chwbl", "hash_ring", "dynamo_default")
OTHERS = (*BEST, "session_affinity")


@dataclass(frozen=True)
class Scenario:
    """One workload on one fleet at one load."""

    name: str
    workload: str
    load: float
    policies: Sequence[str]
    fleet: FleetSettings = field(default_factory=FleetSettings)
    seeds: int = 2
    """Number of the seeds it is played with."""
    requests: int = 8_000
    """About so many."""


def _agentic(load: float, policies: Sequence[str], seeds: int, said: str = "", **fleet: Any) -> Scenario:
    return Scenario(f"agentic at {load}{said}", "agentic", load, policies, FleetSettings(**fleet), seeds)


SCENARIOS = (
    _agentic(1.0, (*GOOD, *LIMITED), 4),
    _agentic(1.1, (*GOOD, *LIMITED), 4),
    _agentic(0.6, BEST, 4),
    _agentic(1.05, BEST, 4),
    *(
        Scenario(f"{workload} at {load}", workload, load, OTHERS)
        for workload, load in (
            ("prefill_heavy", 0.85),
            ("short_sessions", 0.6),
            ("single_turn", 0.6),
            ("shared_system_prompt", 0.6),
            ("mixed", 0.85),
            ("agentic_no_ids", 0.85),
        )
    ),
    _agentic(0.85, BEST, 2, ", every fourth replica at half speed", speeds=(1.0, 1.0, 1.0, 0.5)),
    *(_agentic(load, (OURS,), 4, ", 4 routers that learn 100 ms later", routers=4, sync_s=0.1) for load in (0.6, 1.0)),
    _agentic(1.2, (*BEST, *LIMITED), 4),
    _agentic(0.85, BEST, 2),
    *(_agentic(load, BEST, 2) for load in (0.3, 1.3, 0.5, 0.7)),
    _agentic(
        0.85, BEST, 2, ", a replica away for 30 s", restarts=(Restart(replica=2, at_s=200.0, down_s=30.0),)
    ),
    _agentic(1.0, REST, 2, ", other peers"),
)  # fmt: skip

Key = tuple[str, str, int]


def _document(policy: str) -> dict[str, Any]:
    return LIMITED.get(policy) or policy_named(policy)


def play(job: tuple[Scenario, str, int]) -> tuple[Key, Summary]:
    """One run."""
    scenario, policy, seed = job
    workload = WORKLOADS[scenario.workload]
    trace = generate(workload, sessions=max(1, round(scenario.requests / workload.turns.mean)), seed=seed)
    paced = Pace(load=scenario.load).apply(trace, scenario.fleet, seed)
    return (scenario.name, policy, seed), VirtualFleet(paced, _document(policy), scenario.fleet, seed=seed).run()


def read(path: Path) -> dict[Key, Summary]:
    """Runs that are there already."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {tuple(line["run"]): msgspec.convert(line["summary"], Summary) for line in lines}


def run_all(path: Path, seeds: Sequence[int], scenarios: Iterable[Scenario]) -> dict[Key, Summary]:
    """All runs, of which those that `path` lacks are made and written there."""
    done = read(path)
    jobs = [
        (scenario, policy, seed)
        for scenario in scenarios
        for seed in seeds[: scenario.seeds]
        for policy in scenario.policies
    ]
    jobs = [job for job in jobs if (job[0].name, job[1], job[2]) not in done]
    with ProcessPoolExecutor(PROCESSES) as pool, path.open("a") as out:
        for key, summary in pool.map(play, jobs):
            done[key] = summary
            out.write(json.dumps({"run": key, "summary": msgspec.to_builtins(summary)}) + "\n")
            out.flush()
    return done


def by_policy(scenario: Scenario, runs: dict[Key, Summary], seeds: Sequence[int]) -> dict[str, dict[int, Summary]]:
    """Runs of one scenario by policy and seed."""
    return {
        policy: {seed: runs[scenario.name, policy, seed] for seed in seeds[: scenario.seeds]}
        for policy in scenario.policies
    }


def compare(scenario: Scenario, runs: dict[str, dict[int, Summary]], seeds: Sequence[int]) -> Compared:
    """Averages over seeds, with what was played."""
    return Compared(
        name=scenario.name,
        workload=scenario.workload,
        load=scenario.load,
        seeds=list(seeds[: scenario.seeds]),
        fleet=msgspec.to_builtins(scenario.fleet),
        documents={policy: _document(policy) for policy in scenario.policies},
        policies={policy: average(list(found.values())) for policy, found in runs.items()},
        kv_cost_against={policy: paired(runs[OURS], found) for policy, found in runs.items() if policy != OURS},
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description="Policies on a simulated fleet.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="Scenarios whose names begin so.")
    options = parser.parse_args(arguments)
    if len(options.seeds) < max(scenario.seeds for scenario in SCENARIOS):
        parser.error("as many seeds as the scenario with most of them are expected")
    scenarios = [scenario for scenario in SCENARIOS if scenario.name.startswith(options.only)]
    runs = run_all(options.runs, options.seeds, scenarios)
    comparison = Comparison(
        machine=f"{platform.machine()} {platform.system()}, virtual time: results do not depend on the machine",
        python=platform.python_version(),
        command="python -m bench.simulate",
        runs=[compare(scenario, by_policy(scenario, runs, options.seeds), options.seeds) for scenario in scenarios],
    )
    print(comparison.markdown())
    if options.out is not None:
        options.out.write_text(json.dumps(_rounded(msgspec.to_builtins(comparison)), indent=1) + "\n")


if __name__ == "__main__":
    main()
