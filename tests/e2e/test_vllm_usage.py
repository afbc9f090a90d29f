"""Usage of real vLLM behind the edge: equal to the `usage` of its answers, and to its own counters."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from edge import RunningEdge, running_up, until
from vllm_fleet import real_vllm

pytestmark = [pytest.mark.e2e, *real_vllm(timeout_s=1500)]

TENANTS = {"acme": "sk-acme", "zeta": "sk-zeta"}
ANSWERS = 200
ABORTED = 40
AT_ONCE = 4

Sums = dict[str, list[int]]
"""By tenant: requests, prompt and output tokens."""


def keys_map(folder: Path) -> Path:
    path = folder / "keys.map"
    lines = (f"{hashlib.sha256(key.encode()).hexdigest()} {tenant}\n" for tenant, key in TENANTS.items())
    path.write_text("".join(lines))
    return path


async def ask(edge: RunningEdge, tenant: str, number: int, dice: random.Random) -> dict[str, Any]:
    """One answer's `usage`: of a stream, or of one to three whole answers."""
    stream = dice.random() < 0.5
    text = f"{'Once upon a time ' * dice.choice((1, 10, 30))} {number % 9}"
    body: dict[str, Any] = {"prompt": text, "max_tokens": dice.randint(1, 24), "ignore_eos": dice.random() < 0.7}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    else:
        body["n"] = dice.choice((1, 1, 3))
    headers = {"authorization": f"Bearer {TENANTS[tenant]}"}
    answer = await edge.client.post("/v1/completions", json=body, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    if not stream:
        usage: dict[str, Any] = answer.json()["usage"]
        return usage
    chunks = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    last: dict[str, Any] = httpx.Response(200, text=chunks[-1]).json()["usage"]
    return last


async def leave(edge: RunningEdge, tenant: str, number: int, dice: random.Random) -> None:
    """A client that leaves in the middle, of a stream or a whole answer."""
    body = {"prompt": f"Tell me all of it, {number}", "max_tokens": 400, "ignore_eos": True, "stream": number % 2 == 0}
    headers = {"authorization": f"Bearer {TENANTS[tenant]}"}
    try:
        async with asyncio.timeout(dice.uniform(0.05, 1.5)):
            await edge.client.post("/v1/completions", json=body, headers=headers, timeout=120)
    except TimeoutError:
        pass


async def used(edge: RunningEdge) -> Sums:
    lines = (await edge.admin.get("/v1/usage")).json()["usage"]
    assert all(line["estimated"]["requests"] == 0 for line in lines), lines
    return {line["tenant"]: [line["requests"], line["prompt_tokens"], line["output_tokens"]] for line in lines}


async def engine_counters(edge: RunningEdge) -> list[float]:
    """Prompt and generation tokens that vLLM itself counts, of all replicas."""
    sums = [0.0, 0.0]
    for view in (await edge.replicas()).values():
        text = (await edge.client.get(f"{view['url']}/metrics")).text
        for at, name in enumerate(("vllm:prompt_tokens_total{", "vllm:generation_tokens_total{")):
            sums[at] += sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))
    return sums


async def test_usage_equals_the_usage_of_200_answers(tmp_path: Path) -> None:
    """By tenant, to the token; and with clients that leave it is what vLLM generated."""
    haproxy = {"api_keys_map": str(keys_map(tmp_path))}
    async with running_up(2, "--engine", "vllm", engine={}, start_s=600.0, haproxy=haproxy) as edge:
        dice, expected = random.Random(4), {tenant: [0, 0, 0] for tenant in TENANTS}
        before = await engine_counters(edge)
        numbers = iter(range(ANSWERS))

        async def client() -> None:
            for number in numbers:
                tenant = dice.choice(list(TENANTS))
                usage = await ask(edge, tenant, number, dice)
                for at, count in enumerate((1, usage["prompt_tokens"], usage["completion_tokens"])):
                    expected[tenant][at] += count

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))

        async def counted() -> bool:
            return await used(edge) == expected

        try:
            await until(counted)
        finally:
            print({"expected": expected, "counted": await used(edge)})
        for number in range(0, ABORTED, AT_ONCE):
            some = range(number, number + AT_ONCE)
            await asyncio.gather(*(leave(edge, dice.choice(list(TENANTS)), n, dice) for n in some))
        await until(edge.idle)
        await asyncio.sleep(3.0)
        sums = [sum(figures) for figures in zip(*(await used(edge)).values(), strict=True)]
        engines = [after - begin for after, begin in zip(await engine_counters(edge), before, strict=True)]
        print({"requests, prompt, output": sums, "vLLM's counters": engines})
        # vLLM's counters have what its engine brought before it noticed an abort, as ours do.
        assert sums[2] == engines[1]
