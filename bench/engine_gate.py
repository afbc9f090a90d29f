"""CPU that Pointsman adds to vLLM's API server, per streamed token: `python -m bench.engine_gate [--replica URL]`.

A replica wraps vLLM's app (gate, reports) and its `generate` (reports). Here an app that streams one chunk a
token, from a `generate` that gives one output a token, runs bare and wrapped, by turns in one process, without sockets
and without an engine: the difference of their CPU time is what is added. `--replica` names a running replica on this
machine: it is asked for streams, and the CPU time of its process per token, all of it vLLM's and ours, is what the
addition is a share of. Without one, the share is of 108 us, the least seen on the tiny model (AMD EPYC, batch 16).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import psutil

from bench.cpu import process_cpu_ns
from bench.form import read_options, row, show
from pointsman.contract.events import EngineLoad
from pointsman.engine.vllm.replica.gate import App, Gate, Message, Receive, Scope, Send
from pointsman.engine.vllm.replica.kv_events import PrefixCache
from pointsman.engine.vllm.replica.reporting import Reporter
from pointsman.engine.vllm.replica.signals import Generate

TOKENS = 256
"""Of one answer."""

REQUESTS = 200
"""Of one turn."""

VLLM_US = 108.0
"""CPU of vLLM's API server per streamed token, where no replica is named."""

BUDGET = 0.03
"""Share of vLLM's own CPU that the addition may be."""

_OUTPUTS = [
    SimpleNamespace(
        prompt_token_ids=[1] * 256,
        num_cached_tokens=0,
        finished=number == TOKENS - 1,
        outputs=[SimpleNamespace(token_ids=[7])],
    )
    for number in range(TOKENS)
]
_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 200}], "stream": True}).encode()
_CHUNK: Message = {"type": "http.response.body", "body": b"data: x\n\n", "more_body": True}
_SCOPE = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"x-request-id", b"r")]}


async def _generate(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    for output in _OUTPUTS:
        yield output


def _app(generate: Generate) -> App:
    sampling = SimpleNamespace(output_kind=SimpleNamespace(name="DELTA"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for _ in generate({"prompt_token_ids": [1] * 256}, sampling):
            await send(_CHUNK)

    return app


async def _turn(app: App) -> float:
    """CPU microseconds per token."""

    async def receive() -> Message:
        return {"type": "http.request", "body": _BODY}

    async def send(message: Message) -> None:
        pass

    began_s = time.process_time()
    for _ in range(REQUESTS):
        await app(dict(_SCOPE), receive, send)
    return (time.process_time() - began_s) * 1e6 / (REQUESTS * TOKENS)


async def added_us(rounds: int) -> tuple[float, float]:
    """Medians over the rounds of what is added per token, and of the bare app."""
    reporter = Reporter([], model="m", load=EngineLoad)
    reporter.start(PrefixCache(block_size=32, capacity_tokens=1 << 20))
    wrapped = Gate(reporter.app(_app(reporter.watch(_generate))), alive=lambda: True)
    bare = _app(_generate)
    added, alone = [], []
    for _ in range(rounds):
        without, beside = await _turn(bare), await _turn(wrapped)
        added.append(beside - without)
        alone.append(without)
    await reporter.stop()
    return statistics.median(added), statistics.median(alone)


async def replica_us(url: str, model: str, streams: int = 16, tokens: int = 400) -> float:
    """CPU microseconds per token of the process that serves a replica, with `streams` at once."""
    port = int(url.rpartition(":")[2])
    owners = {c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr[1:] == (port,)}
    pid = owners.pop()
    assert pid is not None
    body = {"model": model, "prompt": "Hello", "max_tokens": tokens, "stream": True, "ignore_eos": True}

    async def stream(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for _ in answer.aiter_raw():
                pass

    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        await stream(client)
        before_ns = process_cpu_ns(pid)
        await asyncio.gather(*(stream(client) for _ in range(streams)))
        used_ns = process_cpu_ns(pid) - before_ns
    return used_ns / 1000 / (streams * tokens)


def main(arguments: list[str] | None = None) -> None:
    options = read_options("engine_gate", __doc__, arguments, rounds=7, replica="", model="tiny")
    ours, bare = asyncio.run(added_us(options.rounds))
    whole = asyncio.run(replica_us(options.replica, options.model)) if options.replica else VLLM_US
    found = {
        "added_us_per_token": round(ours, 2),
        "bare_us_per_token": round(bare, 2),
        "server_us_per_token": round(whole, 1),
        "share": round(ours / whole, 4),
        "within_budget": ours / whole < BUDGET,
    }
    show(options.json, found, (row(key, [str(value)]) for key, value in found.items()))


if __name__ == "__main__":
    main()
