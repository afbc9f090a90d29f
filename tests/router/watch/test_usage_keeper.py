"""Usage over restarts of a router and of its stores, and of two edges."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ring_line import line
from router_fixture import client_of, register, running_router
from valkey_server import running_valkey

from pointsman.contract.events import EngineEvents, RequestUsage
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.watch import usage_keeper


@pytest.fixture(autouse=True)
def only_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written but by the test, and at the end."""
    monkeypatch.setattr(usage_keeper, "SAVE_S", 3600.0)


@asynccontextmanager
async def edge(**settings: Any) -> AsyncIterator[Router]:
    async with running_router(**settings) as router:
        await register(router, "a")
        yield router


def serve(router: Router, number: int, *, epoch: str = "e", tokens: int = 100) -> None:
    """One request, from its decision to the engine's report, which is the one with this number."""
    core, now_s, name = router.core, router.clock(), f"q{number}"
    core.decide(RequestFeatures(request_id=name, tenant="acme", model="m", body_bytes=400), now_s)
    report(router, number, name, epoch=epoch, tokens=tokens)
    core.end_of_request.apply(line(id=name, srv="a", first="a"), now_s)


def report(router: Router, number: int, name: str, *, epoch: str = "e", tokens: int = 100) -> int:
    """A report of the engine; how many of its reports need not be sent again."""
    events = EngineEvents(
        epoch=epoch, seq=number, snapshot=True, usage=[RequestUsage(name, tokens, 0, 10)], usage_from=number
    )
    answer = router.core.engine_events("a", events, router.clock())
    assert answer is not None
    return answer.usage_kept


async def usage(router: Router, **query: str) -> dict[str, Any]:
    async with client_of(router) as client:
        answer = await client.get("/v1/usage", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


async def prompt_tokens(router: Router) -> dict[str, int]:
    return {row["tenant"]: row["prompt_tokens"] for row in (await usage(router))["usage"]}


async def test_usage_is_kept_over_restarts(tmp_path: Path) -> None:
    """Each life adds its own; budgets begin with what was used before."""
    file = {"file": str(tmp_path / "usage.db")}
    for life in range(1, 4):
        async with edge(usage=file) as router:
            assert router.core.usage.ledger.tokens_of("acme").prompt == 100 * (life - 1)
            serve(router, life)
            assert await prompt_tokens(router) == {"acme": 100 * life}
            assert router.core.usage.ledger.tokens_of("acme").prompt == 100 * life


async def test_reports_are_kept_when_they_are_in_the_file(tmp_path: Path) -> None:
    """An engine sends again what a killed router had not written; what it had written does not count twice."""
    file = {"file": str(tmp_path / "usage.db")}
    async with edge(usage=file) as router:
        serve(router, 0)
        assert report(router, 1, "of another edge") == 0
        assert await router.usage.flush()
        assert report(router, 2, "of another edge") == 2
    async with edge(usage=file) as router:
        assert report(router, 1, "q0") == 3  # the router stopped in order
        assert await prompt_tokens(router) == {"acme": 100}


async def test_without_a_file_usage_is_remembered() -> None:
    """For as long as the router runs; an export has every row."""
    async with edge() as router, client_of(router) as client:
        serve(router, 0)
        assert report(router, 1, "x") == 2
        assert await prompt_tokens(router) == {"acme": 100}
        (row,) = [line for line in (await client.get("/v1/usage/export")).text.splitlines() if line]
        assert '"tenant":"acme"' in row


async def test_a_file_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    """And counting begins anew; where no file can be at all, the router serves, and says so."""
    path = tmp_path / "usage.db"
    path.write_bytes(b"this is no database, and long enough to be taken for one" * 100)
    async with edge(usage={"file": str(path)}) as router:
        serve(router, 0)
        assert await prompt_tokens(router) == {"acme": 100}
        assert (tmp_path / "usage.db.bad").exists()
    async with edge(usage={"file": str(tmp_path / "no such folder" / "usage.db")}) as router:
        serve(router, 0)
        assert await prompt_tokens(router) == {"acme": 100}
        assert any(why.startswith("usage: ") for why in router.readiness.impaired())


async def test_a_file_that_takes_nothing_gets_it_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, engines keep their reports, and the condition is named until then."""
    async with edge(usage={"file": str(tmp_path / "usage.db")}) as router:
        file = router.usage.file
        assert file is not None
        serve(router, 0)
        with monkeypatch.context() as patched:
            patched.setattr(type(file), "write", refuse)
            assert not await router.usage.flush()
        assert report(router, 1, "x") == 0
        assert router.usage.errors == 1 and "usage" in router.readiness.degraded_parts()
        assert await router.usage.flush()
        assert router.readiness.degraded_parts() == []
        assert await prompt_tokens(router) == {"acme": 100}


def refuse(*_: Any) -> None:
    raise usage_keeper.UsageFileError("the disk is full")


async def test_edges_add_up_in_redis(tmp_path: Path) -> None:
    """Each shows the usage of all; one that starts again begins with it, and one whose store is away says so."""
    async with running_valkey(tmp_path) as valkey:
        shared = {"url": valkey.url}
        async with edge(shared=shared) as one, edge(shared=shared) as two:
            serve(one, 0)
            serve(two, 1, tokens=1000)
            assert await one.usage.flush() and await two.usage.flush()
            for router in (one, two):
                assert await prompt_tokens(router) == {"acme": 1100}
            async with running_router(shared=shared) as later:
                await later.usage._restore_from_store()
                assert await prompt_tokens(later) == {"acme": 1100}
            serve(one, 2)
            await valkey.kill()
            found = await usage(one)
            assert not found["complete"] and found["usage"][0]["prompt_tokens"] == 200
            await valkey.start()
            one.usage._retry_s = 0.0
            assert await prompt_tokens(one) == {"acme": 200}  # the store is empty: each edge writes its own again


async def test_requests_in_flight_at_a_stop_are_counted_by_the_next_life(tmp_path: Path) -> None:
    """With the names that their decision knew: of one the line comes first, of one the report, one had its line."""
    file = {"file": str(tmp_path / "usage.db")}
    async with edge(usage=file) as router:
        core, now_s = router.core, router.clock()
        for name in ("q0", "q1", "q2", "q3"):
            core.decide(RequestFeatures(request_id=name, tenant="acme", model="m", body_bytes=400), now_s)
        core.end_of_request.apply(line(id="q2", srv="a", first="a"), now_s)
        report(router, 0, "q3")
    async with edge(usage=file) as router:
        core, now_s = router.core, router.clock()
        core.end_of_request.apply(line(id="q0", srv="a", first="a"), now_s)
        for number, name in enumerate(("q0", "q1", "q2"), 1):
            report(router, number, name)
        for name in ("q1", "q3"):
            core.end_of_request.apply(line(id=name, srv="a", first="a"), now_s)
        core.usage.step(now_s + 60.0)
        assert len(core.usage) == 0
        (row,) = (await usage(router))["usage"]
        assert (row["requests"], row["prompt_tokens"], row["estimated"]["requests"]) == (4, 400, 0)
