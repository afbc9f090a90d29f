"""Parts of a `ReplicaView`: its health check, its KV, its engine."""

from __future__ import annotations

from typing import Annotated

import msgspec


class LastCheckView(msgspec.Struct, frozen=True, kw_only=True):
    """The last health check of a replica that ended, as HAProxy describes it."""

    at: Annotated[str, msgspec.Meta(description="Time at which the router read the result in HAProxy, RFC 3339.")]
    status: Annotated[
        str,
        msgspec.Meta(description="HAProxy's word for the result: `L7OK`, `L7STS` (wrong status), `L4CON` ..."),
    ]
    code: Annotated[int | None, msgspec.Meta(description="HTTP status of the answer; null: there was none.")]
    detail: Annotated[str, msgspec.Meta(description="Result in words: `Layer7 wrong status, code 404`.")]
    duration_ms: Annotated[int | None, msgspec.Meta(description="Duration of the check; null: unknown.")]


class ReplicaKV(msgspec.Struct, frozen=True, kw_only=True):
    """The KV cache of a replica and the prompts in front of it, as this edge reckons."""

    footprint_tokens: Annotated[
        int, msgspec.Meta(description="KV of the live conversations at home on the replica, in tokens.")
    ]
    capacity_tokens: Annotated[int | None, msgspec.Meta(description="KV that fits, in tokens; null: unknown.")]
    usage: Annotated[
        float | None, msgspec.Meta(description="Ratio of `footprint_tokens` to `capacity_tokens`; null: unknown.")
    ]
    backlog_tokens: Annotated[
        int, msgspec.Meta(description="Uncached prompt tokens of requests that have no first token yet.")
    ]
    backlog_ms: Annotated[float, msgspec.Meta(description="Predicted time to compute `backlog_tokens`.")]


class ReplicaEngine(msgspec.Struct, frozen=True, kw_only=True):
    """Load that the engine of a replica reported last."""

    running: Annotated[int, msgspec.Meta(description="Requests in the engine's batch.")]
    waiting: Annotated[int, msgspec.Meta(description="Requests that wait in the engine.")]
    kv_usage: Annotated[float, msgspec.Meta(description="Share of the engine's KV blocks that are in use.")]
