"""Metrics of decisions, requests, replicas and HAProxy.

Counted in place where an event happens (`DecisionMetrics`, `RequestMetrics`), read from state at scrape where state
already knows (`StateCollector`). Labels of high traffic are policy, reason and replica; never a session or request id.
"""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.contract.registration import Role
from pointsman.router.core import Core
from pointsman.router.decide.body_needs import body_window
from pointsman.router.metrics.exposition import Family, by_id
from pointsman.router.metrics.families import FamilyCollector, counter, gauge, histogram
from pointsman.router.requests.end_of_request import FAILED_KEYS

REQUEST_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")

UNDECIDED_CAUSES = ("client-left", "client-timeout", "other")
"""Why a routed request ended before a decision reached HAProxy."""


class StateCollector(FamilyCollector):
    """Turns state and counters into metric families at scrape."""

    def __init__(self, core: Core) -> None:
        self._pipeline = core.pipeline
        self._replicas = core.replicas
        self._load = core.load
        self._sessions = core.sessions
        self._decisions = core.decision_metrics
        self._requests = core.request_metrics
        self._edge = core.edge_health

    def collect(self) -> Iterator[Family]:
        yield from self._decision_families()
        yield from self._replica_families()
        yield from self._served_families()
        yield from self._unserved_families()
        yield from self._edge_families()

    def _decision_families(self) -> Iterator[Family]:
        decisions = self._decisions
        yield from counter(
            "pointsman_decisions",
            "Routing decisions, by policy and reason.",
            sorted(decisions.by_reason.items()),
            *("policy", "reason"),
        )
        yield from counter(
            "pointsman_prefill_decisions",
            "Routing decisions for decode replicas, by pairing: `paired` where a prefill replica computes the prompt, "
            "else why the decode replica computes it.",
            sorted(decisions.pairings.items()),
            "pairing",
        )
        yield from histogram(
            "pointsman_lookup_seconds",
            "Time a lookup spends in the router, from its bytes to its answer.",
            decisions.lookup_s,
        )
        yield from counter(
            "pointsman_lookup_errors",
            "Lookups that failed with a programming error; HAProxy failed open for them.",
            decisions.lookup_errors,
        )
        yield from counter(
            "pointsman_spop_protocol_errors",
            "SPOP connections closed because of malformed frames.",
            decisions.protocol_errors,
        )
        yield from gauge(
            "pointsman_spop_connections", "Open SPOP connections from HAProxy.", decisions.spop_connections
        )
        policies = self._pipeline.choice.live.policies
        yield from gauge(
            "pointsman_policy_info",
            "1 for the live policy; with a label `model`, for the policy of one model.",
            [
                ((policies.main.name, ""), 1),
                *(((own.name, model), 1) for model, own in sorted(policies.models.items())),
            ],
            *("policy", "model"),
        )
        yield from gauge(
            "pointsman_config_last_reload_successful",
            "1 unless the policy in the state file or published by another edge was refused and another policy is "
            "live; refused calls of the admin API do not count.",
            decisions.policy_reload_ok,
        )
        yield from counter(
            "pointsman_policy_changes",
            "Changes of the live policy, by result (applied, refused), from the admin API and from other edges.",
            ((result, decisions.policy_reloads[result]) for result in ("applied", "refused")),
            "result",
        )

    def _replica_families(self) -> Iterator[Family]:
        yield from gauge(
            "pointsman_replica_state",
            "1 for the state that a replica is in, by replica and state.",
            (((replica.id, replica.model, replica.state), 1) for replica in by_id(self._replicas)),
            *("replica", "model", "state"),
        )
        for name, text, column in (
            ("pointsman_in_flight", "Requests in flight on a replica, from this edge and others.", "in_flight"),
            (
                "pointsman_in_flight_tokens",
                "Estimated tokens, prompt and output, of the requests in flight on a replica.",
                "in_flight_tokens",
            ),
            (
                "pointsman_in_flight_foreign",
                "Requests in flight on a replica that HAProxy placed without a decision of the router.",
                "foreign",
            ),
        ):
            yield from gauge(name, text, self._column(column), "replica")
        loads = [int(self._load.in_flight[r.slot]) for r in self._replicas if r.eligible and r.role is not Role.PREFILL]
        yield from gauge(
            "pointsman_imbalance",
            "Requests in flight on the most loaded eligible replica over the mean; 1 is even, 0 without load.",
            max(loads) * len(loads) / sum(loads) if sum(loads) else 0,
        )
        yield from gauge(
            "pointsman_reservations",
            "Open reservations: requests in flight that a decision of this router placed.",
            len(self._load),
        )
        yield from counter(
            "pointsman_reservations_dropped",
            "Reservations dropped without an end-of-request line, by cause: expired (reservation_ttl_s), leaked "
            "(HAProxy has no such session).",
            (("expired", self._load.expired), ("leaked", self._load.leaked)),
            "cause",
        )
        yield from gauge(
            "pointsman_sessions",
            "Session pins in memory; kept by policies that use sessions, and 0 under kv_cost, which keeps "
            "conversations.",
            len(self._sessions),
        )
        yield from counter(
            "pointsman_sessions_evicted", "Session pins dropped because the table was full.", self._sessions.evicted
        )
        yield from counter(
            "pointsman_sessions_save_errors",
            "Failed writes of the session pins file; each is retried.",
            self._sessions.save_errors,
        )

    def _column(self, name: str) -> Iterator[tuple[str, float]]:
        """A column of the load table, replica by replica. One that grows meanwhile is another array."""
        for replica in by_id(self._replicas):
            yield replica.id, int(getattr(self._load, name)[replica.slot])

    def _served_families(self) -> Iterator[Family]:
        served = list(self._requests.replicas.items())
        yield from counter(
            "pointsman_requests",
            "Finished requests, by the replica that served them and class of the status.",
            (((replica, kind), count) for replica, own in served for kind, count in sorted(own.by_class.items())),
            *("replica", "class"),
        )
        yield from counter(
            "pointsman_redispatches",
            "Requests that a replica served after another replica refused or dropped them.",
            ((replica, own.redispatched) for replica, own in served),
            "replica",
        )
        yield from histogram(
            "pointsman_first_response_seconds",
            "Time from request to response headers, by replica; the first token may come later.",
            ((replica, own.first_response_s) for replica, own in served),
            "replica",
        )
        yield from histogram(
            "pointsman_first_token_seconds",
            "Time from request to the first token of streamed answers, as HAProxy's `first_token` filter measured, by "
            "replica; absent where the filter is off.",
            ((replica, own.first_token_s) for replica, own in served if own.first_token_s.count),
            "replica",
        )
        yield from histogram(
            "pointsman_request_seconds",
            "Time from request to the last byte of the response, by replica.",
            ((replica, own.request_s) for replica, own in served),
            "replica",
        )

    def _unserved_families(self) -> Iterator[Family]:
        """Requests that no replica served, and the ring that reports them all."""
        requests = self._requests
        yield from counter(
            "pointsman_fail_open",
            "Requests that HAProxy placed alone because the router did not answer the lookup in time (fail open).",
            requests.fail_open,
        )
        yield from counter(
            "pointsman_undecided",
            "Requests to generation paths that ended before a decision, by cause: client-left, client-timeout (the "
            "body did not arrive in time), other.",
            ((cause, requests.undecided[cause]) for cause in UNDECIDED_CAUSES),
            "cause",
        )
        yield from counter(
            "pointsman_refused",
            "Requests that HAProxy answered itself, by status.",
            ((str(status), count) for status, count in sorted(requests.refused.items())),
            "status",
        )
        yield from counter(
            "pointsman_failed_keys",
            "Requests that HAProxy refused because of their API key, by cause: no-key, unknown-key (not known, expired "
            "or revoked). Of one address, the first 60 a minute are counted.",
            ((cause, requests.failed_keys[cause]) for cause in FAILED_KEYS),
            "cause",
        )
        yield from counter(
            "pointsman_ring_lines", "End-of-request lines received from HAProxy's log ring.", requests.lines
        )
        yield from counter(
            "pointsman_ring_malformed_lines",
            "Lines from HAProxy's log ring that could not be decoded.",
            requests.malformed_lines,
        )
        yield from gauge(
            "pointsman_ring_connections", "Open connections of HAProxy's log rings.", requests.ring_connections
        )

    def _edge_families(self) -> Iterator[Family]:
        edge = self._edge
        yield from gauge(
            "pointsman_haproxy_up", "1 while HAProxy's admin socket answers the router.", int(edge.haproxy_up)
        )
        yield from counter(
            "pointsman_haproxy_restarts",
            "Restarts and reloads of HAProxy that the router observed.",
            edge.restarts_seen,
        )
        yield from gauge(
            "pointsman_haproxy_old_workers",
            "HAProxy workers that a reload has replaced and that still carry streams.",
            edge.old_workers,
        )
        yield from counter(
            "pointsman_edge_sync_errors", "Failed comparisons of HAProxy's servers with the registry.", edge.sync_errors
        )
        yield from gauge(
            "pointsman_haproxy_body_window_bytes",
            "Bytes at the start of a request body that HAProxy inspects; 0 where the configuration does not state "
            "them.",
            edge.body_window_bytes,
        )
        yield from gauge(
            "pointsman_policy_body_window_bytes",
            "Bytes at the start of a request body that the live policy uses. Where HAProxy inspects fewer bytes, "
            "prompts that begin alike look equal to the policy.",
            body_window(self._pipeline.choice.needs),
        )
