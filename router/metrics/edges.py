"""Metrics of what edges share, read at scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.router.edges.sharing import Sharing
from pointsman.router.edges.store import Cause


class SharingCollector(Collector):
    """The store, the other edges, and what went over."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry must not collect while the app is being built."""
        return []

    def collect(self) -> Iterator[Metric]:
        sharing = self._sharing
        protocol, metrics, counters = sharing.protocol, sharing.metrics, sharing.protocol.counters
        up = GaugeMetricFamily("pointsman_shared_store_up", "1 while the shared store (Redis) answers.")
        up.add_metric((), int(sharing.cause is None))
        errors = CounterMetricFamily(
            "pointsman_shared_store_errors", "Failed calls of the shared store (Redis), by cause.", labels=("cause",)
        )
        for cause in Cause:
            errors.add_metric((cause,), metrics.errors[cause])
        edges = GaugeMetricFamily(
            "pointsman_shared_edges",
            "Other edges, by state: in-step (no state of theirs is missing), behind, silent (no heartbeat).",
            labels=("state",),
        )
        peers = list(protocol.peers)
        in_step = sum(peer.alive and peer.in_step for peer in peers)
        alive = sum(peer.alive for peer in peers)
        for state, count in (("in-step", in_step), ("behind", alive - in_step), ("silent", len(peers) - alive)):
            edges.add_metric((state,), count)
        appended = HistogramMetricFamily(
            "pointsman_shared_append_seconds", "Time to append one batch of updates to the shared store.", labels=()
        )
        appended.add_metric((), buckets=metrics.append_s.cumulative(), sum_value=metrics.append_s.total)
        yield from (up, errors, edges, appended)
        for name, text, value in (
            ("batches_sent", "Batches of updates that this edge published to other edges.", metrics.batches_sent),
            ("batches_applied", "Batches of updates from other edges that were applied.", counters.batches),
            ("bytes_sent", "Bytes of the batches that this edge published to other edges.", metrics.bytes_sent),
            ("bytes_read", "Bytes of the batches read from other edges.", metrics.bytes_read),
            ("gaps", "Gaps found in the numbered batches of other edges.", counters.gaps),
            (
                "overruns",
                "Times that updates were dropped because the shared store was unreachable for too long.",
                protocol.outbox.overruns,
            ),
            ("malformed_batches", "Batches from other edges that could not be decoded.", counters.malformed),
            (
                "refused_batches",
                "Batches from other edges skipped because of another schema version.",
                counters.refused,
            ),
            (
                "refused_documents",
                "Documents, such as a policy, published by another edge and refused by this one.",
                protocol.documents.refused,
            ),
            ("rounds", "Rounds in which this edge began to publish all its state again.", protocol.rounds.started),
            ("edges_died", "Other edges whose heartbeat stopped.", protocol.peers.died),
            ("store_losses", "Times that the shared store was found to have lost its data.", metrics.losses),
        ):
            yield CounterMetricFamily(f"pointsman_shared_{name}", text, value=value)
