"""The state of one edge in one document."""

from __future__ import annotations

from typing import Annotated

import msgspec


class LivePolicy(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    etag: Annotated[str, msgspec.Meta(description="Version of the policy, as in the ETag of GET /v1/policy.")]


class ReplicaOut(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that gets no requests."""

    replica: str
    model: str
    state: Annotated[str, msgspec.Meta(description="starting, down, draining or ejected")]
    since: Annotated[str, msgspec.Meta(description="Time at which that state began, RFC 3339.")]
    why: Annotated[str, msgspec.Meta(description="Why the replica gets no requests, in one sentence.")]


class ReplicaCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The replicas of the fleet by state, and those that are out."""

    total: int
    by_state: Annotated[dict[str, int], msgspec.Meta(description="Number of replicas by state.")]
    out: Annotated[
        list[ReplicaOut], msgspec.Meta(description="Replicas that are not up, the first 100 by id, with their reasons.")
    ]


class EdgeBrief(msgspec.Struct, frozen=True, kw_only=True):
    """Another edge that shares state with this one."""

    name: str
    admin_url: str
    state: Annotated[str, msgspec.Meta(description="in-step, behind, silent or refused")]


class HAProxyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The HAProxy of this edge, as the router sees it."""

    attached: Annotated[bool, msgspec.Meta(description="Whether HAProxy's Runtime API answered the last call.")]
    error: Annotated[str, msgspec.Meta(description="Error of the last call of the Runtime API; empty: there was none.")]
    restarts: Annotated[int, msgspec.Meta(description="Restarts and reloads since the router started.")]
    old_workers: Annotated[int, msgspec.Meta(description="Workers that finish their streams after a reload.")]


class HeldShare(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one priority class and tenant that wait."""

    priority: Annotated[str, msgspec.Meta(description="batch, low, normal, high or critical")]
    tenant: Annotated[str, msgspec.Meta(description="Tenant of the API key; empty without one.")]
    requests: int


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that wait at this edge, by priority class and tenant."""

    by_priority: Annotated[
        dict[str, int], msgspec.Meta(description="Number of requests by class, the highest class first.")
    ]
    shares: Annotated[
        list[HeldShare], msgspec.Meta(description="Classes of tenants with the most requests, 20 of them at most.")
    ]
    others: Annotated[int, msgspec.Meta(description="Classes of tenants that wait beyond those of `shares`.")]
    longest_s: Annotated[float, msgspec.Meta(description="Seconds for which the oldest of the requests has waited.")]
    body_bytes: Annotated[int, msgspec.Meta(description="Bytes of their bodies that HAProxy keeps, at most.")]


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an edge is well, and what is not."""

    state: Annotated[
        str,
        msgspec.Meta(
            description="`ready`; `degraded`: requests are served, and `degraded` says what works less well; "
            "`not ready`: `not_ready` says what is missing."
        ),
    ]
    not_ready: Annotated[list[str], msgspec.Meta(description="Missing conditions, as in /readyz.")]
    degraded: Annotated[list[str], msgspec.Meta(description="Degraded parts, as in /readyz.")]
    edge: Annotated[str, msgspec.Meta(description="Id of this edge; empty: nothing is shared.")]
    name: Annotated[str, msgspec.Meta(description="Display name of this edge (`shared.edge`), else its host's.")]
    version: str
    started: Annotated[str, msgspec.Meta(description="Start of the router, RFC 3339.")]
    uptime_s: Annotated[float, msgspec.Meta(description="Seconds since the router started.")]
    policy: LivePolicy
    replicas: ReplicaCounts
    in_flight: Annotated[int, msgspec.Meta(description="Requests in flight on all replicas.")]
    held: Annotated[int, msgspec.Meta(description="Requests that wait at this edge until there is room.")]
    queue: Annotated[QueueStatus | None, msgspec.Meta(description="Null: no request waits.")]
    lookups: Annotated[int, msgspec.Meta(description="Lookups answered since the router started.")]
    lookup_errors: Annotated[int, msgspec.Meta(description="Lookups that met an error of the router's own.")]
    fail_open: Annotated[
        int, msgspec.Meta(description="Requests that HAProxy placed alone since the router started: it had no answer.")
    ]
    haproxy: Annotated[HAProxyStatus | None, msgspec.Meta(description="Null: no HAProxy is attached to this router.")]
    edges: Annotated[list[EdgeBrief], msgspec.Meta(description="Other edges that share state with this one.")]
