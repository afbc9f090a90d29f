"""Predictions of a dry run and of a shadow beside what then happens: `python -m bench.shadow [--load 0.85]`.

Simulated agents in virtual time (`pointsman.simulator`: the real router and policies, modelled engines) are played
under a policy A, with B as its shadow, and a dry run tries B on the decisions that the router kept of that run. Then
the same agents are played under B. Replicas are alike, so the same session may be at home elsewhere in each run; what
can be compared is how often a session leaves the replica of its request before. Results do not depend on the machine.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pointsman.policies.registry import build_policy_set
from pointsman.router.decide.comparison import Tally
from pointsman.router.decide.dry_run import DryRun
from pointsman.router.requests.decision_record import DecisionRecord
from pointsman.simulator.experiment import Pace
from pointsman.simulator.fleet import VirtualFleet
from pointsman.simulator.generate import WORKLOADS, generate
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Trace

Document = Mapping[str, Any]

STICKY = {"policy": "session_affinity", "fallback": {"policy": "least_load", "by": "tokens"}}
KV = {"policy": "kv_cost"}

PAIRS: Sequence[tuple[Document, Document]] = (
    (KV, {**KV, "kappa_full": 4.0}),
    (KV, STICKY),
    (STICKY, KV),
    ({"policy": "least_load"}, KV),
    (KV, {"policy": "random"}),
)
"""Policies that are live, and policies that are tried."""


class Run(NamedTuple):
    """One run of the agents."""

    records: list[DecisionRecord]
    """Decisions that the router kept, oldest first."""
    ttft_ms: float
    """Mean time to first token, as measured."""
    cached: float
    """Mean of the cached tokens of a request."""
    left: float
    """Share of later requests of a session that went to another replica than the one before."""
    shadow: Tally | None
    shadow_left: float
    """Share of those that the shadow would have sent to another replica than the one before."""


class Outcome(NamedTuple):
    """Predictions about one policy beside what happened."""

    live: str
    tried: str
    dry_run: Tally
    before: Run
    after: Run


def play(trace: Trace, fleet: FleetSettings, document: Document, shadow: Document | None = None, *, seed: int) -> Run:
    """Play the agents under a policy, with another one as its shadow."""
    world = VirtualFleet(trace, dict(document), fleet, seed=seed)
    core = world.edges[0].core
    if shadow is not None:
        core.trials.start_shadow(build_policy_set(shadow), sample=1.0, author="bench", why="")
    world.run()
    assert core.decisions is not None
    records = list(core.decisions)[::-1]
    went: dict[str, str] = {}
    later = left = shadow_left = 0
    for record in records:
        session, first = record.features.session, record.decision.first
        before = went.get(session)
        if before is not None:
            later += 1
            left += first != before
            shadow_left += record.shadow is not None and record.shadow.first != before
        went[session] = first
    return Run(
        records,
        statistics.fmean(1000 * served.ttft_s for served in world.served),
        statistics.fmean(served.cached_tokens for served in world.served),
        left / max(1, later),
        None if core.trials.shadow is None else core.trials.shadow.comparison.total,
        shadow_left / max(1, later),
    )


def compare(trace: Trace, fleet: FleetSettings, live: Document, tried: Document, *, seed: int) -> Outcome:
    """Predict what a policy would do, and have it done."""
    before = play(trace, fleet, live, tried, seed=seed)
    dry_run = DryRun(build_policy_set(tried))
    for record in before.records:
        dry_run.judge(record)
    after = play(trace, fleet, tried, seed=seed)
    return Outcome(_name(live), _name(tried), dry_run.comparison.total, before, after)


def _name(document: Document) -> str:
    rest = [f"{key} {value:g}" for key, value in document.items() if isinstance(value, float)]
    return ", ".join([str(document["policy"]), *rest])


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as Markdown."""
    lines = [
        "| live | tried | moved: dry run, shadow | leaves its replica: live, predicted, happened "
        "| TTFT ms when live: judged, measured | TTFT change ms: dry run, shadow, happened "
        "| cached tokens a request: dry run, shadow, happened |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in outcomes:
        before, after = one.before, one.after
        assert before.shadow is not None
        dry, beside = _Means.of(one.dry_run), _Means.of(before.shadow)
        cells = [
            one.live,
            one.tried,
            f"{dry.moved:.0%}, {beside.moved:.0%}",
            f"{before.left:.1%}, {before.shadow_left:.1%}, {after.left:.1%}",
            f"{beside.made_ms:.0f}, {before.ttft_ms:.0f}",
            f"{dry.change_ms:+.0f}, {beside.change_ms:+.0f}, {after.ttft_ms - before.ttft_ms:+.0f}",
            f"{dry.more_cached:+.0f}, {beside.more_cached:+.0f}, {after.cached - before.cached:+.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class _Means(NamedTuple):
    """Means of a tally over requests."""

    moved: float
    made_ms: float
    change_ms: float
    more_cached: float

    @classmethod
    def of(cls, tally: Tally) -> _Means:
        count = max(1, tally.predicted)
        return cls(
            tally.moved / max(1, tally.judged),
            tally.made_ms / count,
            (tally.other_ms - tally.made_ms) / count,
            (tally.other_cached - tally.made_cached) / count,
        )


def agents(sessions: int, load: float, fleet: FleetSettings, seed: int) -> Trace:
    """Agents at a share of what the fleet's KV holds."""
    return Pace(load=load).apply(generate(WORKLOADS["agentic"], sessions=sessions, seed=seed), fleet, seed)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shadow", description="Predictions about policies.")
    parser.add_argument("--load", type=float, default=0.85)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--sessions", type=int, default=100, help="Of 20 turns; the router keeps 2,048 decisions.")
    options = parser.parse_args(arguments)
    fleet = FleetSettings()
    trace = agents(options.sessions, options.load, fleet, options.seed)
    print(table([compare(trace, fleet, live, tried, seed=options.seed) for live, tried in PAIRS]))


if __name__ == "__main__":
    main()
