"""Metrics of aliases, with a bounded number of series."""

from __future__ import annotations

import random

import msgspec

from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.metrics.aliases import MAX_SHOWN, AliasCollector
from pointsman.router.metrics.exposition import render
from pointsman.router.metrics.families import collect_all


def core_with(aliases: int) -> Core:
    core = Core({"policy": "least_load"}, rng=random.Random(1))
    core.replicas.put("a", Registration(url="http://h:1", model="m-1", renames_model=True), ("127.0.0.1", 1), 0.0)
    for number in range(aliases):
        name = f"alias-{number:03}"
        versions = [{"model": "m-1", "weight": 3}, {"model": "m-2", "weight": 1}]
        core.book.write(f"alias/{name}", {"name": name, "versions": versions})
    return core


def serve(core: Core, alias: str, status: int = 200) -> None:
    request = RequestFeatures(request_id=f"{alias}-{status}", model="m-1", alias=alias, session=f"s-{status}")
    core.decide(request, 1.0)
    line = {"ev": "end", "id": request.request_id, "srv": "a", "first": "a", "st": status, "routed": "1", "ttft": "30"}
    core.end_of_request.apply(msgspec.json.encode(line), 1.0)


async def samples(core: Core) -> dict[str, float]:
    page = (await render(collect_all(AliasCollector(core)))).decode()
    pairs = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


async def test_versions_are_counted_beside_each_other() -> None:
    """Requests, errors, first tokens and sessions, by alias and model."""
    core = core_with(1)
    serve(core, "alias-000")
    serve(core, "alias-000", 500)
    found = await samples(core)
    one, two = ('{alias="alias-000",model="' + model + '"}' for model in ("m-1", "m-2"))
    assert (found[f"pointsman_alias_share{one}"], found[f"pointsman_alias_share{two}"]) == (0.75, 0.25)
    assert (found[f"pointsman_alias_requests_total{one}"], found[f"pointsman_alias_requests_total{two}"]) == (2, 0)
    assert found[f"pointsman_alias_errors_total{one}"] == 1
    assert found[f"pointsman_alias_ttft_seconds_count{one}"] == 2
    assert found[f"pointsman_alias_sessions_begun_total{one}"] == 2
    assert found['pointsman_alias_sessions_moved_total{alias="alias-000"}'] == 0
    assert found['pointsman_rollout_recomputed_tokens_total{alias="alias-000"}'] == 0


async def test_aliases_beyond_the_limit_are_counted_together() -> None:
    """However many there are, the page has no more series."""
    core = core_with(MAX_SHOWN + 20)
    serve(core, f"alias-{MAX_SHOWN:03}")
    serve(core, f"alias-{MAX_SHOWN + 1:03}", 500)
    found = await samples(core)
    other = '{alias="other",model="other"}'
    assert (found[f"pointsman_alias_requests_total{other}"], found[f"pointsman_alias_errors_total{other}"]) == (2, 1)
    assert found[f"pointsman_alias_ttft_seconds_count{other}"] == 2
    assert sum(series.startswith("pointsman_alias_requests_total") for series in found) == 2 * MAX_SHOWN + 1


async def test_a_removed_alias_leaves_no_series() -> None:
    """Nor do its counts come back with one of the same name."""
    core = core_with(1)
    serve(core, "alias-000")
    core.book.write("alias/alias-000", {})
    assert await samples(core) == {}
    core.book.write("alias/alias-000", {"name": "alias-000", "versions": [{"model": "m-1"}]})
    assert (await samples(core))['pointsman_alias_requests_total{alias="alias-000",model="m-1"}'] == 0
