"""Metrics of what is known of the fleet's KV, read from `KVState` at scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.contract.events import Handoffs
from pointsman.router.fleet.replicas import Replica, ReplicaRegistry
from pointsman.router.kv.state import KVState
from pointsman.router.metrics.exposition import Series, by_id, in_pieces


class KVCollector(Collector):
    """Index, predictions, conversations, and what engines told."""

    def __init__(self, kv: KVState, replicas: ReplicaRegistry) -> None:
        self._kv = kv
        self._replicas = replicas

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry must not collect while the app is being built."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._prediction_families()
        yield from self._table_families()
        yield from self._feed_families()
        yield from self._replica_families()

    def _prediction_families(self) -> Iterator[Metric]:
        counters = self._kv.counters
        error = HistogramMetricFamily(
            "pointsman_cached_tokens_error",
            "Predicted less actual cached tokens, without sign, over the prompt's tokens.",
            labels=(),
        )
        histogram = counters.prediction_error
        error.add_metric((), buckets=histogram.cumulative(), sum_value=histogram.total)
        yield error
        for name, text, value in (
            ("prompt_tokens", "Prompt tokens of requests whose first token an engine told.", counters.prompt_tokens),
            ("cached_tokens", "Of these, found in the prefix cache.", counters.actual_cached_tokens),
            ("cached_tokens_predicted", "Of these, predicted to be found.", counters.predicted_cached_tokens),
            (
                "cached_tokens_selected",
                "At decisions: prompt tokens the chosen replica was predicted to hold.",
                counters.selected_cached_tokens,
            ),
            (
                "cached_tokens_best",
                "At decisions: the most any candidate was predicted to hold; less the selected, the regret.",
                counters.best_cached_tokens,
            ),
        ):
            yield CounterMetricFamily(f"pointsman_{name}", text, value=value)

    def _table_families(self) -> Iterator[Metric]:
        kv = self._kv
        index = kv.index
        for name, text, value in (
            ("prefix_index_keys", "Prefix keys that some replica holds.", len(index)),
            ("prefix_index_expected_keys", "Prefix keys that decisions expect to be held soon.", index.expected),
            ("conversations", "Conversations whose KV counts.", kv.conversations.live),
            ("conversations_known", "The same and the dormant ones.", len(kv.conversations)),
            (
                "conversation_patience_seconds",
                "Silence after which the KV of a conversation no longer counts.",
                kv.conversations.silence.patience_s,
            ),
            ("kv_live_usage", "Share of the fleet's KV that live conversations keep.", kv.signals.usage),
        ):
            yield GaugeMetricFamily(f"pointsman_{name}", text, value=value)
        for name, text, value in (
            ("prefix_index_evictions", "Keys dropped because the index was full.", index.evicted_by_limit),
            ("prefix_expectations_expired", "Expected keys nobody stored in time.", index.expectations_expired),
            ("conversations_evicted", "Conversations dropped because the table was full.", kv.conversations.evicted),
            ("prefill_backlog_decayed", "Backlog ended without a first token.", kv.backlog.decayed),
            ("prefill_observations", "First tokens that prefill times were learned from.", kv.times.observations),
        ):
            yield CounterMetricFamily(f"pointsman_{name}", text, value=value)

    def _feed_families(self) -> Iterator[Metric]:
        counters = self._kv.counters
        for name, text, value in (
            ("engine_messages", "Messages of engines.", counters.messages),
            ("engine_keys", "Prefix keys stored or evicted, as engines told.", counters.keys),
            ("kv_resyncs", "Messages answered with the wish for a snapshot.", counters.resyncs),
            ("engine_restarts", "Engines that came back with an empty cache.", counters.restarts),
        ):
            yield CounterMetricFamily(f"pointsman_{name}", text, value=value)

    def _replica_families(self) -> Iterator[Metric]:
        kv, signals = self._kv, self._kv.signals
        gauges: tuple[tuple[str, str, Callable[[int], float | None]], ...] = (
            (
                "prefill_backlog_tokens",
                "Prompt tokens in front of a replica, until their first token.",
                lambda slot: float(signals.waiting[slot]),
            ),
            (
                "kv_footprint_tokens",
                "KV that live conversations keep.",
                lambda slot: float(signals.footprint[slot]),
            ),
            (
                "kv_capacity_tokens",
                "KV there is room for; absent while unknown.",
                lambda slot: float(signals.capacity[slot]) if signals.capacity[slot] < float("inf") else None,
            ),
            (
                "prefill_8k_seconds",
                "Learned time to prefill 8,192 tokens.",
                lambda slot: kv.columns.time_ms(slot, 8192) / 1000,
            ),
            ("engine_running", "Requests in the engine's batch, as it told.", self._told("running")),
            ("engine_waiting", "Requests before the batch, as it told.", self._told("waiting")),
            ("engine_kv_usage", "Share of KV blocks in use, as it told.", self._told("kv_usage")),
        )
        for name, text, value in gauges:
            yield from in_pieces(GaugeMetricFamily, f"pointsman_{name}", text, ("replica",), self._series(value))
        yield from in_pieces(
            CounterMetricFamily,
            "pointsman_prefill_handoffs",
            "What became of prompts that prefill replicas were to compute, as decode replicas told.",
            ("replica", "outcome"),
            (
                ((replica.id, outcome), {"value": count})
                for replica, told in self._handoffs()
                for outcome, count in told.outcomes.items()
            ),
        )
        yield from in_pieces(
            CounterMetricFamily,
            "pointsman_prefill_leg_seconds",
            "Time that prompts took on prefill replicas, of those that came to `ok`, as decode replicas told.",
            ("replica",),
            (((replica.id,), {"value": told.leg_ms / 1000}) for replica, told in self._handoffs()),
        )

    def _series(self, value: Callable[[int], float | None]) -> Series:
        """A gauge's value by slot, where there is one."""
        for replica in by_id(self._replicas):
            found = value(replica.slot)
            if found is not None:
                yield (replica.id,), {"value": found}

    def _told(self, field: str) -> Callable[[int], float | None]:
        """What the engine on a slot reports of its load; None before it does."""

        def of(slot: int) -> float | None:
            load = self._kv.feed(slot).load
            return None if load is None else getattr(load, field)

        return of

    def _handoffs(self) -> Iterator[tuple[Replica, Handoffs]]:
        for replica in by_id(self._replicas):
            told = self._kv.feed(replica.slot).handoffs
            if told is not None:
                yield replica, told
