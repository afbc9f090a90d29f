"""Requests of each version beside each other, and a version that is stopped because it is worse."""

import random
from typing import Any

import msgspec
import pytest

from pointsman.contract.events import EngineEvents, FirstToken
from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.decide.version_meter import VersionRecord


def core_with(**stop: Any) -> Core:
    core = Core({"policy": "least_load"}, rng=random.Random(1))
    for replica, model in (("a", "one"), ("b", "two")):
        registration = Registration(url="http://h:1", model=model, renames_model=True)
        core.replicas.put(replica, registration, ("127.0.0.1", 1), 0.0)
    versions = [{"model": "one", "weight": 90}, {"model": "two", "weight": 10}]
    core.book.write("alias/chat", {"name": "chat", "versions": versions, "stop": {"min_requests": 10, **stop}})
    return core


def serve(
    core: Core, model: str, count: int, now_s: float, *, status: int = 200, ttft_ms: int | None = None, told: float = 0
) -> None:
    """Requests of one version from their decision to their end. ttft_ms: as HAProxy timed them, told: as the engine."""
    replica = {"one": "a", "two": "b"}[model]
    for number in range(count):
        request_id = f"{model}-{now_s}-{status}-{number}"
        core.decide(RequestFeatures(request_id=request_id, model=model, alias="chat", path="/v1/completions"), now_s)
        if told:
            first = FirstToken(request_id, 10, 0, told)
            core.engine_events(replica, EngineEvents(epoch="e", seq=core_seq(core), first=[first]), now_s)
        line = {"ev": "end", "id": request_id, "srv": replica, "first": replica, "st": status, "routed": "1"}
        line |= {"ttft": str(ttft_ms)} if ttft_ms is not None else {}
        core.end_of_request.apply(msgspec.json.encode(line), now_s)


def core_seq(core: Core) -> int:
    return core.kv.counters.messages + 1


def paused(core: Core) -> bool:
    alias = core.aliases.get("chat")
    assert alias is not None
    return alias.paused


def record(core: Core, model: str) -> VersionRecord:
    return core.versions.records["chat", model]


def test_requests_are_counted_by_version() -> None:
    """Errors and times to first token, of endpoints that HAProxy times and of engines that tell theirs."""
    core = core_with()
    serve(core, "one", 8, 1.0, ttft_ms=20)
    serve(core, "two", 2, 1.0, status=502)
    serve(core, "two", 6, 1.0, told=50.0)
    assert (record(core, "one").requests, record(core, "one").error_share) == (8, 0.0)
    assert record(core, "one").percentile_ms(0.99) == 20.0
    assert (record(core, "two").requests, record(core, "two").error_share) == (8, 0.25)
    assert record(core, "two").percentile_ms(0.5) == 50.0
    assert record(core, "two").arm.requests == 8


def test_a_version_with_more_errors_than_allowed_gets_no_more_sessions() -> None:
    """The document says so, with the reason, once there are enough requests of both versions."""
    core = core_with(error_share=0.05)
    serve(core, "one", 50, 1.0)
    serve(core, "two", 9, 1.0, status=500)
    core.sweep(2.0)
    assert not paused(core)
    serve(core, "two", 1, 1.0)
    core.sweep(4.0)
    assert paused(core)
    document = core.book.get("alias/chat")
    assert document is not None
    why = "two is paused: 90.0% of its requests failed, against 0.0% of those of the stable version"
    assert (document.version, document.about["why"]) == (2, why)
    core.sweep(6.0)
    assert core.book.get("alias/chat") is document


def test_a_version_whose_first_tokens_take_longer_than_allowed_is_rolled_back_if_asked() -> None:
    """Its sessions go to the stable version as well."""
    core = core_with(ttft_p99_ratio=1.5, roll_back=True)
    serve(core, "one", 50, 1.0, ttft_ms=100)
    serve(core, "two", 10, 1.0, ttft_ms=149)
    core.sweep(2.0)
    assert core.aliases.get("chat").shares()["two"] == 0.1  # type: ignore[union-attr]
    serve(core, "two", 1, 1.0, ttft_ms=151)
    core.sweep(4.0)
    alias = core.aliases.get("chat")
    assert alias is not None
    assert alias.versions[1].withdrawn
    assert "two is rolled back: the 99th percentile" in core.book.get("alias/chat").about["why"]  # type: ignore[union-attr]


def test_requests_older_than_the_window_count_no_longer() -> None:
    """An error of yesterday stops nothing today."""
    core = core_with(error_share=0.05, window_s=60.0)
    serve(core, "two", 50, 1.0, status=500)
    core.sweep(65.0)
    serve(core, "one", 50, 65.0)
    serve(core, "two", 50, 65.0)
    core.sweep(67.0)
    assert not paused(core)
    assert (record(core, "two").requests, record(core, "two").arm.requests) == (50, 100)


@pytest.mark.parametrize("stop", [{"error_share": 0.05}, {"ttft_p99_ratio": 1.5}])
def test_an_equal_version_goes_on(stop: dict[str, float]) -> None:
    """Nothing is written."""
    core = core_with(**stop)
    for model in ("one", "two"):
        serve(core, model, 20, 1.0, ttft_ms=100)
        serve(core, model, 1, 1.0, status=500)
    core.sweep(2.0)
    assert not paused(core)


def test_without_aliases_nobody_is_told_of_anything() -> None:
    """And a removed alias leaves no record."""
    core = core_with()
    assert core.end_of_request.versions is core.versions
    core.book.write("alias/chat", {})
    assert core.end_of_request.versions is None
    assert core.versions.records == {}
