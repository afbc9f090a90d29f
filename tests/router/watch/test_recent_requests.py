"""Sums over the latest records: rates, percentiles, hits, and what choices gave up."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from recorded_fleet import CHAIN, RecordedFleet

from pointsman.router.core import Core, CoreConfig
from pointsman.router.settings import DecisionLogSettings
from pointsman.router.watch import recent_requests
from pointsman.router.watch.recent_requests import (
    LOOK_BACK_S,
    OTHER_MODELS,
    RATE_S,
    RecentRequests,
    look_back,
    percentile,
)

NOW_S = 100.0


async def recent(fleet: RecordedFleet) -> RecentRequests:
    return await look_back(fleet.core, NOW_S)


def answered(fleet: RecordedFleet, request_id: str, at_s: float, ttft: str = "-", **asked: Any) -> str:
    """A request that was decided and served at a time."""
    chosen = fleet.ask(request_id, now_s=at_s, **asked).first
    fleet.end(request_id, chosen, at_s + 0.1, ttft=ttft)
    return chosen


async def test_rates_are_of_the_last_seconds() -> None:
    """Older requests count in percentiles alone, and still older ones nowhere."""
    fleet = RecordedFleet(policy="least_load")
    answered(fleet, "too old", NOW_S - LOOK_BACK_S - 1, ttft="900")
    answered(fleet, "older", NOW_S - RATE_S - 1, ttft="50")
    for number in range(10):
        answered(fleet, f"r{number}", NOW_S - 1, ttft="100")
    seen = await recent(fleet)
    assert (seen.by_reason.total(), seen.rate_s) == (10, RATE_S)
    assert seen.ttft_ms == {"": [100.0] * 10 + [50.0]}
    assert seen.over_s == LOOK_BACK_S


async def test_a_busy_edge_that_keeps_few_records_has_the_right_rate() -> None:
    """400 requests in 2 s, of which 200 are kept: 200 a second."""
    fleet = RecordedFleet(policy="least_load", max_records=200)
    for number in range(400):
        answered(fleet, f"r{number}", NOW_S - 2 + number / 200)
    seen = await recent(fleet)
    assert seen.by_reason.total() / seen.rate_s == pytest.approx(200, rel=0.02)


async def test_the_first_request_is_no_thousand_a_second() -> None:
    fleet = RecordedFleet(policy="least_load")
    answered(fleet, "r", NOW_S - 0.001)
    seen = await recent(fleet)
    assert seen.by_reason.total() / seen.rate_s == 1.0


async def test_haproxys_time_to_first_token_comes_before_the_engines() -> None:
    """It is what the client saw; the engine's is taken where HAProxy measured none."""
    fleet = RecordedFleet()
    for request_id, ttft in (("both", "75"), ("engine", "-")):
        chosen = fleet.ask(request_id, now_s=NOW_S - 1).first
        fleet.answer(request_id, chosen, now_s=NOW_S)
        fleet.end(request_id, chosen, NOW_S, ttft=ttft)
    fleet.ask("in flight", now_s=NOW_S - 1)
    assert sorted((await recent(fleet)).ttft_ms[""]) == [40.0, 75.0]


async def test_models_beyond_a_number_share_their_percentiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients may write anything as a model."""
    monkeypatch.setattr(recent_requests, "MODELS_MAX", 2)
    fleet = RecordedFleet(policy="least_load")
    for number in range(5):
        answered(fleet, f"r{number}", NOW_S - 1, ttft="10", model=f"m{number}")
    seen = await recent(fleet)
    assert {model: len(samples) for model, samples in seen.ttft_ms.items()} == {"m4": 1, "m3": 1, OTHER_MODELS: 3}


async def test_hits_are_summed() -> None:
    fleet = RecordedFleet()
    for number in range(6):
        chosen = fleet.ask(f"r{number}", now_s=NOW_S - 1).first
        fleet.answer(f"r{number}", chosen, prompt=1000, cached=100 * number, now_s=NOW_S)
    seen = await recent(fleet)
    assert (seen.tokens.prompt, seen.tokens.actual) == (6000, 1500)
    assert (seen.foreseen.prompt, seen.foreseen.best) == (6000, 1500), "found more than was predicted: it could be had"


async def test_a_policy_without_kv_signals_foresees_nothing() -> None:
    """Engines report all the same what they found."""
    fleet = RecordedFleet(policy="least_load")
    fleet.answer("r", fleet.ask("r", now_s=NOW_S - 1).first, cached=500, now_s=NOW_S)
    seen = await recent(fleet)
    assert (seen.tokens.actual, seen.foreseen.prompt, seen.compared) == (500, 0, 0)


async def test_cache_given_up_for_a_shorter_queue_is_counted() -> None:
    """A prompt is cached on the replica whose queue is long: another takes it, and its tokens are the regret."""
    fleet = RecordedFleet("a", "b")
    home = fleet.ask("first", keys=8, now_s=NOW_S - 20).first
    fleet.report(home, NOW_S - 19, stored=list(CHAIN[:8]))
    fleet.answer("first", home, prompt=1000, now_s=NOW_S - 19)
    fleet.end("first", home, NOW_S - 19)
    stays = await recent(fleet)
    assert (stays.given_up, stays.compared) == (0, 1)
    slot = fleet.core.replicas.slot_of(home)
    fleet.core.kv.columns.add_waiting(slot, 5_000_000)
    assert fleet.ask("again", keys=8, now_s=NOW_S - 1).first != home
    moved = await recent(fleet)
    assert moved.compared == 2 and moved.given_up > 100
    price_ms = fleet.core.kv.columns.cells.recompute_ms_per_token[1 - slot]
    assert moved.given_up_ms == pytest.approx(price_ms * moved.given_up)
    fleet.core.replicas.remove(fleet.record("again").decision.first)
    assert (await recent(fleet)).given_up == 0, "of a replica that left nobody knows what it held"


async def test_others_have_their_turn_while_records_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_requests, "SLICE_RECORDS", 10)
    fleet = RecordedFleet(policy="least_load")
    for number in range(95):
        answered(fleet, f"r{number}", NOW_S - 1)
    turns = 0
    reading = asyncio.create_task(recent(fleet))
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 9 and (await reading).by_reason.total() == 95


async def test_without_records_nothing_is_known() -> None:
    config = CoreConfig(decision_log=DecisionLogSettings(max_records=0))
    seen = await look_back(Core({"policy": "kv_cost"}, rng=random.Random(1), config=config), NOW_S)
    assert (seen.over_s, seen.by_reason.total(), seen.ttft_ms) == (0.0, 0, {})


@pytest.mark.parametrize(
    ("samples", "share", "expected"),
    [([7.0], 0.99, 7.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([float(n) for n in range(1, 101)], 0.99, 99.0)],
    ids=["one", "even", "hundred"],
)
def test_percentiles_are_samples(samples: list[float], share: float, expected: float) -> None:
    assert percentile(samples, share) == expected
