"""Event messages of engines: body of `POST /v1/replicas/{id}/events`, and the answer to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from pointsman.contract.bounds import MAX_MS, Count, Tokens
from pointsman.contract.registration import MAX_ADAPTERS, ModelName

JSON_TYPE = "application/json"

MSGPACK_TYPE = "application/msgpack"
"""Media types of a message."""

MAX_EVENTS_BYTES = 8 * 1024 * 1024
"""Of one message: `MAX_EVENT_KEYS` keys in JSON, and room for the rest."""

MAX_EVENT_KEYS = 262_144
"""Keys of one message, stored and evicted each; a replica of 500,000 tokens holds some 1,000."""

MAX_EVENT_REQUESTS = 65_536
"""Requests one message may speak of."""

MAX_EDGES = 64
"""Edges one engine reports to: what each of them costs it is a message every few milliseconds."""

MAX_KEY = 2**64 - 1

Key = Annotated[int, msgspec.Meta(ge=0)]

Keys = Annotated[list[Key], msgspec.Meta(max_length=MAX_EVENT_KEYS)]

MAX_BLOCK_TOKENS = 2**20
"""vLLM's blocks have 16 to 2,048 tokens."""


class FirstToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request has its first token."""

    id: Annotated[str, msgspec.Meta(max_length=128, description="`x-request-id` of the request.")]
    prompt_tokens: Tokens = 0
    cached_tokens: Annotated[Tokens, msgspec.Meta(description="Prompt tokens found in the prefix cache.")] = 0
    ttft_ms: Annotated[
        float,
        msgspec.Meta(ge=0, le=MAX_MS, description="Time from arrival at the engine to the first token; 0: unknown."),
    ] = 0.0


class Finished(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request ended, or was aborted: then `prompt_tokens` is 0, and the rest is what it came to until then."""

    id: Annotated[str, msgspec.Meta(max_length=128)]
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    decode_ms: Annotated[
        float, msgspec.Meta(ge=0, le=MAX_MS, description="Time from the first token to the last; 0: unknown.")
    ] = 0.0
    reason: Annotated[
        str,
        msgspec.Meta(
            max_length=16, description="Why generation ended, in vLLM's words: stop, length or abort; empty: unsaid."
        ),
    ] = ""


class RequestUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The tokens that one engine spent on one request, whole or aborted: sent when the request left the engine.

    A request that several engines worked on has a report of each, and the tokens of all of them count. So a decode
    replica reports no prompt that came from a prefill replica, and a prefill replica reports no output.
    """

    id: Annotated[str, msgspec.Meta(max_length=128, description="`x-request-id` of the request.")]
    prompt_tokens: Annotated[
        Tokens, msgspec.Meta(description="Tokens of all its prompts that were computed or found here; 0 before that.")
    ] = 0
    cached_tokens: Annotated[Tokens, msgspec.Meta(description="Prompt tokens found in the prefix cache.")] = 0
    output_tokens: Annotated[Tokens, msgspec.Meta(description="Tokens of all its answers.")] = 0
    ms: Annotated[float, msgspec.Meta(ge=0, le=MAX_MS, description="Time in the engine; 0 in a prefill replica.")] = 0.0
    adapter: Annotated[str, msgspec.Meta(max_length=256, description="LoRA adapter that it ran with; or empty.")] = ""


class EngineLoad(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The engine as it stands."""

    running: Tokens = 0
    """Requests in its batch."""
    waiting: Tokens = 0
    """Requests before it."""
    queued_prefill_tokens: Tokens = 0
    kv_usage: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="Share of KV blocks in use.")] = 0.0


class Handoffs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Outcomes of a decode replica's prefill requests, since its engine started.

    Each paired request counts once under one of the first five; `lost` counts beside `ok`.
    """

    ok: Tokens = 0
    """The prefill replica computed it."""
    failed: Tokens = 0
    """The prefill replica answered with an error, or the connection broke: computed here."""
    refused: Tokens = 0
    """The prefill replica could not be connected to: computed here."""
    timeout: Tokens = 0
    """The prefill replica took too long: computed here."""
    unsuitable: Tokens = 0
    """A request whose KV cannot be handed over (several answers, images): computed here."""
    lost: Tokens = 0
    """The KV could not be fetched after all: computed here again."""
    leg_ms: Tokens = 0
    """Not an outcome: milliseconds that the `ok` took in all, from asking to the answer."""

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of prefill requests by outcome."""
        counts = msgspec.structs.asdict(self)
        del counts["leg_ms"]
        return counts


