"""An edge at this moment: its document, how large it gets, and for whom it is made."""

from __future__ import annotations

import asyncio
import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from recorded_fleet import NOON_S, RecordedFleet

from pointsman.contract.events import EngineLoad
from pointsman.haproxy.last_check import CheckColumns, CheckRow
from pointsman.policies.registry import build_policy_set
from pointsman.router.core import Core, CoreConfig
from pointsman.router.decide.rollout import Plan
from pointsman.router.fleet.replica import Health
from pointsman.router.journal.followers import Follower
from pointsman.router.outliers.answers import Verdict
from pointsman.router.process.readiness import Readiness
from pointsman.router.settings import DecisionLogSettings
from pointsman.router.watch import live_figures
from pointsman.router.watch.live_figures import LiveFigures

NOW_S = 10.0
NO_RECORDS = CoreConfig(decision_log=DecisionLogSettings(max_records=0))
SIZE_MAX = 100_000
"""Bytes a second for each reader of a fleet of 500."""


def figures_of(core: Core, sharing: Any = None, readiness: Readiness | None = None) -> LiveFigures:
    ready = readiness or Readiness()
    return LiveFigures(core, sharing, ready, clock=lambda: NOW_S, wall=lambda: NOON_S + NOW_S)


async def document(core: Core, **parts: Any) -> dict[str, Any]:
    return json.loads(await figures_of(core, **parts).document())


async def replicas_of(core: Core) -> dict[str, dict[str, Any]]:
    return {replica["id"]: replica for replica in (await document(core))["replicas"]}


async def test_an_edge_without_requests_has_its_replicas_and_policy() -> None:
    """What is not known is absent: no hit rate, no regret."""
    found = await document(RecordedFleet("a", "b").core)
    assert found["at"] == "2023-11-14T22:13:30.000Z"
    assert (found["policy"]["name"], found["policy"]["revision"]) == ("kv_cost", 1)
    assert (found["requests_per_s"], found["by_reason"], found["over_s"]) == (0.0, {}, 0.0)
    assert (found["in_flight"], found["held"], found["edges"]) == (0, 0, [])
    assert not {"hit", "regret", "edge"} & found.keys()
    assert found["replicas"][0] == {"id": "a", "state": "up", "in_flight": 0, "kv_live": 0.0, "backlog_ms": 0.0}


async def test_requests_are_in_rates_percentiles_and_hits() -> None:
    fleet = RecordedFleet("a", "b")
    for number in range(10):
        request_id = f"r{number}"
        chosen = fleet.ask(request_id, keys=4, now_s=NOW_S - 2, model="m").first
        fleet.answer(request_id, chosen, prompt=1000, cached=900, now_s=NOW_S - 1)
        if number < 9:
            fleet.end(request_id, chosen, NOW_S - 1)
    found = await document(fleet.core)
    assert found["requests_per_s"] == sum(found["by_reason"].values()) == 5.0
    assert found["ttft_ms"] == {"m": {"p50": 40.0, "p99": 40.0, "count": 10}}
    assert found["hit"]["share"] == 0.9 and found["hit"]["share_of_best"] == 1.0
    assert found["in_flight"] == 1 and found["conversations"]["known"] >= 1
    assert {replica["hit_share"] for replica in found["replicas"] if "hit_share" in replica} == {0.9}


async def test_an_edge_that_keeps_no_records_has_no_rates() -> None:
    found = await document(Core({"policy": "kv_cost"}, rng=random.Random(1), config=NO_RECORDS))
    assert "requests_per_s" not in found and "fail_open_per_s" not in found


async def test_an_engines_words_are_in_its_row() -> None:
    fleet = RecordedFleet("a")
    fleet.report("a", load=EngineLoad(running=3, waiting=2, kv_usage=0.7154))
    row = (await replicas_of(fleet.core))["a"]
    assert (row["running"], row["waiting"], row["kv_used"]) == (3, 2, 0.715)


async def test_each_replica_that_is_out_says_why() -> None:
    fleet = RecordedFleet("drained", "down", "ejected", "well", "other", "another")
    core = fleet.core
    core.replicas.drain("drained", NOW_S)
    core.replicas.set_health("down", Health.DOWN, NOW_S)
    for number in range(5):
        core.outliers.ended(f"r{number}", "ejected", Verdict.ERROR, NOW_S, lasted_s=0.1)
    rows = await replicas_of(core)
    assert {name: row["state"] for name, row in rows.items() if "why" in row} == {
        "drained": "draining",
        "down": "down",
        "ejected": "ejected",
    }
    assert rows["ejected"]["why"] == "5 failed answers (error), probe in 1 s"
    assert rows["down"]["why"] == "its health check fails"
    row = CheckRow(CheckColumns.among(("check_status", "check_code", "check_desc")), "L7STS,404,Layer7 wrong status")
    core.replicas.checks.saw(core.replicas.slot_of("down"), row, NOW_S)
    assert (await replicas_of(core))["down"]["why"] == "health check: Layer7 wrong status, code 404"


