"""The dashboard *Shared state*: what edges publish to each other through Redis or Valkey."""

from __future__ import annotations

from deploy.grafana.source.edge import events
from deploy.grafana.source.model import GOOD_WHEN_ZERO, Board, Kind, Panel, Query, Row, stat
from deploy.grafana.source.promql import quantile, rate, series, total

NUMBERS = Row(
    "At a glance",
    (
        stat(
            "Shared store",
            "Does the store answer?",
            "Whether every edge reaches Redis or Valkey.",
            "`away`: edges go on with what they know, and agree within ten seconds of its return.",
            Query(f"min({series('pointsman_shared_store_up')})", "store"),
            steps=((None, "red"), (1, "green")),
            words=((0, "away", "red"), (1, "answers", "green")),
        ),
        stat(
            "Other edges in step",
            "Do edges know the same?",
            "Pairs of edges in which no state of the other is missing.",
            "n edges make n x (n - 1) pairs; fewer: see edges by state.",
            Query(f"sum({series('pointsman_shared_edges', state='in-step')})", "in step"),
        ),
        stat(
            "Append, p99",
            "Is the store quick?",
            "Time to append one batch of updates.",
            "Above 10 ms edges see each other's load late: the store's CPU, its persistence, the network.",
            Query(quantile(0.99, "pointsman_shared_append_seconds"), "p99"),
            "s",
            steps=((None, "green"), (0.01, "orange"), (0.1, "red")),
        ),
        stat(
            "Updates dropped",
            "Was anything lost for good?",
            "Times that updates were dropped because the store was away for too long, over the time range.",
            "States are published again every few seconds, so edges agree soon after; look at the store.",
            Query(f"sum(increase({series('pointsman_shared_overruns_total')}[$__range]))", "overruns"),
            steps=GOOD_WHEN_ZERO,
            decimals=0,
        ),
        stat(
            "Published",
            "How much do edges say?",
            "Bytes a second that all edges publish.",
            "Some KB for each hundred requests a second.",
            Query(rate("pointsman_shared_bytes_sent_total"), "published"),
            "Bps",
        ),
        stat(
            "Batches of another version",
            "Do all edges speak the same?",
            "Batches skipped because of another schema version, a second.",
            "During an upgrade that is expected; after it, find the edge that was left behind.",
            Query(rate("pointsman_shared_refused_batches_total"), "skipped"),
            "ops",
            steps=GOOD_WHEN_ZERO,
        ),
    ),
)

STORE = Row(
    "The store",
    (
        Panel(
            "Errors of the store",
            "Why do calls of the store fail?",
            "Failed calls by cause.",
            "The runbook of PointsmanSharedStoreDown has a step for each cause.",
            (
                Query(
                    f"{events('pointsman_shared_store_errors_total', by='edge, cause')} > 0",
                    "{{edge}} {{cause}}",
                    waits_for="a shared store that fails",
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "Time to append",
            "How quick is the store?",
            "Median and 99th percentile of appending a batch.",
            "Lookups never wait for it; other edges see load and pins that much later.",
            (
                Query(quantile(0.5, "pointsman_shared_append_seconds"), "p50"),
                Query(quantile(0.99, "pointsman_shared_append_seconds"), "p99"),
            ),
            "s",
        ),
        Panel(
            "Losses and drops",
            "Was anything lost?",
            "Times that the store lost its data, and times that updates were dropped because it was away for too long.",
            "A store without persistence loses its data with each restart; that is harmless here.",
            (
                Query(events("pointsman_shared_store_losses_total"), "{{edge}} store lost its data"),
                Query(events("pointsman_shared_overruns_total"), "{{edge}} updates dropped"),
            ),
            kind=Kind.BARS,
        ),
    ),
)

EDGES = Row(
    "The edges",
    (
        Panel(
            "Other edges, by state",
            "Who follows whom?",
            "As each edge sees the others: in-step, behind (some state is missing), silent (no heartbeat).",
            "Behind for more than a minute: batches are lost or refused. Silent: the edge is away.",
            (Query(total("pointsman_shared_edges", by="edge, state"), "{{edge}} sees {{state}}"),),
        ),
        Panel(
            "Batches",
            "Do updates flow?",
            "Batches published and applied, a second.",
            "Each edge applies what all others publish.",
            (
                Query(rate("pointsman_shared_batches_sent_total", by="edge"), "{{edge}} published"),
                Query(rate("pointsman_shared_batches_applied_total", by="edge"), "{{edge}} applied"),
            ),
            "ops",
        ),
        Panel(
            "Bytes",
            "What does sharing cost?",
            "Bytes published and read, a second.",
            "Compare with the network of the store.",
            (
                Query(rate("pointsman_shared_bytes_sent_total", by="edge"), "{{edge}} published"),
                Query(rate("pointsman_shared_bytes_read_total", by="edge"), "{{edge}} read"),
            ),
            "Bps",
        ),
        Panel(
            "Gaps, refusals, malformed batches",
            "What does not arrive as it was sent?",
            "Gaps in the numbered batches of others, batches of another version, documents (such as a policy) that "
            "this edge refused, batches that could not be decoded.",
            "A refused document: an edge lacks a policy that others have. Malformed: mixed versions, or a shared key "
            "space.",
            (
                Query(events("pointsman_shared_gaps_total"), "{{edge}} gaps"),
                Query(events("pointsman_shared_refused_batches_total"), "{{edge}} other version"),
                Query(events("pointsman_shared_refused_documents_total"), "{{edge}} documents refused"),
                Query(events("pointsman_shared_malformed_batches_total"), "{{edge}} malformed"),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "Edges that died",
            "Did an edge disappear?",
            "Edges whose heartbeat stopped.",
            "Its requests are no longer counted after 3 s; its replicas stay.",
            (Query(events("pointsman_shared_edges_died_total"), "{{edge}}"),),
            kind=Kind.BARS,
        ),
        Panel(
            "Repeated publications",
            "Is all state repeated?",
            "Rounds in which an edge begins to publish all its state again, a minute.",
            "About twelve a minute; 0 while the store is away.",
            (Query(f"60 * {rate('pointsman_shared_rounds_total', by='edge')}", "{{edge}}"),),
        ),
    ),
)

BOARD = Board(
    "pointsman-shared",
    "Pointsman: shared state",
    "What edges publish to each other through Redis or Valkey, and whether it arrives.",
    (NUMBERS, STORE, EDGES),
)