def check_keys(keys: Sequence[int]) -> None:
    """Raises ValueError for a key with more than 64 bits, which msgspec has no constraint for."""
    if keys and max(keys) > MAX_KEY:
        raise ValueError("a prefix key has at most 64 bits")


class EngineEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One message of an engine: what changed since the one before, or all of it.

    `epoch` names one incarnation of the engine: another one means that it restarted with an empty cache. `seq` counts
    messages to this router, 1 more each. A message with `snapshot` may come at any number and says all that is
    resident; its `stored` replaces what was known. `since` and `at` count changes of residency, the same for all
    routers. Requests and load count in any case: they need no order. Reports of usage are numbered in each incarnation,
    and are sent until the router has kept them.
    """

    epoch: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    seq: Count
    born_ms: Annotated[Count, msgspec.Meta(description="When this life began, since 1970; 0 is unsaid.")] = 0
    snapshot: bool = False
    since: Annotated[Count, msgspec.Meta(description="Changes of residency in this life before this message.")] = 0
    at: Annotated[
        Count, msgspec.Meta(description="Changes of residency with this message; 0: not stated, the first is 1.")
    ] = 0
    stored: Annotated[Keys, msgspec.Meta(description="Prefix keys that became resident.")] = []
    tokens: Annotated[
        list[Tokens],
        msgspec.Meta(max_length=MAX_EVENT_KEYS, description="Tokens in the prefixes `stored` names; empty is unsaid."),
    ] = []
    evicted: Annotated[Keys, msgspec.Meta(description="Prefix keys that are no longer resident.")] = []
    first: Annotated[list[FirstToken], msgspec.Meta(max_length=MAX_EVENT_REQUESTS)] = []
    finished: Annotated[list[Finished], msgspec.Meta(max_length=MAX_EVENT_REQUESTS)] = []
    usage: Annotated[
        list[RequestUsage],
        msgspec.Meta(
            max_length=MAX_EVENT_REQUESTS,
            description="Usage of requests that left the engine; only for a router whose answers have `usage_kept`.",
        ),
    ] = []
    usage_from: Annotated[Count, msgspec.Meta(description="Number of the first of `usage`; the first ever is 0.")] = 0
    load: EngineLoad | None = None
    capacity_tokens: Annotated[Tokens, msgspec.Meta(description="KV the engine has room for; 0 is unsaid.")] = 0
    block_tokens: Annotated[
        int, msgspec.Meta(ge=0, le=MAX_BLOCK_TOKENS, description="KV is cached in blocks of so many; 0 is unsaid.")
    ] = 0
    handoffs: Annotated[Handoffs | None, msgspec.Meta(description="Of a decode replica: totals so far.")] = None
    adapters: (
        Annotated[
            list[ModelName],
            msgspec.Meta(max_length=MAX_ADAPTERS, description="LoRA adapters loaded at this moment; null is unsaid."),
        ]
        | None
    ) = None
    adapter_slots: Annotated[
        int, msgspec.Meta(ge=0, le=MAX_ADAPTERS, description="Adapters it holds at once; 0 is unsaid.")
    ] = 0

    def __post_init__(self) -> None:
        check_keys(self.stored)
        check_keys(self.evicted)


class EventsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The router's answer to a message."""

    resync: Annotated[
        bool,
        msgspec.Meta(
            description="Whether the next message must be a snapshot, because a message was lost or is unknown."
        ),
    ]
    interval_ms: Annotated[
        int,
        msgspec.Meta(
            description="Batching interval for further messages; short while the live policy uses KV signals."
        ),
    ]
    feed_port: Annotated[
        int, msgspec.Meta(description="Port on the same host that accepts messages over a persistent connection.")
    ] = 0
    usage_kept: Annotated[
        int,
        msgspec.Meta(
            description="Reports of usage of this incarnation that the router has kept: those from this number on are "
            "sent again after a lost connection. -1: the router reads none."
        ),
    ] = -1
    renewed: Annotated[bool, msgspec.Meta(description="Whether the message renewed the replica's lease.")] = False
    edge: Annotated[
        str, msgspec.Meta(description="Id of this edge, where it shares the fleet's state with others.")
    ] = ""
    edges: Annotated[
        dict[str, str],
        msgspec.Meta(
            max_length=MAX_EDGES,
            description="The other edges: by id, the base URL of the admin API. An engine reports to each of them too.",
        ),
    ] = {}
