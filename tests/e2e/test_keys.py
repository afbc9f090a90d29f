"""API keys on two whole edges: in force and revoked on both, through the end of any part, without a reload."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from edge import RunningEdge, running_edges, until

pytestmark = [pytest.mark.e2e, pytest.mark.system]


async def status(edge: RunningEdge, key: str) -> int:
    """Status of a request with a key; 0 while nobody listens."""
    body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    headers = {"authorization": f"Bearer {key}"}
    try:
        return (await edge.client.post("/v1/chat/completions", json=body, headers=headers)).status_code
    except httpx.HTTPError:
        return 0


async def everywhere(edges: Sequence[RunningEdge], key: str, expected: int) -> None:
    """Return once all edges answer a key so."""

    async def reached() -> bool:
        return {await status(edge, key) for edge in edges} == {expected}

    await until(reached)


async def made(edge: RunningEdge, tenant: str = "acme", **more: object) -> tuple[str, str]:
    """Id and secret of a new key."""
    answer = await edge.admin.post("/v1/keys", json={"tenant": tenant, **more})
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert view["required"] is True
    return view["id"], view["key"]


async def test_a_key_made_at_one_edge_is_good_at_both_until_it_is_revoked_at_the_other(tmp_path: Path) -> None:
    """At its own edge with the answer that makes it; no HAProxy is reloaded."""
    async with running_edges(2, 2, "--require-keys") as (a, b):
        assert {await status(edge, "none") for edge in (a, b)} == {401}
        key_id, key = await made(a)
        assert await status(a, key) == 200
        await everywhere((a, b), key, 200)
        rotated = (await b.admin.post(f"/v1/keys/{key_id}/rotate", json={"grace_s": 600})).json()["key"]
        await everywhere((a, b), rotated, 200)
        assert {await status(edge, key) for edge in (a, b)} == {200}
        assert (await b.admin.delete(f"/v1/keys/{key_id}")).status_code == 204
        await everywhere((a, b), key, 401)
        await everywhere((a, b), rotated, 401)
        failed = await a.metrics()
        assert failed['pointsman_failed_keys_total{cause="unknown-key"}'] >= 2
        short_id, short = await made(a, expires=_soon(1.5))
        assert await status(a, short) == 200
        await everywhere((a, b), short, 401)
        assert (await a.admin.get(f"/v1/keys/{short_id}")).json()["state"] == "expired"
        for edge in (a, b):
            assert "reload" not in (edge.run_dir / "log" / "haproxy.log").read_text().lower()


async def test_keys_outlive_each_part() -> None:
    """Router and HAProxy killed, one after the other and both; a revoked key stays revoked, a good one good."""
    async with running_edges(1, 2, "--require-keys") as (edge,):
        _, good = await made(edge)
        bad_id, bad = await made(edge)
        await edge.admin.delete(f"/v1/keys/{bad_id}")
        for parts in (("router",), ("haproxy",), ("router", "haproxy")):
            for part in parts:
                process = edge.router() if part == "router" else edge.part("-W")
                process.send_signal(signal.SIGKILL)
            await everywhere((edge,), good, 200)
            assert await status(edge, bad) in (401, 503, 0)
            await everywhere((edge,), bad, 401)
            assert await status(edge, good) == 200


async def test_without_keys_nothing_is_asked_for() -> None:
    """A key that is shown anyway goes to the replica as it came."""
    async with running_edges(1, 1) as (edge,):
        answer = await edge.admin.post("/v1/keys", json={"tenant": "acme"})
        assert answer.json()["required"] is False
        assert await status(edge, answer.json()["key"]) == await status(edge, "any") == 200
        assert "keys.map" not in {path.name for path in edge.run_dir.iterdir()}


def _soon(seconds: float) -> str:
    moment = time.gmtime(time.time() + seconds + 1)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)