async def test_what_is_tried_stands_beside_the_live_policy() -> None:
    """While it decides; the live revision is not the one that is only tried."""
    core = RecordedFleet("a", "b").core
    assert not {"rollout", "shadow"} & (await document(core)).keys()
    core.trials.start_shadow(build_policy_set({"policy": "least_load"}), sample=1.0, author="ann", why="")
    plan = Plan(steps=(0.25, 0.5))
    core.trials.start_rollout(build_policy_set({"policy": "random"}), plan, NOW_S, author="ann", why="")
    found = await document(core)
    assert (found["shadow"], found["rollout"]) == ("least_load", {"name": "random", "share": 0.25})
    assert (found["policy"]["name"], found["policy"]["revision"]) == ("kv_cost", 1)
    core.trials.stop_rollout("ann")
    core.trials.stop_shadow("ann")
    assert not {"rollout", "shadow"} & (await document(core)).keys()


async def test_what_is_wrong_with_the_edge_is_said() -> None:
    readiness = Readiness("haproxy")
    readiness.degraded("shared state", "unreachable")
    found = await document(RecordedFleet().core, readiness=readiness)
    assert found["not_ready"] == ["haproxy: starting"]
    assert found["degraded"] == ["shared state: unreachable"]


async def test_other_edges_are_named_with_their_state() -> None:
    def peer(name: str, state: str) -> SimpleNamespace:
        return SimpleNamespace(state=state, info=SimpleNamespace(name=name, edge="x", admin_url="http://h:1"))

    protocol = SimpleNamespace(peers=[peer("edge-3", "silent"), peer("edge-2", "in-step")])
    sharing = SimpleNamespace(info=SimpleNamespace(name="edge-1"), protocol=protocol)
    found = await document(RecordedFleet().core, sharing=sharing)
    assert found["edge"] == "edge-1"
    assert [(edge["name"], edge["state"]) for edge in found["edges"]] == [("edge-2", "in-step"), ("edge-3", "silent")]


async def test_500_replicas_fit_into_100_kb_and_let_others_have_their_turn() -> None:
    fleet = RecordedFleet(*(f"chat-{number:03}" for number in range(500)))
    for number in range(500):
        load = EngineLoad(running=17, waiting=3, kv_usage=0.7154)
        fleet.report(f"chat-{number:03}", load=load)
        chosen = fleet.ask(f"r{number}", keys=2, now_s=NOW_S - 1).first
        fleet.answer(f"r{number}", chosen, cached=500, now_s=NOW_S)
    turns, making = 0, asyncio.create_task(figures_of(fleet.core).document())
    while not making.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(json.loads(await making)["replicas"]) == 500
    assert len(await making) < SIZE_MAX and turns >= 6


async def test_a_replica_that_leaves_meanwhile_is_left_out() -> None:
    fleet = RecordedFleet(*(f"r{number:03}" for number in range(200)))
    making = asyncio.create_task(figures_of(fleet.core).document())
    await asyncio.sleep(0)
    fleet.core.replicas.remove("r199")
    assert [row["id"] for row in json.loads(await making)["replicas"]][-1] == "r198"


async def test_documents_are_made_while_somebody_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all who follow, a second apart; none before, none after."""
    monkeypatch.setattr(live_figures, "EVERY_S", 0.01)
    made = 0

    class Counting(LiveFigures):
        async def document(self) -> bytes:
            nonlocal made
            made += 1
            return b"%d" % made

    figures = Counting(RecordedFleet().core, None, Readiness(), clock=asyncio.get_running_loop().time, wall=lambda: 0.0)
    running = asyncio.create_task(figures.run())
    await asyncio.sleep(0.05)
    assert made == 0
    one, other = Follower[bytes](queue_max=1000), Follower[bytes](queue_max=1000)
    figures.followers.join(one)
    figures.followers.join(other)
    figures.wake()
    while made < 3:
        await asyncio.sleep(0.01)
    figures.followers.leave(one)
    figures.followers.leave(other)
    assert one.take()[1] == other.take()[1] == [b"%d" % number for number in range(1, made + 1)]
    await asyncio.sleep(0.03)
    last = made
    await asyncio.sleep(0.05)
    assert made == last
    running.cancel()
