"""What is counted of lookups and requests in place, where an event happens; `router/metrics` turns it into families.

A leaf: whoever counts imports it, and it imports what it counts.
"""

from __future__ import annotations

from collections import Counter

from pointsman.haproxy.lookup_rules import LookupRules
from pointsman.policies.decision import Reason
from pointsman.policies.lib.pair import Pairing
from pointsman.router.counts.histogram import Histogram

LOOKUP_BOUNDS_S = (20e-6, 40e-6, 60e-6, 80e-6, 120e-6, 200e-6, 400e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3)
"""Around the budget of a decision (60 us) and up to HAProxy's `timeout processing` (50 ms)."""

SERVED_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
MAX_GONE_REPLICAS = 1024
"""Replicas that left keep their counters until this many names are known; a churning fleet must not grow the scrape."""


class DecisionMetrics:
    """Counters of the pipeline and of the lookup fronts."""

    def __init__(self) -> None:
        self.by_reason: Counter[tuple[str, Reason]] = Counter()
        self.pairings: Counter[Pairing] = Counter()
        """Decisions for decode replicas, by who computes the prompt."""
        self.lookup_s = Histogram(LOOKUP_BOUNDS_S)
        """Time a lookup spends in this process: features, decision, answer."""
        self.lookup_errors = 0
        """Lookups that met a programming error; HAProxy failed open for them."""
        self.protocol_errors = 0
        """SPOP connections closed because the peer broke the protocol."""
        self.spop_connections = 0
        self.policy_reload_ok = 1
        self.policy_reloads: Counter[str] = Counter()

    def decided(self, policy: str, reason: Reason) -> None:
        self.by_reason[policy, reason] += 1


class ReplicaServed:
    """Counters of one replica's finished requests, from end-of-request lines."""

    __slots__ = ("by_class", "first_response_s", "first_token_s", "redispatched", "request_s")

    def __init__(self) -> None:
        self.by_class: Counter[str] = Counter()
        self.redispatched = 0
        self.first_response_s = Histogram(SERVED_BOUNDS_S)
        self.first_token_s = Histogram(SERVED_BOUNDS_S)
        self.request_s = Histogram(SERVED_BOUNDS_S)


class RequestMetrics:
    """Counters of end-of-request lines, for requests placed by the router and by HAProxy alone."""

    def __init__(self) -> None:
        self.replicas: dict[str, ReplicaServed] = {}
        self.fail_open = 0
        self.undecided: Counter[str] = Counter()
        """Routed requests that ended before a decision reached HAProxy, by cause."""
        self.refused: Counter[int] = Counter()
        self.failed_keys: Counter[str] = Counter()
        """Requests without a known API key, by cause."""
        self.lines = 0
        self.malformed_lines = 0
        self.ring_connections = 0

    def served(self, replica: str) -> ReplicaServed:
        """The counters of one replica; the longest known ones go when there are too many."""
        found = self.replicas.get(replica)
        if found is None:
            while len(self.replicas) >= MAX_GONE_REPLICAS:
                del self.replicas[next(iter(self.replicas))]
            found = self.replicas[replica] = ReplicaServed()
        return found


class EdgeHealth:
    """State of HAProxy, as the comparison with it found."""

    def __init__(self) -> None:
        self.haproxy_up = False
        self.restarts_seen = 0
        self.old_workers = 0
        """HAProxy workers that a reload has replaced and that still have clients."""
        self.sync_errors = 0
        self.last_error = ""
        self.body_window_bytes = 0
        """Body window of HAProxy, in bytes; 0 where the configuration does not state it."""
        self.lookup_rules: LookupRules | None = None
        """Rules by which HAProxy makes lookups; None where its configuration does not state them."""
