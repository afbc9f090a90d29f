"""NVIDIA Dynamo's own offline replay on our traces: `python -m bench.dynamo_replay [--json] [--load 0.6] [--seed 1]`.

Plays the generated agentic workload twice, with Dynamo's default router settings and with tuned ones (credit 2, scale
16): in Dynamo's replay (`run_mocker_trace_replay`), and in our simulator with the same cost function re-implemented.
Same trace, same fleet (8 replicas of 8,192 blocks of 64 tokens), answers not reused, no event lag: what differs is the
engine model and what the cost function is told. Reported for both: TTFT, hit rate, imbalance.

Dynamo's wheel is no dependency of ours. Install it apart, and name the interpreter that has it:

    python -m venv /tmp/dynamo && /tmp/dynamo/bin/pip install --no-deps ai-dynamo-runtime==1.6.1
    python -m bench.dynamo_replay --python /tmp/dynamo/bin/python
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.form import read_options, show
from bench.peers import say
from pointsman.simulator.experiment import Pace
from pointsman.simulator.fleet import VirtualFleet
from pointsman.simulator.generate import WORKLOADS, generate
from pointsman.simulator.mooncake import write_trace
from pointsman.simulator.peers.registry import policy_named
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Trace

REPLICAS = 8
BLOCKS = 8_192
BLOCK_SIZE = 64
SESSIONS = 400
KNOBS = {"dynamo_default": (1.0, 1.0), "dynamo_tuned": (2.0, 16.0)}
"""Overlap credit and prefill load scale by policy."""

REPLAY = """
import json, sys
try:
    from dynamo._core import KvRouterConfig, _normalize_mocker_config, run_mocker_trace_replay
except ImportError as error:
    sys.exit(f"ai-dynamo-runtime is not installed here: {error}")
trace, replicas, blocks, block_size, credit, scale = sys.argv[1], *map(float, sys.argv[2:])
engine = {"num_gpu_blocks": int(blocks), "block_size": int(block_size), "max_num_batched_tokens": 8192}
report = run_mocker_trace_replay(
    [trace],
    extra_engine_args=_normalize_mocker_config({"engine": engine}),
    router_config=KvRouterConfig(overlap_score_credit=credit, prefill_load_scale=scale),
    num_workers=int(replicas),
    router_mode="kv_router",
    trace_format="mooncake",
    trace_block_size=int(block_size),
    capture_per_request=True,
)
load = [0] * int(replicas)
for request in report.per_request:
    load[request["decode_worker_idx"]] += request["input_length"] - request["reused_input_tokens"]
summary = report.summary
print(json.dumps({
    "ttft_ms_mean": summary["mean_ttft_ms"],
    "ttft_ms_p50": summary["median_ttft_ms"],
    "ttft_ms_p99": summary["p99_ttft_ms"],
    "tpot_ms_mean": summary["mean_tpot_ms"],
    "hit_rate": summary["prefix_cache_reused_ratio"],
    "imbalance": max(load) / (sum(load) / len(load)),
}))
"""
"""Runs under the interpreter that has the wheel; arguments are the trace and five numbers."""


Run = dict[str, Any]
"""One policy at one load, as one of the two simulators saw it."""


def measure(python: str, loads: list[float], seeds: list[int], per_s: bool) -> Iterator[Run]:
    """Both simulators on each load and seed."""
    settings = FleetSettings(replicas=REPLICAS, kv_tokens=BLOCKS * BLOCK_SIZE, event_lag_s=0.0)
    for seed in seeds:
        made = generate(WORKLOADS["agentic"], sessions=SESSIONS, seed=seed, name="agentic", reuse_generated=False)
        for load in loads:
            pace = Pace(sessions_per_s=load) if per_s else Pace(load=load)
            trace = pace.apply(made, settings, seed)
            for policy in KNOBS:
                yield dynamo_run(python, trace, policy, load, seed)
                yield own_run(trace, policy, load, seed, settings)


def dynamo_run(python: str, trace: Trace, policy: str, load: float, seed: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        write_trace(trace, path)
        numbers = (REPLICAS, BLOCKS, BLOCK_SIZE, *KNOBS[policy])
        command = [python, "-c", REPLAY, str(path), *map(str, numbers)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"{python} failed with {done.returncode}")
    seen = json.loads(done.stdout.splitlines()[-1])
    return {"simulator": "dynamo", "policy": policy, "load": load, "seed": seed, **seen}


def own_run(trace: Trace, policy: str, load: float, seed: int, settings: FleetSettings) -> Run:
    summary = VirtualFleet(trace, policy_named(policy), settings, seed=seed).run()
    return {
        "simulator": "pointsman", "policy": policy, "load": load, "seed": seed,
        **{f"ttft_ms_{name}": getattr(summary.ttft_ms, name) for name in ("mean", "p50", "p99")},
        "tpot_ms_mean": summary.tpot_ms.mean, "hit_rate": summary.hit_rate, "imbalance": summary.imbalance,
    }  # fmt: skip


def line(run: Run) -> str:
    return (
        "{policy:16}{load:6g} seed {seed:<4}{simulator:10} TTFT mean {ttft_ms_mean:8.1f} p50 {ttft_ms_p50:7.1f} "
        "p99 {ttft_ms_p99:9.1f} ms  TPOT {tpot_ms_mean:5.1f} ms  hit {hit_rate:.3f}  imbalance {imbalance:.2f}"
    ).format(**run)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print. `--load` are shares of the knee, or with `--per-s` sessions a second."""
    given = {"python": sys.executable, "load": [0.6, 0.85, 1.0], "per_s": False, "seed": [1]}
    options = read_options("dynamo_replay", __doc__, arguments, **given)
    runs = []
    for run in measure(options.python, options.load, options.seed, options.per_s):
        say(line(run))
        runs.append(run)
    show(options.json, {"runs": runs}, map(line, runs))


if __name__ == "__main__":
    main()
