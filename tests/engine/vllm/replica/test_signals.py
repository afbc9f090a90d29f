"""A replica's knowledge of its own load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from pointsman.engine.vllm.replica.signals import EngineSignals, Signals


def output(*, finished: bool = False, prompt: int = 8, cached: int | None = 0) -> Any:
    """What vLLM yields for one step of a request."""
    return SimpleNamespace(prompt_token_ids=list(range(prompt)), num_cached_tokens=cached, finished=finished)


class FakeEngine:
    """`generate` that yields what it is given, and knows whether it was closed."""

    def __init__(self, *outputs: Any, error: Exception | None = None) -> None:
        self._outputs = outputs
        self._error = error
        self.closed = False

    async def generate(self, request_id: str) -> AsyncIterator[Any]:
        try:
            for each in self._outputs:
                yield each
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


def read(signals: EngineSignals) -> Signals:
    return signals.read(in_flight=0, unfinished=0, queued_tokens=0)


async def test_a_request_is_counted_at_its_first_token_and_at_its_end() -> None:
    """One first token, one finished; the prompt and what the cache held of it are added once."""
    signals = EngineSignals()
    engine = FakeEngine(output(prompt=100, cached=64), output(prompt=100, cached=64), output(prompt=100, finished=True))
    seen = [each async for each in signals.watch(engine.generate)("r")]
    now = read(signals)
    assert len(seen) == 3
    assert (now.first_tokens, now.finished, now.aborted) == (1, 1, 0)
    assert (now.prompt_tokens, now.cached_tokens) == (100, 64)


async def test_a_stream_that_is_closed_early_is_aborted_in_the_engine() -> None:
    """Closing the watched stream closes vLLM's at once, which is how vLLM learns of an abort."""
    signals = EngineSignals()
    engine = FakeEngine(output(), output())
    async with aclosing(signals.watch(engine.generate)("r")) as outputs:  # type: ignore[type-var]
        async for _ in outputs:
            break
    assert engine.closed
    assert (read(signals).first_tokens, read(signals).finished, read(signals).aborted) == (1, 0, 1)


async def test_a_request_cancelled_before_its_first_token_is_aborted() -> None:
    """A client may leave while its prompt is queued."""
    started = asyncio.Event()

    async def generate(request_id: str) -> AsyncIterator[Any]:
        started.set()
        await asyncio.Event().wait()
        yield output()

    signals = EngineSignals()

    async def consume() -> None:
        async for _ in signals.watch(generate)("r"):
            pass

    consuming = asyncio.create_task(consume())
    await started.wait()
    consuming.cancel()
    await asyncio.wait({consuming})
    assert (read(signals).first_tokens, read(signals).aborted) == (0, 1)


async def test_an_engine_that_fails_aborts_its_requests() -> None:
    """The error goes on to the caller, and the request counts as aborted."""
    signals = EngineSignals()
    with pytest.raises(RuntimeError):
        async for _ in signals.watch(FakeEngine(output(), error=RuntimeError("dead")).generate)("r"):
            pass
    assert read(signals).aborted == 1


def test_the_engines_report_is_kept_as_of_its_last_step() -> None:
    """Running, waiting (deferred ones too) and KV use come from the scheduler; a step without news keeps them."""
    signals = EngineSignals()
    report = SimpleNamespace(
        running_lora_adapters={}, num_running_reqs=3, num_waiting_reqs=2, num_skipped_waiting_reqs=1,
        kv_cache_usage=0.25,
        kv_connector_stats={"num_failed_transfers": [1, 1], "bytes_transferred": [7]},
    )  # fmt: skip
    signals.record(scheduler_stats=report)
    signals.record(scheduler_stats=None)
    assert signals.failed_transfers == 2
    now = read(signals)
    assert (now.running, now.waiting, now.kv_usage, now.steps) == (3, 3, 0.25, 2)


def test_adapters_in_slots_are_those_used_last() -> None:
    """As many as a batch holds; what waits for a slot is in none."""
    signals = EngineSignals()
    signals.adapter_slots = 2

    def step(**requests: int) -> None:
        signals.record(
            SimpleNamespace(
                running_lora_adapters=requests, num_running_reqs=0, num_waiting_reqs=0, num_skipped_waiting_reqs=0,
                kv_cache_usage=0.0, kv_connector_stats=None,
            )
        )  # fmt: skip

    step(a=1, b=2)
    step(a=1, b=0)
    assert list(signals.adapters) == ["b", "a"]
    step(a=1, c=1)
    assert list(signals.adapters) == ["a", "c"]
    step()
    assert list(signals.adapters) == ["a", "c"], "idle adapters stay where they are"
