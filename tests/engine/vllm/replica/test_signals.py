"""The load that the engine reports."""

from __future__ import annotations

from types import SimpleNamespace

from pointsman.engine.vllm.replica.signals import EngineSignals


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
    assert (signals.running, signals.waiting, signals.kv_usage) == (3, 3, 0.25)


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
