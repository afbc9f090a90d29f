"""Records that cross a process boundary: replica registrations and the saved state. A leaf: engines import it too.

`SCHEMA_VERSION` is written beside everything saved; a reader refuses a later one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec

SCHEMA_VERSION = 1

REPLICA_ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
"""Replica ids are HAProxy server names as they are (configuration manual 2.8, section 2.4 and `add server`)."""

ReplicaId = Annotated[str, msgspec.Meta(pattern=REPLICA_ID_PATTERN)]

ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

MAX_ADAPTERS = 4096
"""LoRA adapters one replica may name."""

HEALTH_PATH_PATTERN = r"^(|/[A-Za-z0-9_./~:@%+-]{0,255})$"
"""What HAProxy takes as a path in its configuration and on its Runtime API."""

MIN_LEASE_S = 1.0
MAX_LEASE_S = 86_400.0


MAX_COUNT = 2**53
"""Counts and milliseconds since 1970: as far as JSON numbers and floats count exactly. Integers of JSON have no bound
of their own, and one beyond 64 bits could neither be kept in a column nor written to the state file."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]

MAX_TOKENS = 2**40
"""Tokens in one number: far beyond any engine, and the sum over 4,096 replicas is still exact in a float."""

MAX_MS = 7 * 86_400_000
"""A week: no request lasts longer. It keeps infinity out, which msgpack can carry."""

MAX_WORD = 128
"""Characters of a state or a revision."""

Word = Annotated[str, msgspec.Meta(max_length=MAX_WORD)]

Url = Annotated[str, msgspec.Meta(max_length=256)]


class Role(StrEnum):
    """What a replica is there for."""

    BOTH = "both"
    """Serves requests whole."""
    PREFILL = "prefill"
    """Computes prompts for decode replicas; no request goes to it."""
    DECODE = "decode"
    """Serves requests, and may leave their prompts to a prefill replica."""


LEG_SUFFIX = ".prefill"


def leg_id(request_id: str) -> str:
    """`x-request-id` of the prefill leg of a request, under which a prefill replica reports it."""
    return request_id if request_id.endswith(LEG_SUFFIX) else request_id + LEG_SUFFIX


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `PUT /v1/replicas/{id}`: one routable engine endpoint."""

    url: Annotated[str, msgspec.Meta(max_length=256, description="Base URL, http://HOST:PORT; HAProxy connects here.")]
    model: Annotated[
        str,
        msgspec.Meta(max_length=256, description="Served model name; empty: its own `/v1/models` is asked."),
    ] = ""
    adapters: Annotated[
        list[ModelName],
        msgspec.Meta(max_length=MAX_ADAPTERS, description="LoRA adapters it serves too, loaded or loadable."),
    ] = []
    health_path: Annotated[
        str,
        msgspec.Meta(
            pattern=HEALTH_PATH_PATTERN,
            description="Where HAProxy checks it, answered with 2xx or 3xx; empty: the edge's `health_path`.",
        ),
    ] = ""
    ttl_s: (
        Annotated[
            float, msgspec.Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S, description="Lease in seconds; absent means permanent.")
        ]
        | None
    ) = None
    role: Annotated[Role, msgspec.Meta(description="both, prefill or decode; see docs/how-to-disaggregate.md.")] = (
        Role.BOTH
    )
    pool: Annotated[
        str, msgspec.Meta(max_length=64, description="The pool it is one of; empty where nobody scales it.")
    ] = ""
    born_ms: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=MAX_COUNT,
            description="When this incarnation of the replica started, in milliseconds since 1970. While a later one "
            "is registered, it is refused with 409; 0 is unknown and never refused.",
        ),
    ] = 0


class SavedReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One registration as saved, with its drain flag. Leases start afresh when loaded."""

    id: ReplicaId
    url: str
    host: str
    """IP address behind the URL, as resolved when it was registered."""
    port: int
    model: str = ""
    ttl_s: float | None = None
    draining: bool = False
    role: Role = Role.BOTH
    pool: str = ""
    adapters: list[str] = []
    health_path: str = ""
    born_ms: int = 0

    @property
    def registration(self) -> Registration:
        """The registration as the replica made it."""
        return Registration(
            url=self.url,
            model=self.model,
            ttl_s=self.ttl_s,
            adapters=self.adapters,
            health_path=self.health_path,
            role=self.role,
            pool=self.pool,
            born_ms=self.born_ms,
        )


