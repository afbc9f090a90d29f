"""The state of this edge in the admin API: one document that answers whether it is well, and if not, what is wrong."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import json_answer
from pointsman.policies.request import Priority
from pointsman.router.core import Core
from pointsman.router.edges.sharing import Sharing
from pointsman.router.fleet.replica import Health
from pointsman.router.fronts.api.replica_views import ReplicaViews
from pointsman.router.fronts.api.status_types import (
    EdgeBrief,
    HAProxyStatus,
    HeldShare,
    LivePolicy,
    QueueStatus,
    ReplicaCounts,
    ReplicaOut,
    StatusView,
)
from pointsman.router.process.clock import Clock
from pointsman.router.process.moments import moment
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.slices import in_slices
from pointsman.router.process.version import product_version
from pointsman.router.requests.hold_queue import HoldQueue

OUT_MAX = 100
"""Replicas that are out, and shown with their reasons: more of them have one cause, and are in the list of replicas."""

SHARES_MAX = 20
"""Classes of tenants that are shown of those that wait."""


def queue_status(queue: HoldQueue, now_s: float) -> QueueStatus | None:
    """The requests that wait, by class and tenant; None where none does."""
    if not queue.held:
        return None
    by_class: Counter[int] = Counter()
    for (priority, _), requests in queue.owners.items():
        by_class[priority] += requests
    most = queue.owners.most_common(SHARES_MAX)
    return QueueStatus(
        by_priority={Priority(of).label: by_class[of] for of in sorted(by_class, reverse=True)},
        shares=[
            HeldShare(priority=Priority(of).label, tenant=tenant, requests=requests) for (of, tenant), requests in most
        ],
        others=len(queue.owners) - len(most),
        longest_s=round(now_s - next(iter(queue)).since_s, 3),
        body_bytes=queue.bytes,
    )


class StatusFront:
    """Handler of `/v1/status`."""

    def __init__(
        self,
        core: Core,
        sharing: Sharing | None,
        views: ReplicaViews,
        *,
        name: str,
        readiness: Readiness,
        clock: Clock,
        has_haproxy: bool,
    ) -> None:
        """sharing: None for an edge that is alone.
        name: display name of an edge that is alone; empty for the host's.
        has_haproxy: whether an HAProxy is attached to the router, or will be."""
        self._core = core
        self._sharing = sharing
        self._views = views
        self._name = name or socket.gethostname()
        self._readiness = readiness
        self._clock = clock
        self._has_haproxy = has_haproxy
        self._started_s = clock()

    async def get_status(self, request: Request) -> Response:
        replicas = await self._replicas()
        core, sharing, now_s = self._core, self._sharing, self._clock()
        missing, degraded = self._readiness.missing(), self._readiness.impaired()
        return json_answer(
            StatusView(
                state="not ready" if missing else "degraded" if degraded else "ready",
                not_ready=missing,
                degraded=degraded,
                edge=core.edge,
                name=sharing.info.name if sharing is not None else self._name,
                version=product_version(),
                started=moment(self._started_s, now_s),
                uptime_s=round(now_s - self._started_s, 3),
                policy=LivePolicy(name=core.pipeline.policy.name, etag=core.policy.etag),
                replicas=replicas,
                in_flight=core.load.total_in_flight,
                held=len(core.holds.held),
                queue=queue_status(core.holds, now_s),
                lookups=sum(core.decision_metrics.lookup_s.counts),
                lookup_errors=core.decision_metrics.lookup_errors,
                fail_open=core.request_metrics.fail_open,
                haproxy=self._haproxy(),
                edges=self._edges(),
            )
        )

    async def _replicas(self) -> ReplicaCounts:
        states: Counter[str] = Counter()
        out: list[ReplicaOut] = []
        for replicas in in_slices(sorted(self._core.replicas, key=lambda replica: replica.id)):
            for replica in replicas:
                if self._core.replicas.get(replica.id) is not replica:
                    continue  # it left meanwhile, and its slot may be another's
                states[replica.state] += 1
                if replica.state != Health.UP and len(out) < OUT_MAX:
                    out.append(
                        ReplicaOut(
                            replica=replica.id,
                            model=replica.model,
                            state=replica.state,
                            since=moment(replica.since_s, self._clock()),
                            why=self._views.why(replica) or "",
                        )
                    )
            await asyncio.sleep(0)
        return ReplicaCounts(total=states.total(), by_state=dict(sorted(states.items())), out=out)

    def _haproxy(self) -> HAProxyStatus | None:
        if not self._has_haproxy:
            return None
        health = self._core.edge_health
        return HAProxyStatus(
            attached=health.haproxy_up,
            error=health.last_error,
            restarts=health.restarts_seen,
            old_workers=health.old_workers,
        )

    def _edges(self) -> list[EdgeBrief]:
        if self._sharing is None:
            return []
        peers = sorted(self._sharing.protocol.peers, key=lambda peer: peer.info.name)
        return [
            EdgeBrief(name=peer.info.name or peer.info.edge, admin_url=peer.info.admin_url, state=peer.state)
            for peer in peers
        ]
