"""Metrics of rollouts, as a fleet's rollouts begin and end."""

from __future__ import annotations

from recorded_fleet import RecordedFleet

from pointsman.policies.registry import build_policy_set
from pointsman.router.decide.rollout import Plan
from pointsman.router.metrics.exposition import render
from pointsman.router.metrics.families import collect_all
from pointsman.router.metrics.trials import TrialCollector


class TriedFleet(RecordedFleet):
    """A fleet under `kv_cost` that rolls policies out."""

    def roll_out(self, policy: str) -> None:
        plan = Plan(steps=(0.5,), step_s=10.0, min_requests=1)
        self.core.trials.start_rollout(build_policy_set({"policy": policy}), plan, 0.0, author="ann", why="")

    async def samples(self, name: str) -> dict[str, float]:
        page = (await render(collect_all(TrialCollector(self.core.trials)))).decode()
        pairs = (line.rsplit(" ", 1) for line in page.splitlines() if line.startswith(name))
        return {series.removeprefix(name): float(value) for series, value in pairs}


async def test_ends_of_rollouts_are_counted_by_outcome() -> None:
    """Over all rollouts, with a series of each outcome from the start."""
    fleet = TriedFleet()
    assert set((await fleet.samples("pointsman_rollouts_ended_total")).values()) == {0.0}
    fleet.roll_out("random")
    fleet.core.trials.stop_rollout("ann")
    fleet.roll_out("random")
    fleet.core.policy.put({"policy": "least_load"})
    fleet.roll_out("random")
    for number in range(40):
        home = fleet.ask(f"bad{number}", session=f"b{number}").first
        fleet.end(f"bad{number}", home, st=500 if fleet.record(f"bad{number}").policy == "random" else 200)
    fleet.core.sweep(1.0)
    fleet.roll_out("round_robin")
    for number in range(40):
        fleet.end(f"good{number}", fleet.ask(f"good{number}", session=f"g{number}").first)
    fleet.core.sweep(11.0)
    assert await fleet.samples("pointsman_rollouts_ended_total") == {
        '{outcome="promoted"}': 1,
        '{outcome="returned"}': 1,
        '{outcome="aborted"}': 1,
        '{outcome="overtaken"}': 1,
    }


async def test_requests_of_older_sessions_are_counted_apart() -> None:
    """They are decided and not compared."""
    fleet = TriedFleet()
    fleet.ask("before", keys=3, session="old")
    fleet.roll_out("random")
    fleet.ask("again", keys=3, session="old")
    fleet.end("again", fleet.ask("new", session="new").first)
    assert await fleet.samples("pointsman_rollout_not_compared") == {'{policy="random"}': 1}