class SavedState(msgspec.Struct, frozen=True, kw_only=True):
    """What a router started on the same host needs to take over at once."""

    schema: int = SCHEMA_VERSION
    replicas: list[SavedReplica] = []
    policy: dict[str, Any] | None = None
    """The policy document put live through the admin API, if any."""
    configured_policy: dict[str, Any] | None = None
    """The document that was configured when `policy` was put; a changed configuration wins over a saved policy."""


# What a fleet's driver tells of its pools: body of `PUT /v1/fleets/{name}`.

FLEETS_MAX = 256
"""Fleets one router listens to."""

MEMBERS_MAX = 4096
"""Replicas of one pool, and ranks of one replica: as many as a router may have replicas."""

MAX_ERROR = 65_536
"""Characters of an error as a driver reports it: a traceback of vLLM has some thousands."""

POOLS_MAX = 64
"""Pools of one fleet."""

POOL_NAME_PATTERN = r"^[A-Za-z0-9_.:-]{1,52}$"
"""The numbers of replica and rank take the rest of a replica's id."""

PoolName = Annotated[str, msgspec.Meta(pattern=POOL_NAME_PATTERN)]


class PoolMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One replica of a pool, as its keeper sees it."""

    id: ReplicaId
    state: Annotated[Word, msgspec.Meta(description="starting, ready, dead, draining or stopped")]
    revision: Annotated[Word, msgspec.Meta(description="Of the configuration it was started with.")]
    deaths: Annotated[Count, msgspec.Meta(description="How often it had to be started again.")]
    urls: Annotated[
        list[Url],
        msgspec.Meta(max_length=MEMBERS_MAX, description="Where it serves; one a rank of a data-parallel group."),
    ]


class PoolStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pool at one moment."""

    name: PoolName
    model: Annotated[str, msgspec.Meta(max_length=1024)]
    role: Role
    replicas: Annotated[Count, msgspec.Meta(description="As many are wanted; a data-parallel group counts as one.")]
    replicas_max: Annotated[Count, msgspec.Meta(description="No more may be wanted.")]
    ready: Count
    state: Annotated[Word, msgspec.Meta(description="ready, scaling, rolling, refused or stopping")]
    revision: Annotated[Word, msgspec.Meta(description="Of the configuration that is wanted.")]
    error: Annotated[
        str,
        msgspec.Meta(max_length=MAX_ERROR, description="Why the last configuration was refused; empty if it was not."),
    ] = ""
    members: Annotated[list[PoolMember], msgspec.Meta(max_length=MEMBERS_MAX)] = []


class FleetLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `PUT /v1/fleets/{name}`: who takes orders for these pools, until the lease ends or is renewed."""

    control: Annotated[str, msgspec.Meta(max_length=256, description="Base URL orders go to, http://HOST:PORT.")]
    ttl_s: Annotated[float, msgspec.Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S)]
    pools: Annotated[list[PoolStatus], msgspec.Meta(max_length=POOLS_MAX)]


class ScaleOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/pools/{name}/scale`."""

    replicas: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT, description="At most the pool's `replicas_max`.")]


# What an engine tells of itself: body of `POST /v1/replicas/{id}/events`.

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/msgpack"
"""Media types of a message."""

MAX_EVENTS_BYTES = 8 * 1024 * 1024
"""Of one message: `MAX_EVENT_KEYS` keys in JSON, and room for the rest."""

MAX_EVENT_KEYS = 262_144
"""Keys of one message, stored and evicted each; a replica of 500,000 tokens holds some 1,000."""

MAX_EVENT_REQUESTS = 65_536
"""Requests one message may speak of."""

MAX_KEY = 2**64 - 1

Key = Annotated[int, msgspec.Meta(ge=0)]
Keys = Annotated[list[Key], msgspec.Meta(max_length=MAX_EVENT_KEYS)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]

MAX_BLOCK_TOKENS = 2**20
"""vLLM's blocks have 16 to 2,048 tokens."""


class FirstToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request has its first token."""

    id: Annotated[str, msgspec.Meta(max_length=128, description="Its `x-request-id`, which is the decision id.")]
    prompt_tokens: Tokens = 0
    cached_tokens: Annotated[Tokens, msgspec.Meta(description="Of the prompt, found in the prefix cache.")] = 0
    ttft_ms: Annotated[
        float, msgspec.Meta(ge=0, le=MAX_MS, description="From its arrival at the engine; 0 is unknown.")
    ] = 0.0


class Finished(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request ended, or was aborted: then `prompt_tokens` is 0, and the rest is what it came to until then."""

    id: Annotated[str, msgspec.Meta(max_length=128)]
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    decode_ms: Annotated[
        float, msgspec.Meta(ge=0, le=MAX_MS, description="From its first token to its last; 0 is unknown.")
    ] = 0.0


