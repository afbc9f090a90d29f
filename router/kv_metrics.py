"""Metrics of what is known of the fleet's KV, read from `KVState` at scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router.state.kv import KVState
from router.state.replicas import ReplicaRegistry


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
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"pointsman_{name}", text, labels=("replica",))

        backlog = gauge("prefill_backlog_tokens", "Prompt tokens in front of a replica, until their first token.")
        footprint = gauge("kv_footprint_tokens", "KV that live conversations keep.")
        capacity = gauge("kv_capacity_tokens", "KV there is room for; absent while unknown.")
        prefill = gauge("prefill_8k_seconds", "Learned time to prefill 8,192 tokens.")
        running = gauge("engine_running", "Requests in the engine's batch, as it told.")
        waiting = gauge("engine_waiting", "Requests before the batch, as it told.")
        usage = gauge("engine_kv_usage", "Share of KV blocks in use, as it told.")
        handoffs = CounterMetricFamily(
            "pointsman_prefill_handoffs",
            "What became of prompts that prefill replicas were to compute, as decode replicas told.",
            labels=("replica", "outcome"),
        )
        legs = CounterMetricFamily(
            "pointsman_prefill_leg_seconds",
            "Time that prompts took on prefill replicas, of those that came to `ok`, as decode replicas told.",
            labels=("replica",),
        )
        signals = self._kv.signals
        for replica in sorted(self._replicas, key=lambda r: r.id):
            slot, label = replica.slot, (replica.id,)
            backlog.add_metric(label, float(signals.waiting[slot]))
            footprint.add_metric(label, float(signals.footprint[slot]))
            if signals.capacity[slot] < float("inf"):
                capacity.add_metric(label, float(signals.capacity[slot]))
            prefill.add_metric(label, self._kv.columns.time_ms(slot, 8192) / 1000)
            load = self._kv.load(slot)
            if load is not None:
                running.add_metric(label, load.running)
                waiting.add_metric(label, load.waiting)
                usage.add_metric(label, load.kv_usage)
            told = self._kv.handoffs(replica.slot)
            if told is not None:
                for outcome, count in told.outcomes.items():
                    handoffs.add_metric((*label, outcome), count)
                legs.add_metric(label, told.leg_ms / 1000)
        yield from (backlog, footprint, capacity, prefill, running, waiting, usage, handoffs, legs)
