"""Many seeded worlds on all cores, and what they met.

    python tests/support/many_worlds.py FIRST LAST [ACTIVE_S]        both seeds included

`shared_world.py SEED` replays one of them, event by event.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog
from shared_world import ACTIVE_S, Violation, run_world

SEEDS_AT_ONCE = 5
"""Given to a process each time: worlds differ in length."""


@dataclass(frozen=True)
class Outcome:
    """One world's run."""

    seed: int
    violation: str = ""
    """What did not hold, with the last events and how to replay them; empty when all did."""
    requests: int = 0
    checks: int = 0
    agreed_after_s: float = 0.0
    faults: Counter[str] | None = None
    """By kind."""


def look_at(seed: int, active_s: float = ACTIVE_S) -> Outcome:
    """Runs one world to its end or to its first violation."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        world = run_world(seed, active_s=active_s)
    except Violation as violation:
        return Outcome(seed, str(violation))
    kinds = Counter({f"call failed, {cause}": count for cause, count in world.store.met.items()})
    for fault, count in world.faults.items():
        kinds[fault.partition(":")[0]] += count
    return Outcome(seed, "", world.requests, world.checks, world.agreed_after_s, kinds)


def look_at_all(seeds: Iterable[int], *, active_s: float = ACTIVE_S) -> list[Outcome]:
    """The same for each, on all cores; in the order of the seeds."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
        return list(processes.map(partial(look_at, active_s=active_s), seeds, chunksize=SEEDS_AT_ONCE))


def report(outcomes: Sequence[Outcome]) -> str:
    """What was run, in a few lines."""
    kinds = Counter[str]()
    for outcome in outcomes:
        kinds.update(outcome.faults or {})
    violated = [outcome.seed for outcome in outcomes if outcome.violation]
    return (
        f"seeds {outcomes[0].seed} to {outcomes[-1].seed}: {len(outcomes)} worlds, "
        f"{sum(outcome.requests for outcome in outcomes)} requests, "
        f"{sum(outcome.checks for outcome in outcomes)} checks, "
        f"agreed after at most {max(outcome.agreed_after_s for outcome in outcomes):.0f} s; "
        f"violations {len(violated)}{f' (seeds {violated})' if violated else ''}; "
        f"{sum(kinds.values())} faults: {', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}"
    )


if __name__ == "__main__":
    lived_s = float(sys.argv[3]) if len(sys.argv) > 3 else ACTIVE_S
    met = look_at_all(range(int(sys.argv[1]), int(sys.argv[2]) + 1), active_s=lived_s)
    print(*(outcome.violation for outcome in met if outcome.violation), report(met), sep="\n\n")
