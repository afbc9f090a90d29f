"""The load of one replica, as the engine reports it after each step.

`EngineSignals` owns the values; vLLM's engine writes them, reports read them. Everything happens on the replica's event
loop, so nothing is locked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

FAILED_TRANSFERS = ("num_failed_transfers", "num_failed_handshakes")

Generate = Callable[..., AsyncIterator[Any]]
"""vLLM's `AsyncLLM.generate`: outputs of one request, the last one finished."""


class EngineSignals:
    """Owner of one engine's load. Has the methods vLLM calls on a stat logger, so it can be handed to it as one."""

    def __init__(self) -> None:
        self.adapter_slots = 0
        """LoRA adapters one batch may hold; 0 without LoRA."""
        self.adapters: dict[str, None] = {}
        """Adapters in slots, the one used longest ago first."""
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
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
