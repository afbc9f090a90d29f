"""Metrics of what is known of the fleet's KV, read from `KVState` at scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pointsman.contract.events import Handoffs
from pointsman.router.fleet.replica import Replica
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.state import KVState
from pointsman.router.metrics.exposition import Family, by_id
from pointsman.router.metrics.families import FamilyCollector, counter, gauge, histogram


class KVCollector(FamilyCollector):
    """Index, predictions, conversations, and what engines told."""

    def __init__(self, kv: KVState, replicas: ReplicaRegistry) -> None:
        self._kv = kv
        self._replicas = replicas

    def collect(self) -> Iterator[Family]:
        yield from self._prediction_families()
        yield from self._table_families()
        yield from self._feed_families()
        yield from self._replica_families()

    def _prediction_families(self) -> Iterator[Family]:
        counters = self._kv.counters
        yield from histogram(
            "pointsman_cached_tokens_error",
            "Absolute difference of predicted and actual cached tokens, divided by the prompt's tokens.",
            counters.prediction_error,
        )
        for name, text, value in (
            (
                "cached_tokens_selected",
                "Prompt tokens that chosen replicas were predicted to have cached, at the decision.",
                counters.selected_cached_tokens,
            ),
            (
                "cached_tokens_best",
                "Prompt tokens that the best candidate was predicted to have cached, at the decision; the excess over "
                "pointsman_cached_tokens_selected_total is the cache given up for shorter queues.",
                counters.best_cached_tokens,
            ),
        ):
            yield from counter(f"pointsman_{name}", text, value)

    def _table_families(self) -> Iterator[Family]:
        kv = self._kv
        index = kv.index
        for name, text, value in (
            ("prefix_index_keys", "Prefix keys that at least one replica holds.", len(index)),
            (
                "prefix_index_expected_keys",
                "Prefix keys expected on a replica because of a decision and not yet reported by the engine.",
                len(index.expectations),
            ),
            (
                "conversations",
                "Live conversations: those whose KV counts towards pointsman_kv_footprint_tokens.",
                kv.conversations.counts()[0],
            ),
            ("conversations_known", "Conversations in memory, live and dormant ones.", len(kv.conversations.by_name)),
            (
                "conversation_patience_seconds",
                "Idle timeout of conversations, learned from traffic: idle for longer, a conversation's KV counts no "
                "more.",
                kv.conversations.silence.patience_s,
            ),
            ("kv_live_usage", "Share of the fleet's KV capacity used by live conversations.", kv.columns.signals.usage),
        ):
            yield from gauge(f"pointsman_{name}", text, value)
        for name, text, value in (
            ("prefix_index_evictions", "Prefix keys dropped because the index was full.", index.evicted_by_limit),
            (
                "prefix_expectations_expired",
                "Expected prefix keys that no engine reported in time.",
                index.expectations.expired,
            ),
            ("conversations_evicted", "Conversations dropped because the table was full.", kv.conversations.evicted),
            (
                "prefill_backlog_decayed",
                "Requests removed from the prefill backlog without a reported first token, by age.",
                kv.backlog.decayed,
            ),
            ("prefill_observations", "First tokens from which prefill times were learned.", kv.times.observations),
        ):
            yield from counter(f"pointsman_{name}", text, value)

    def _feed_families(self) -> Iterator[Family]:
        counters = self._kv.counters
        for name, text, value in (
            ("engine_messages", "Event messages received from engines.", counters.messages),
            ("engine_keys", "Prefix keys that engines reported as stored or evicted.", counters.keys),
            ("kv_resyncs", "Event messages of engines answered with a request for a snapshot.", counters.resyncs),
            (
                "engine_restarts",
                "Engine restarts observed; each restart empties the engine's prefix cache.",
                counters.restarts,
            ),
        ):
            yield from counter(f"pointsman_{name}", text, value)

    def _replica_families(self) -> Iterator[Family]:
        signals = self._kv.columns.signals
        gauges: tuple[tuple[str, str, Callable[[int], float | None]], ...] = (
            (
                "prefill_backlog_tokens",
                "Prompt tokens of requests on a replica that have no first token yet.",
                lambda slot: float(signals.waiting[slot]),
            ),
            (
                "kv_footprint_tokens",
                "Tokens of KV that live conversations use on a replica, shared prefixes counted once.",
                lambda slot: float(signals.footprint[slot]),
            ),
            (
                "kv_capacity_tokens",
                "KV capacity of a replica, in tokens; absent while unknown.",
                lambda slot: float(signals.capacity[slot]) if signals.capacity[slot] < float("inf") else None,
            ),
            (
                "prefill_8k_seconds",
                "Time a replica takes to prefill 8,192 tokens, learned from first tokens.",
                lambda slot: signals.time_ms(slot, 8192) / 1000,
            ),
            ("engine_running", "Requests in the engine's batch, as the engine reported.", self._reported("running")),
            (
                "engine_waiting",
                "Requests in the engine's waiting queue, as the engine reported.",
                self._reported("waiting"),
            ),
            (
                "engine_kv_usage",
                "Share of the engine's KV blocks in use, as the engine reported.",
                self._reported("kv_usage"),
            ),
        )
        for name, text, value in gauges:
            yield from gauge(f"pointsman_{name}", text, self._by_replica(value), "replica")
        yield from counter(
            "pointsman_prefill_handoffs",
            "Prefill requests of decode replicas to prefill replicas, by decode replica and outcome, as decode "
            "replicas reported.",
            (
                ((replica.id, outcome), count)
                for replica, handoffs in self._handoffs()
                for outcome, count in handoffs.outcomes.items()
            ),
            *("replica", "outcome"),
        )
        yield from counter(
            "pointsman_prefill_leg_seconds",
            "Total time of prefill requests with outcome ok, by decode replica, as decode replicas reported.",
            ((replica.id, handoffs.leg_ms / 1000) for replica, handoffs in self._handoffs()),
            "replica",
        )

    def _by_replica(self, value: Callable[[int], float | None]) -> Iterator[tuple[str, float]]:
        """A value by slot, of the replicas that have one."""
        for replica in by_id(self._replicas):
            found = value(replica.slot)
            if found is not None:
                yield replica.id, found

    def _reported(self, field: str) -> Callable[[int], float | None]:
        """Return a field of the load that the engine on a slot reported; None before the first report."""

        def of(slot: int) -> float | None:
            load = self._kv.cursors[slot].load
            return None if load is None else getattr(load, field)

        return of

    def _handoffs(self) -> Iterator[tuple[Replica, Handoffs]]:
        for replica in by_id(self._replicas):
            told = self._kv.cursors[replica.slot].handoffs
            if told is not None:
                yield replica, told
