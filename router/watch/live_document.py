"""The document of `GET /v1/live`: an edge at one moment. What is not known is absent, not zero."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

Text = str | UnsetType
Real = float | UnsetType
Whole = int | UnsetType


class LiveRevision(msgspec.Struct, frozen=True, kw_only=True):
    """Revision of the policy set that decides now."""

    name: str
    revision: Annotated[int, Meta(description="Number of the revision, counted from the router's start.")]
    since: Annotated[str, Meta(description="Time at which the revision became live, RFC 3339 in UTC.")]
    author: Annotated[Text, Meta(description="Name of the token, or of the person, that put it live.")] = UNSET
    why: Annotated[Text, Meta(description="Reason that was given for the change.")] = UNSET


class LiveRollout(msgspec.Struct, frozen=True, kw_only=True):
    """Policy that decides a share of new sessions."""

    name: str
    share: Annotated[float, Meta(description="Share of new sessions that the policy decides.")]


class LiveFirstTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Times to first token of one model, in milliseconds."""

    p50: float
    p99: float
    count: Annotated[int, Meta(description="Requests behind the percentiles.")]


class LiveHits(msgspec.Struct, frozen=True, kw_only=True):
    """Use of the prefix cache, over requests whose first token an engine reported; counts are prompt tokens.

    `predicted`, `best`, `share_best` and `share_of_best` are of the requests that a policy with KV signals decided, and
    absent without any.
    """

    prompt: int
    actual: Annotated[int, Meta(description="Tokens that engines found in their caches.")]
    predicted: Annotated[Whole, Meta(description="Tokens that the chosen replicas were predicted to hold.")] = UNSET
    best: Annotated[
        Whole, Meta(description="Tokens that could be had: predicted for the candidate with most, or found if more.")
    ] = UNSET
    share: Annotated[float, Meta(description="Hit rate: `actual` / `prompt`.")]
    share_best: Annotated[Real, Meta(description="Hit rate that could be had: `best` / prompt tokens.")] = UNSET
    share_of_best: Annotated[Real, Meta(description="Part of `best` that was found.")] = UNSET


class LiveRegret(msgspec.Struct, frozen=True, kw_only=True):
    """Cache that decisions gave up for shorter queues, as means over decisions by KV."""

    tokens: Annotated[
        float, Meta(description="Cached tokens of the candidate with most, less those of the chosen one.")
    ]
    ms: Annotated[float, Meta(description="Predicted time to compute those tokens, in milliseconds.")]


class LiveConversations(msgspec.Struct, frozen=True, kw_only=True):
    live: Annotated[int, Meta(description="Conversations whose KV is expected to be used again.")]
    known: Annotated[int, Meta(description="Conversations in memory.")]


class LiveEdge(msgspec.Struct, frozen=True, kw_only=True):
    """Another edge."""

    name: str
    state: Annotated[str, Meta(description="in-step, behind, silent or refused.")]
    admin_url: Annotated[str, Meta(description="Base URL of its admin API, and address of its page.")]


class LiveReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One replica."""

    id: str
    state: Annotated[str, Meta(description="starting, up, down, draining or ejected.")]
    model: Annotated[Text, Meta(description="Model that the replica serves; absent while unknown.")] = UNSET
    role: Annotated[Text, Meta(description="prefill or decode; absent for a replica that does both.")] = UNSET
    why: Annotated[Text, Meta(description="Why the replica gets no requests, or fewer, in a few words.")] = UNSET
    in_flight: Annotated[int, Meta(description="Requests in flight, those of other edges included.")]
    running: Annotated[Whole, Meta(description="Requests in the engine's batch, as it reported.")] = UNSET
    waiting: Annotated[Whole, Meta(description="Requests that wait in the engine, as it reported.")] = UNSET
    kv_used: Annotated[Real, Meta(description="Share of the engine's KV blocks in use, as it reported.")] = UNSET
    kv_live: Annotated[
        Real, Meta(description="Share of the KV capacity that live conversations use, as this edge reckons.")
    ] = UNSET
    backlog_ms: Annotated[float, Meta(description="Predicted time for the prompts without a first token.")]
    hit_share: Annotated[
        Real, Meta(description="Share of prompt tokens found in the prefix cache in the last one to two minutes.")
    ] = UNSET


class LiveDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One edge at one moment.

    Rates are of the last 5 seconds; `ttft_ms`, `hit` and `regret` are of the last `over_s` seconds, at
    most 60 and at most 2,048 requests.
    """

    at: Annotated[str, Meta(description="Time, RFC 3339 in UTC.")]
    edge: Annotated[Text, Meta(description="Name of this edge, where edges share state.")] = UNSET
    not_ready: Annotated[list[str], Meta(description="Why this edge is not ready, as in `/readyz`; empty: it is.")]
    degraded: Annotated[list[str], Meta(description="Parts that work badly, as in `/readyz`.")]
    policy: LiveRevision
    rollout: Annotated[
        LiveRollout | UnsetType, Meta(description="Rollout that is going on; absent while there is none.")
    ] = UNSET
    shadow: Annotated[
        Text, Meta(description="Name of the policy that decides in the shadow; absent while there is none.")
    ] = UNSET
    over_s: Annotated[float, Meta(description="Seconds that the records of requests reach back; 0 without records.")]
    requests_per_s: Annotated[
        Real, Meta(description="Requests decided or failed open; absent on a router that keeps no records.")
    ] = UNSET
    by_reason: Annotated[dict[str, float], Meta(description="Requests per second by reason of the decision.")]
    fail_open_per_s: Annotated[Real, Meta(description="Requests that HAProxy placed without the router.")] = UNSET
    in_flight: int
    ttft_ms: Annotated[dict[str, LiveFirstTokens], Meta(description="Times to first token by model.")]
    hit: LiveHits | UnsetType = UNSET
    regret: LiveRegret | UnsetType = UNSET
    held: Annotated[int, Meta(description="Requests held at the edge until there is KV for them.")]
    conversations: LiveConversations
    edges: Annotated[list[LiveEdge], Meta(description="The other edges, by name.")]
    replicas: Annotated[list[LiveReplica], Meta(description="All replicas, by id.")]
