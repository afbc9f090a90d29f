"""Bodies of the admin API, in one place so that handlers and OpenAPI cannot differ."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from pointsman.contract.bounds import Tokens
from pointsman.contract.events import check_keys
from pointsman.contract.pools import PoolStatus
from pointsman.contract.registration import Role
from pointsman.policies.decision import Decision


class DemotionView(msgspec.Struct, frozen=True, kw_only=True):
    """Why a replica gets fewer requests than the policy would send it."""

    cause: Annotated[
        str, msgspec.Meta(description="slow, backpressure, or the cause of failures that are too common to eject for.")
    ]
    share: Annotated[float, msgspec.Meta(description="Of the requests it would have got, it keeps this share.")]
    ratio: Annotated[
        float, msgspec.Meta(description="How many times slower than the median it decodes or prefills; 1 if unknown.")
    ]


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as the router sees it."""

    id: str
    url: str
    model: str
    names: Annotated[list[str], msgspec.Meta(description="What requests may ask for here; empty is anything.")]
    adapters: Annotated[list[str], msgspec.Meta(description="Those of the names that are LoRA adapters.")]
    adapters_loaded: Annotated[list[str], msgspec.Meta(description="As told, or by what was sent there.")]
    role: Role
    pool: Annotated[str, msgspec.Meta(description="The pool it is one of, see GET /v1/pools.")]
    state: Annotated[str, msgspec.Meta(description="starting, up, down, draining or ejected")]
    in_flight: Annotated[int, msgspec.Meta(description="Requests, ours and foreign.")]
    in_flight_tokens: int
    ttl_s: float | None
    lease_left_s: Annotated[float | None, msgspec.Meta(description="Seconds until the lease ends; null is permanent.")]
    cause: Annotated[
        str | None,
        msgspec.Meta(description="Of an ejected replica: error, cut, dropped, unreachable, timeout or unanswered."),
    ] = None
    failures: Annotated[int | None, msgspec.Meta(description="Failed answers the ejection follows from.")] = None
    since: Annotated[str | None, msgspec.Meta(description="When it was ejected, RFC 3339.")] = None
    until: Annotated[
        str | None,
        msgspec.Meta(description="From when on one request probes it, RFC 3339; earlier than now: the next."),
    ] = None
    demotion: Annotated[
        DemotionView | None, msgspec.Meta(description="Why it gets fewer requests; null for one that is well.")
    ] = None


class ReplicaList(msgspec.Struct, frozen=True, kw_only=True):
    replicas: list[ReplicaView]


class PoolView(PoolStatus, frozen=True, kw_only=True):
    """A pool, and the fleet whose driver keeps it."""

    fleet: str


class PoolList(msgspec.Struct, frozen=True, kw_only=True):
    pools: list[PoolView]


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """A policy one may put live, with the schema of its own configuration."""

    name: str
    summary: str
    config: Annotated[dict[str, Any], msgspec.Meta(description="JSON schema of its configuration.")]


class PolicyList(msgspec.Struct, frozen=True, kw_only=True):
    active: str
    policies: list[PolicyView]


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to explain: the features a lookup would carry. All optional."""

    path: str = "/v1/chat/completions"
    model: str = ""
    session: str = ""
    tenant: str = ""
    body_bytes: Tokens = 0
    max_tokens: Tokens = 0
    prefix_keys: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0)], ...],
        msgspec.Meta(max_length=128, description="Of the prompt, shortest prefix first; see contract/prefix_keys.py."),
    ] = ()
    policy: Annotated[str, msgspec.Meta(description="As the override header; ignored unless that is enabled.")] = ""

    def __post_init__(self) -> None:
        check_keys(self.prefix_keys)


class CandidateView(msgspec.Struct, frozen=True, kw_only=True):
    """One eligible replica with its signals and its place in the ranking."""

    replica: str
    in_flight: int
    in_flight_tokens: int
    pinned: bool
    adapter_loaded: Annotated[bool, msgspec.Meta(description="Of requests that name a LoRA adapter.")]
    resident_tokens: Annotated[int, msgspec.Meta(description="Leading tokens of the prompt predicted to be cached.")]
    terms: Annotated[dict[str, float], msgspec.Meta(description="What the score is made of, by the policy's words.")]
    rank: int | None
    score: float | None
    reason: str | None


class ExplainAnswer(msgspec.Struct, frozen=True, kw_only=True):
    decision: Decision
    policy: dict[str, Any]
    prompt_tokens: Annotated[int, msgspec.Meta(description="Predicted; 0 for policies that do not look at prompts.")]
    candidates: list[CandidateView]
    excluded: Annotated[dict[str, str], msgspec.Meta(description="Replicas that may not serve it, and why.")]


class OtherEdge(msgspec.Struct, frozen=True, kw_only=True):
    """Another edge as this one knows it."""

    edge: str
    name: str
    admin_url: str
    state: Annotated[str, msgspec.Meta(description="in-step, behind, silent or refused")]
    heard_s: Annotated[float, msgspec.Meta(description="Seconds since its last batch.")]
    position: Annotated[int | None, msgspec.Meta(description="Its last batch that is applied here.")]
    lag: Annotated[int, msgspec.Meta(description="Batches it had made, at its last heartbeat seen, beyond that.")]
    in_flight: Annotated[int, msgspec.Meta(description="Requests it has in flight.")]
    holds: Annotated[int, msgspec.Meta(description="Replicas whose heartbeats come to it.")]
    refused: Annotated[str, msgspec.Meta(description="Why its batches are not understood.")]


class EdgeList(msgspec.Struct, frozen=True, kw_only=True):
    edge: Annotated[str, msgspec.Meta(description="This one's id; empty when it shares nothing.")]
    name: str
    batches: Annotated[int, msgspec.Meta(description="It has told.")]
    store: Annotated[str, msgspec.Meta(description="up, or why the store does not serve; none without one.")]
    in_step: Annotated[bool, msgspec.Meta(description="Nothing that any living edge said is missing.")]
    edges: list[OtherEdge]


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    digest: str


class Digests(msgspec.Struct, frozen=True, kw_only=True):
    """Equal on two edges exactly when they know the same."""

    parts: Annotated[
        dict[str, Digest],
        msgspec.Meta(description="replicas, policy, sessions, conversations, and resident/ID for each replica."),
    ]