class EngineLoad(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The engine as it stands."""

    running: Tokens = 0
    """Requests in its batch."""
    waiting: Tokens = 0
    """Requests before it."""
    queued_prefill_tokens: Tokens = 0
    kv_usage: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="Share of KV blocks in use.")] = 0.0


class Handoffs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of the prompts a decode replica was to get from prefill replicas, since its engine started.

    Each paired request counts once under one of the first five; `lost` counts beside `ok`.
    """

    ok: Tokens = 0
    """The prefill replica computed it."""
    failed: Tokens = 0
    """It answered with an error, or the connection broke: computed here."""
    refused: Tokens = 0
    """It could not be connected to: computed here."""
    timeout: Tokens = 0
    """It took too long: computed here."""
    unsuitable: Tokens = 0
    """A request whose KV cannot be handed over (several answers, images): computed here."""
    lost: Tokens = 0
    """The KV could not be fetched after all: computed here again."""
    leg_ms: Tokens = 0
    """Not an outcome: milliseconds that the `ok` took in all, from asking to the answer."""

    @property
    def outcomes(self) -> dict[str, int]:
        """How many, by outcome."""
        counts = msgspec.structs.asdict(self)
        del counts["leg_ms"]
        return counts


def check_keys(keys: Sequence[int]) -> None:
    """Raises ValueError for a key with more than 64 bits, which msgspec has no constraint for."""
    if keys and max(keys) > MAX_KEY:
        raise ValueError("a prefix key has at most 64 bits")


class EngineEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One message of an engine: what changed since the one before, or all of it.

    `epoch` names one life of the engine: another one means that it restarted with an empty cache. `seq` counts messages
    to this router, 1 more each. A message with `snapshot` may come at any number and says all that is resident; its
    `stored` replaces what was known. `since` and `at` count changes, the same for all routers: of two that tell each
    other of the engine, both know who heard more. Requests and load count in any case: they need no order.
    """

    epoch: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    seq: Count
    born_ms: Annotated[Count, msgspec.Meta(description="When this life began, since 1970; 0 is unsaid.")] = 0
    snapshot: bool = False
    since: Annotated[Count, msgspec.Meta(description="Changes of residency in this life before this message.")] = 0
    at: Annotated[Count, msgspec.Meta(description="The same, with this message; 0 is unsaid, the first is 1.")] = 0
    stored: Annotated[Keys, msgspec.Meta(description="Prefix keys that became resident.")] = []
    tokens: Annotated[
        list[Tokens],
        msgspec.Meta(max_length=MAX_EVENT_KEYS, description="Tokens in the prefixes `stored` names; empty is unsaid."),
    ] = []
    evicted: Annotated[Keys, msgspec.Meta(description="Prefix keys that are no longer resident.")] = []
    first: Annotated[list[FirstToken], msgspec.Meta(max_length=MAX_EVENT_REQUESTS)] = []
    finished: Annotated[list[Finished], msgspec.Meta(max_length=MAX_EVENT_REQUESTS)] = []
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
    """What the router says to a message."""

    resync: Annotated[bool, msgspec.Meta(description="Send a snapshot next: a message was lost, or is unknown here.")]
    interval_ms: Annotated[
        int, msgspec.Meta(description="How long to gather what changes: short while the policy goes by it.")
    ]
    feed_port: Annotated[
        int, msgspec.Meta(description="Port beside this one that takes messages over a connection that stays open.")
    ] = 0
    renewed: Annotated[
        bool, msgspec.Meta(description="The message renewed the replica's lease, as a `PUT` of its registration does.")
    ] = False


# The same over a connection that stays open (router/fronts/feed.py, engine/transport.py). Every frame is its length as
# u32, big-endian, and one record in msgpack. An engine says `FeedHello` once, then `EngineEvents`; each frame gets a
# `FeedReply`. An error ends the connection, but for 404: the replica may register later.

FEED_HEAD = struct.Struct(">I")

MAX_HELLO_BYTES = 4096
"""A token and a name; before it was said nobody may send more."""


class FeedHello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who speaks."""

    replica: str
    token: str = ""
    """The admin API's, where that asks for one."""


class FeedReply(msgspec.Struct, frozen=True):
    """Exactly one of the two, or neither to a hello that is welcome."""

    answer: EventsAnswer | None = None
    status: int = 0
    """As the admin API would have answered, 4xx."""
    error: str = ""
