"""Signals that decisions go by, as the admin API shows them to people who debug: prefix index and load."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pointsman.router.fronts.api.paging import Next


class ReplicaIndex(msgspec.Struct, frozen=True, kw_only=True):
    """Knowledge of the prefix index about one replica."""

    replica: str
    keys: Annotated[int, msgspec.Meta(description="Prefix keys that the replica is known to hold.")]
    reports: Annotated[
        bool, msgspec.Meta(description="Whether the replica's engine reports its keys; otherwise they are estimated.")
    ]
    in_step: Annotated[
        bool, msgspec.Meta(description="Whether every report of the engine arrived; false: a snapshot is awaited.")
    ]
    block_tokens: Annotated[int, msgspec.Meta(description="Tokens of one KV block of the engine; 0: unknown.")]


class IndexView(msgspec.Struct, frozen=True, kw_only=True):
    """The prefix index."""

    keys: Annotated[int, msgspec.Meta(description="Prefix keys that at least one replica is known to hold.")]
    limit: Annotated[int, msgspec.Meta(description="Most keys that fit (`limits.max_prefix_keys`).")]
    expected: Annotated[
        int, msgspec.Meta(description="Keys that a decision expects on a replica and no engine has reported yet.")
    ]
    dropped: Annotated[int, msgspec.Meta(description="Keys dropped since the start because the index was full.")]
    bytes: Annotated[int, msgspec.Meta(description="Estimate of the memory that the keys take.")]
    replicas: list[ReplicaIndex]
    next: Next = msgspec.UNSET


class ReplicaLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The load of one replica, column by column, as policies read it."""

    replica: str
    in_flight: Annotated[int, msgspec.Meta(description="Requests in flight: the sum of the four numbers below.")]
    reserved: Annotated[int, msgspec.Meta(description="Requests that this edge placed.")]
    foreign: Annotated[int, msgspec.Meta(description="Requests that HAProxy of this edge placed by itself.")]
    elsewhere: Annotated[int, msgspec.Meta(description="Requests of other edges.")]
    outside: Annotated[int, msgspec.Meta(description="Requests that reached the engine past every edge.")]
    in_flight_tokens: Annotated[int, msgspec.Meta(description="Tokens of the requests in flight.")]
    waiting_tokens: Annotated[int, msgspec.Meta(description="Uncached prompt tokens without a first token.")]
    waiting_elsewhere_tokens: Annotated[
        int, msgspec.Meta(description="Part of `waiting_tokens` that other edges sent.")
    ]
    prefill_ms: Annotated[float, msgspec.Meta(description="Predicted time to compute `waiting_tokens`.")]
    base_ms: Annotated[
        float, msgspec.Meta(description="T(x) = base_ms + x * (per_token_ms + x * per_square_ms): prefill of x tokens.")
    ]
    per_token_ms: Annotated[float, msgspec.Meta(description="Second coefficient of T(x).")]
    per_square_ms: Annotated[float, msgspec.Meta(description="Third coefficient of T(x).")]
    footprint_tokens: Annotated[int, msgspec.Meta(description="KV of the live conversations at home there.")]
    capacity_tokens: Annotated[int | None, msgspec.Meta(description="KV that fits; null: unknown.")]
    fill: Annotated[float | None, msgspec.Meta(description="Ratio of footprint to capacity; null: unknown.")]


class LoadView(msgspec.Struct, frozen=True, kw_only=True):
    """The load of the fleet."""

    in_flight: Annotated[int, msgspec.Meta(description="Requests in flight on all replicas.")]
    held: Annotated[int, msgspec.Meta(description="Requests that wait at this edge until there is room.")]
    replicas: list[ReplicaLoad]
    next: Next = msgspec.UNSET
