"""API keys and tenants in the admin API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pointsman.router.fronts.api.paging import Next
from pointsman.router.tenancy.records import (
    DEFAULT_WEIGHT,
    MAX_MODELS,
    MAX_NOTE,
    MAX_POOLS,
    Count,
    ModelName,
    PoolName,
    PriorityName,
    TenantName,
)

KeyState = Literal["in-force", "expired", "revoked"]
Note = Annotated[str, Meta(max_length=MAX_NOTE, description="Free text for people.")]
Models = Annotated[
    list[ModelName], Meta(max_length=MAX_MODELS, description="Models that the key may ask for; empty: all.")
]
Expires = Annotated[
    Annotated[datetime, Meta(tz=True)] | None,
    Meta(description="Time from which the key is refused, RFC 3339; null: never."),
]


class LimitsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds of use; null: no bound."""

    requests_per_minute: Annotated[Count | None, Meta(description="Requests a minute.")] = None
    tokens_per_minute: Annotated[Count | None, Meta(description="Prompt and output tokens a minute.")] = None
    concurrent_requests: Annotated[Count | None, Meta(description="Requests at one time.")] = None
    tokens_per_day: Annotated[Count | None, Meta(description="Tokens from midnight to midnight, UTC.")] = None
    tokens_per_month: Annotated[Count | None, Meta(description="Tokens of a calendar month, UTC.")] = None
    cached_weight: Annotated[
        float, Meta(ge=0, le=1, description="Weight of a cached prompt token in all limits of tokens.")
    ] = 1.0


ModelLimits = Annotated[
    dict[ModelName, LimitsBody],
    Meta(max_length=MAX_MODELS, description="Bounds by model, beside those of all models together."),
]


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Part of a key that may be changed."""

    expires: Expires = None
    models: Models = []
    limits: LimitsBody = LimitsBody()
    model_limits: ModelLimits = {}
    note: Note = ""


class NewKey(KeySettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key to make."""

    tenant: Annotated[TenantName, Meta(description="Tenant that the key's requests are of.")]


class KeyRotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the rotation of a key."""

    grace_s: Annotated[
        float, Meta(ge=0, le=30 * 86_400, description="Seconds for which the old secret stays in force.")
    ] = 0.0


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it stands."""

    id: Annotated[str, Meta(description="Id of the key: no secret.")]
    key: Annotated[
        str | UnsetType,
        Meta(description="The secret, in the answers that make one and in no other: only its hash is kept."),
    ] = UNSET
    tenant: str
    state: Annotated[KeyState, Meta(description="Whether requests may use the key.")]
    created: Annotated[str, Meta(description="RFC 3339, as are all times.")]
    expires: Annotated[str | None, Meta(description="Time from which the key is refused; null: never.")]
    revoked: Annotated[str | None, Meta(description="When the key was revoked; null: it was not.")]
    old_secret_until: Annotated[
        str | None, Meta(description="Until when the secret before the last rotation is in force; null: it is not.")
    ]
    models: Models
    limits: LimitsBody
    model_limits: ModelLimits
    note: Note
    required: Annotated[
        bool | UnsetType,
        Meta(description="Whether this edge's HAProxy refuses requests without a key; with a new secret alone."),
    ] = UNSET


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    keys: Annotated[list[KeyView], Meta(description="Keys, by id.")]
    next: Next = UNSET


class TenantSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tenant's share of the fleet."""

    limits: LimitsBody = LimitsBody()
    model_limits: ModelLimits = {}
    weight: Annotated[
        float,
        Meta(gt=0, le=1000, description="Share of the tokens served while requests wait, relative to other tenants."),
    ] = DEFAULT_WEIGHT
    priority: Annotated[PriorityName, Meta(description="Priority class of requests that name none.")] = "normal"
    max_priority: Annotated[PriorityName, Meta(description="Highest class that requests may name.")] = "normal"
    isolated: Annotated[
        bool, Meta(description="Whether cached prefixes and sessions are kept apart from those of other tenants.")
    ] = False
    reserved_pools: Annotated[
        list[PoolName],
        Meta(max_length=MAX_POOLS, description="Pools that serve this tenant and no other, but those that list them."),
    ] = []
    excluded_pools: Annotated[
        list[PoolName], Meta(max_length=MAX_POOLS, description="Pools that do not serve this tenant.")
    ] = []
    note: Note = ""


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as it stands; its settings are those of `TenantSettings`."""

    name: str
    keys: Annotated[int, Meta(description="Keys of the tenant that are in force.")]
    weight: float
    priority: str
    max_priority: str
    limits: LimitsBody
    model_limits: ModelLimits
    isolated: bool
    reserved_pools: list[str]
    excluded_pools: list[str]
    note: str


class TenantList(msgspec.Struct, frozen=True, kw_only=True):
    tenants: Annotated[list[TenantView], Meta(description="Tenants that have settings or keys, by name.")]
    next: Next = UNSET
