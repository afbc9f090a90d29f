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
        member, metrics, counters = sharing.member, sharing.metrics, sharing.member.counters
        up = GaugeMetricFamily("pointsman_shared_store_up", "1 while the store serves.")
        up.add_metric((), int(sharing.cause is None))
        errors = CounterMetricFamily(
            "pointsman_shared_store_errors", "Calls the store did not serve, by cause.", labels=("cause",)
        )
        for cause in Cause:
            errors.add_metric((cause,), metrics.errors[cause])
        edges = GaugeMetricFamily("pointsman_shared_edges", "Other edges by state.", labels=("state",))
        peers = list(member.peers)
        in_step = sum(peer.alive and peer.based for peer in peers)
        alive = sum(peer.alive for peer in peers)
        for state, count in (("in-step", in_step), ("behind", alive - in_step), ("silent", len(peers) - alive)):
            edges.add_metric((state,), count)
        appended = HistogramMetricFamily(
            "pointsman_shared_append_seconds", "Time until a batch lay in the store.", labels=()
        )
        appended.add_metric((), buckets=metrics.append_s.cumulative(), sum_value=metrics.append_s.total)
        yield from (up, errors, edges, appended)
        for name, text, value in (
            ("batches_sent", "Batches this edge told the others.", metrics.batches_sent),
            ("batches_applied", "Batches of others that were applied.", counters.batches),
            ("bytes_sent", "Of batches told.", metrics.bytes_sent),
            ("bytes_read", "Of batches read.", metrics.bytes_read),
            ("gaps", "Times batches of another edge were missed.", counters.gaps),
            ("overruns", "Times more happened than is kept while the store is away.", counters.overruns),
            ("malformed_batches", "Batches that could not be read.", counters.malformed),
            ("refused_batches", "Batches of a later schema, passed over.", counters.refused),
            ("refused_documents", "Documents put on another edge that this one cannot use.", member.documents.refused),
            ("snapshots_asked", "Snapshots asked for.", counters.asked),
            ("snapshots_served", "Snapshots made for others.", counters.served),
            ("snapshots_taken", "Snapshots applied.", counters.taken),
            ("edges_died", "Other edges that fell silent.", member.peers.died),
            ("store_losses", "Times the store was found to have lost what it kept.", metrics.losses),
        ):
            yield CounterMetricFamily(f"pointsman_shared_{name}", text, value=value)
