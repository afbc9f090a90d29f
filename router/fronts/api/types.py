"""Bodies of the admin API, in one place so that handlers and OpenAPI cannot differ."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET

from pointsman.contract.pools import PoolStatus
from pointsman.contract.registration import Role
from pointsman.router.fronts.api.paging import Next
from pointsman.router.fronts.api.replica_types import LastCheckView, ReplicaEngine, ReplicaKV


class DemotionView(msgspec.Struct, frozen=True, kw_only=True):
    """The reason for a reduced share of requests."""

    cause: Annotated[
        str,
        msgspec.Meta(
            description="slow, backpressure, or the cause of failures when too many replicas fail for an ejection."
        ),
    ]
    share: Annotated[float, msgspec.Meta(description="Share of its usual requests that the replica keeps.")]
    ratio: Annotated[
        float, msgspec.Meta(description="Ratio of its decode or prefill time to the median of the model; 1 if unknown.")
    ]


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as the router sees it."""

    id: str
    url: str
    model: str
    names: Annotated[list[str], msgspec.Meta(description="Model names that the replica serves; empty: any.")]
    adapters: Annotated[list[str], msgspec.Meta(description="Names that are LoRA adapters.")]
    adapters_loaded: Annotated[
        list[str],
        msgspec.Meta(description="LoRA adapters that are loaded, as the engine reported or as decisions imply."),
    ]
    role: Role
    pool: Annotated[str, msgspec.Meta(description="Pool of the replica, see GET /v1/pools; empty: none.")]
    state: Annotated[str, msgspec.Meta(description="starting, up, down, draining or ejected")]
    since: Annotated[
        str, msgspec.Meta(description="Time at which the present state began, as this edge saw it, RFC 3339.")
    ]
    why: Annotated[
        str | None, msgspec.Meta(description="Why the replica gets no requests, in one sentence; null: it is up.")
    ]
    last_check: Annotated[
        LastCheckView | None, msgspec.Meta(description="HAProxy's last health check; null: none has ended.")
    ]
    in_flight: Annotated[int, msgspec.Meta(description="Requests in flight, including those that no decision placed.")]
    in_flight_tokens: int
    kv: ReplicaKV
    engine: Annotated[ReplicaEngine | None, msgspec.Meta(description="Load that the engine reported; null: none.")]
    hit_rate: Annotated[
        float | None,
        msgspec.Meta(
            description="Share of the prompt tokens of the last one to two minutes that the engine found cached; null: "
            "it reported no prompt."
        ),
    ]
    hit_rate_predicted: Annotated[
        float | None, msgspec.Meta(description="Share of the same tokens that was predicted to be cached.")
    ]
    keys: Annotated[int, msgspec.Meta(description="Prefix keys that the replica holds, as the index knows.")]
    sessions: Annotated[
        int | None,
        msgspec.Meta(
            description="Sessions at home on the replica: pinned ones where the live policy pins sessions, else live "
            "and dormant conversations. Null: pins were not counted for an answer to a change."
        ),
    ]
    ttl_s: float | None
    lease_left_s: Annotated[float | None, msgspec.Meta(description="Seconds until the lease ends; null: permanent.")]
    cause: Annotated[
        str | None,
        msgspec.Meta(description="Cause of the ejection: error, cut, dropped, unreachable, timeout or unanswered."),
    ] = None
    failures: Annotated[int | None, msgspec.Meta(description="Failed answers that caused the ejection.")] = None
    until: Annotated[
        str | None,
        msgspec.Meta(description="Time from which the next request probes the replica, RFC 3339."),
    ] = None
    demotion: Annotated[
        DemotionView | None, msgspec.Meta(description="Reason for a reduced share of requests; null: none.")
    ] = None


class ReplicaList(msgspec.Struct, frozen=True, kw_only=True):
    replicas: list[ReplicaView]
    next: Next = UNSET


class PoolView(PoolStatus, frozen=True, kw_only=True):
    """A pool, and the fleet whose driver runs it."""

    fleet: str


class PoolList(msgspec.Struct, frozen=True, kw_only=True):
    pools: list[PoolView]
    next: Next = UNSET


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """An installed policy with the schema of its configuration."""

    name: str
    summary: str
    config: Annotated[dict[str, Any], msgspec.Meta(description="JSON schema of the policy's configuration.")]


class PolicyList(msgspec.Struct, frozen=True, kw_only=True):
    active: str
    policies: list[PolicyView]


class OtherEdge(msgspec.Struct, frozen=True, kw_only=True):
    """Another edge as this one knows it."""

    edge: str
    name: str
    admin_url: str
    state: Annotated[str, msgspec.Meta(description="in-step, behind, silent or refused")]
    heard_s: Annotated[float, msgspec.Meta(description="Seconds since the last batch of the edge.")]
    position: Annotated[int | None, msgspec.Meta(description="Number of its last batch that was applied here.")]
    lag: Annotated[
        int, msgspec.Meta(description="Batches that it had published beyond `position`, at its last heartbeat.")
    ]
    in_flight: Annotated[int, msgspec.Meta(description="Requests in flight on that edge.")]
    holds: Annotated[int, msgspec.Meta(description="Replicas whose heartbeats reach that edge.")]
    refused: Annotated[
        str, msgspec.Meta(description="Why the batches of that edge are not understood; empty: they are.")
    ]


class EdgeList(msgspec.Struct, frozen=True, kw_only=True):
    edge: Annotated[str, msgspec.Meta(description="Id of this edge; empty: nothing is shared.")]
    name: str
    batches: Annotated[int, msgspec.Meta(description="Batches that this edge has published.")]
    store: Annotated[str, msgspec.Meta(description="up, the cause of a failure, or none without a store.")]
    in_step: Annotated[bool, msgspec.Meta(description="Whether every update of the running edges was received.")]
    edges: list[OtherEdge]
    next: Next = UNSET


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    digest: str


class Digests(msgspec.Struct, frozen=True, kw_only=True):
    """Digests that are equal on two edges exactly when both know the same."""

    parts: Annotated[
        dict[str, Digest],
        msgspec.Meta(
            description="Digests of replicas, policy, sessions, conversations, and of resident/ID for each replica."
        ),
    ]
