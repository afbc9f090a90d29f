"""Metrics of what edges share, read at scrape."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.edges.sharing import Sharing
from pointsman.router.edges.store import Cause
from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, gauge, histogram


class SharingCollector(FamilyCollector):
    """Reads the store, the other edges, and what went over."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing

    def collect(self) -> Iterator[Family]:
        sharing = self._sharing
        protocol, metrics, counters = sharing.protocol, sharing.metrics, sharing.protocol.counters
        peers = list(protocol.peers)
        in_step = sum(peer.alive and peer.in_step for peer in peers)
        alive = sum(peer.alive for peer in peers)
        yield from gauge(
            "pointsman_shared_store_up", "1 while the shared store (Redis) answers.", int(sharing.cause is None)
        )
        yield from counter(
            "pointsman_shared_store_errors",
            "Failed calls of the shared store (Redis), by cause.",
            ((cause, metrics.errors[cause]) for cause in Cause),
            "cause",
        )
        yield from gauge(
            "pointsman_shared_edges",
            "Other edges, by state: in-step (no state of theirs is missing), behind, silent (no heartbeat).",
            (("in-step", in_step), ("behind", alive - in_step), ("silent", len(peers) - alive)),
            "state",
        )
        yield from histogram(
            "pointsman_shared_append_seconds",
            "Time to append one batch of updates to the shared store.",
            metrics.append_s,
        )
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
            yield from counter(f"pointsman_shared_{name}", text, value)
