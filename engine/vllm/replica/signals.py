"""The load of one replica: the engine's report after each step, and first token and end of each request.

`EngineSignals` owns the counts; vLLM's engine and its request stream write them, `Signals` is a value read from them.
Everything happens on the replica's event loop, so nothing is locked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

FAILED_TRANSFERS = ("num_failed_transfers", "num_failed_handshakes")

Generate = Callable[..., AsyncIterator[Any]]
"""vLLM's `AsyncLLM.generate`: outputs of one request, the last one finished."""


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """Load of a replica at one moment. Totals count from the start of the engine."""

    in_flight: int
    """HTTP requests inside the gate."""
    running: int
    waiting: int
    """Requests in the engine's batch, and before it; both as of the engine's last step."""
    kv_usage: float
    """Share of KV blocks in use, 0 to 1."""
    queued_tokens: int
    """Prompt tokens of requests that have no first token yet."""
    unfinished: int
    """Requests the engine has accepted and not ended."""
    steps: int
    first_tokens: int
    """Requests whose first token came out."""
    finished: int
    aborted: int
    """Requests that ended without finishing: the client left, or the engine failed."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens of the requests in `first_tokens`, and how many of them the prefix cache held."""


class EngineSignals:
    """Owner of one engine's counts. Has the methods vLLM calls on a stat logger, so it can be handed to it as one."""

    def __init__(self) -> None:
        self.adapter_slots = 0
        """LoRA adapters one batch may hold; 0 without LoRA."""
        self.adapters: dict[str, None] = {}
        """Adapters in slots, the one used longest ago first."""
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
        self.steps = 0
        self.first_tokens = 0
        self.finished = 0
        self.aborted = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.failed_transfers = 0
        """KV of other replicas that could not be fetched."""

    # vLLM's StatLoggerBase; not subclassed, so that this module needs no vLLM.

    def record(
        self,
        scheduler_stats: Any = None,
        iteration_stats: Any = None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Called after each step of the engine, in this process."""
        self.steps += 1
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.kv_usage = scheduler_stats.kv_cache_usage
            self._use_adapters(scheduler_stats.running_lora_adapters)
            if transfers := scheduler_stats.kv_connector_stats:
                # NixlKVConnectorStats: a list with a 1 for each.
                self.failed_transfers += sum(len(transfers.get(key, ())) for key in FAILED_TRANSFERS)

    def _use_adapters(self, requests: Mapping[str, int]) -> None:
        """Adapters with so many requests in the batch: used last, as the worker's own cache of them sees it."""
        adapters = self.adapters
        for name in [name for name, running in requests.items() if running]:
            adapters.pop(name, None)
            adapters[name] = None
        while len(adapters) > self.adapter_slots:
            del adapters[next(iter(adapters))]

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def log(self) -> None:
        """Nothing to log."""

    def record_sleep_state(self, is_awake: int = 0, level: int = 0) -> None:
        """A sleeping engine is not routed to."""

    def watch(self, generate: Generate) -> Generate:
        """`generate` with each request's first token and end counted. Every endpoint of vLLM's app goes through it."""

        async def watched(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            first = True
            done = False
            try:
                # Closed explicitly: vLLM aborts the request in the engine when its generator is closed.
                async with aclosing(generate(*args, **kwargs)) as outputs:  # type: ignore[type-var]
                    async for output in outputs:
                        if first:
                            first = False
                            self.first_tokens += 1
                            self.prompt_tokens += len(output.prompt_token_ids or ())
                            self.cached_tokens += output.num_cached_tokens or 0
                        done = done or output.finished
                        yield output
            finally:
                if done:
                    self.finished += 1
                else:
                    self.aborted += 1

        return watched

    def read(self, *, in_flight: int, unfinished: int, queued_tokens: int) -> Signals:
        """The signals at this moment; what the engine counts itself is given."""
        return Signals(
            in_flight=in_flight,
            unfinished=unfinished,
            queued_tokens=queued_tokens,
            running=self.running,
            waiting=self.waiting,
            kv_usage=self.kv_usage,
            steps=self.steps,
            first_tokens=self.first_tokens,
            finished=self.finished,
            aborted=self.aborted,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
        )
