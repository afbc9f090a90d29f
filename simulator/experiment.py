"""Runs policies over workloads, loads and seeds, and says how they compare.

Every policy of an experiment plays the same sessions: a seed names the sessions, their arrivals, and the dice of
routers and policies. With several sets of tenants, each policy plays each of them. A load is a share of the workload's
knee (`pointsman.simulator.knee`), or a rate given outright.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.fleet import VirtualFleet
from pointsman.simulator.knee import knee_sessions_per_s
from pointsman.simulator.measure import Difference, Summary, average, paired
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.tenants import NO_TENANTS, TenantSet
from pointsman.simulator.trace import Trace

TraceOf = Callable[[int], Trace]
"""The trace for a seed."""

SWEEP = (0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
"""Shares of the knee that show where each policy gives way."""


class Pace(msgspec.Struct, frozen=True):
    """Rate of new sessions: a share of the knee, sessions per second, or (neither) as in the trace."""

    load: float | None = None
    sessions_per_s: float | None = None

    def __str__(self) -> str:
        if self.load is not None:
            return f"{self.load:g} of the knee"
        return f"{self.sessions_per_s:g} sessions/s" if self.sessions_per_s is not None else "as recorded"

    def apply(self, trace: Trace, settings: FleetSettings, seed: int) -> Trace:
        """The trace at this pace. Raises ExperimentError when all of a trace would begin at once."""
        rate = self.sessions_per_s
        if self.load is not None:
            rate = self.load * knee_sessions_per_s(trace, settings)
        if rate is not None:
            return trace.at_rate(rate, random.Random(f"{seed} starts"))
        if not trace.has_starts:
            raise ExperimentError("", None, "a load or a rate", "all sessions begin at once", source=trace.name)
        return trace


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """All runs at one pace."""

    pace: Pace
    sessions_per_s: float
    """Mean over seeds."""
    by_seed: dict[str, dict[int, Summary]]
    """Runs by policy and seed."""

    def averages(self) -> dict[str, Summary]:
        return {policy: average(list(runs.values())) for policy, runs in self.by_seed.items()}

    def against(self, policy: str) -> dict[str, Difference]:
        """Compare one policy with each of the others, seed by seed."""
        ours = self.by_seed[policy]
        return {other: paired(ours, runs) for other, runs in self.by_seed.items() if other != policy}


def _label(policy: str, tenants: TenantSet, policies: int) -> str:
    """Name of a policy's runs with a set of tenants: what tells them from the others."""
    if not tenants.name:
        return policy
    return tenants.name if policies == 1 else f"{policy}, {tenants.name}"


def run_experiment(
    trace_of: TraceOf,
    *,
    paces: Sequence[Pace],
    policies: Mapping[str, dict[str, Any]],
    settings: FleetSettings,
    seeds: Sequence[int],
    tenants: Sequence[TenantSet] = (NO_TENANTS,),
    progress: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """One outcome a pace. Raises ExperimentError and PolicyConfigError."""
    variants = [
        (_label(name, of, len(policies)), document, of) for name, document in policies.items() for of in tenants
    ]
    runs: dict[Pace, dict[str, dict[int, Summary]]] = {pace: {name: {} for name, _, _ in variants} for pace in paces}
    rates: dict[Pace, list[float]] = {pace: [] for pace in paces}
    for seed in seeds:
        trace = trace_of(seed)
        for pace in paces:
            paced = pace.apply(trace, settings, seed)
            rates[pace].append(paced.sessions_per_s if len(paced.sessions) > 1 else 0.0)
            for name, document, of in variants:
                progress(f"{name}, {pace}, seed {seed}")
                runs[pace][name][seed] = VirtualFleet(paced, document, settings, seed=seed, tenants=of).run()
    return [
        Outcome(pace=pace, sessions_per_s=sum(rates[pace]) / len(seeds), by_seed=by_policy)
        for pace, by_policy in runs.items()
    ]
