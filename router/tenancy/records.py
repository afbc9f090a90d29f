"""Documents about who shares the fleet: tenants, their API keys, and the limits of both. Plain values.

A document is what `pointsman.router.documents` keeps under `tenant/NAME` or `key/ID`, and what the admin API shows of
it. A field of a later version is passed over, so that edges of two versions can share documents.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from pointsman.policies.request import Priority
from pointsman.router.errors import RouterError

TENANT_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
"""What goes into HAProxy's map, into headers and labels; no blank, comma or quote."""

KEY_ID_PATTERN = r"^[a-z0-9]{12}$"

MAX_NOTE = 256
MAX_MODELS = 64
MAX_POOLS = 64
MAX_COUNT = 10**15
"""Largest limit: a float64 still counts single tokens there."""

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
TenantName = Annotated[str, Meta(pattern=TENANT_PATTERN)]
KeyId = Annotated[str, Meta(pattern=KEY_ID_PATTERN)]
KeyHash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
PoolName = Annotated[str, Meta(min_length=1, max_length=64)]

DEFAULT_WEIGHT = 1.0

T = TypeVar("T")


class DocumentError(RouterError, ValueError):
    """A document of another edge, or of a file, is not what its name says."""


def read_document(kind: str, name: str, body: dict[str, Any], into: type[T], *, named: str = "name") -> T:
    """Return the content of the document `KIND/NAME` as a value.

    named: field of the value that has its name. Raises msgspec.ValidationError for content that describes no such
    value, DocumentError for one of another name.
    """
    found = msgspec.convert(body, into)
    own = getattr(found, named)
    if own != name:
        raise DocumentError(f"the document {kind}/{name} is of the {kind} {own}")
    return found


PriorityName = Annotated[str, Meta(pattern=f"^({'|'.join(priority.label for priority in Priority)})$")]


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bounds of what a tenant or a key may use; None: no bound."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    """Prompt and output tokens; see `cached_weight`."""
    concurrent_requests: Count | None = None
    tokens_per_day: Count | None = None
    """From midnight to midnight, UTC."""
    tokens_per_month: Count | None = None
    """From the first of a calendar month, UTC."""
    cached_weight: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Weight of a prompt token that an engine found cached, for all limits in tokens."""

    @property
    def bounds_anything(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__struct_fields__ if name != "cached_weight")


NO_LIMITS = Limits()


class Tenant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tenant: a share of the fleet. A tenant without a document has the defaults."""

    name: TenantName
    limits: Limits = NO_LIMITS
    """Of all its keys together."""
    model_limits: Annotated[dict[ModelName, Limits], Meta(max_length=MAX_MODELS)] = {}
    """Of all its keys together, by model; beside `limits`."""
    weight: Annotated[float, Meta(gt=0, le=1000)] = DEFAULT_WEIGHT
    """Share of the tokens served while requests wait, relative to other tenants of its priority class."""
    priority: PriorityName = "normal"
    """Class of its requests that name none."""
    max_priority: PriorityName = "normal"
    """Highest class that its requests may name."""
    isolated: bool = False
    """Whether cached prefixes and sessions of the tenant are kept apart from those of others."""
    reserved_pools: Annotated[tuple[PoolName, ...], Meta(max_length=MAX_POOLS)] = ()
    """Pools that serve this tenant, and others only where those list them too."""
    excluded_pools: Annotated[tuple[PoolName, ...], Meta(max_length=MAX_POOLS)] = ()
    """Pools that do not serve this tenant."""
    note: Annotated[str, Meta(max_length=MAX_NOTE)] = ""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An API key without its secret."""

    id: KeyId
    tenant: TenantName
    hash: KeyHash
    """SHA-256 of the key, in hexadecimal digits."""
    created_s: float
    """Seconds since 1970, as are all times here."""
    previous_hash: KeyHash | None = None
    """Of the secret before it was rotated; in force too until `previous_until_s`."""
    previous_until_s: float = 0.0
    expires_s: float | None = None
    revoked_s: float | None = None
    models: Annotated[tuple[ModelName, ...], Meta(max_length=MAX_MODELS)] = ()
    """Models that the key may ask for; empty: all."""
    limits: Limits = NO_LIMITS
    model_limits: Annotated[dict[ModelName, Limits], Meta(max_length=MAX_MODELS)] = {}
    note: Annotated[str, Meta(max_length=MAX_NOTE)] = ""

    def in_force(self, now_s: float) -> bool:
        """Whether requests may use the key at a time, in seconds since 1970."""
        return self.revoked_s is None and (self.expires_s is None or now_s < self.expires_s)

    def hashes(self, now_s: float) -> tuple[str, ...]:
        """Hashes of the secrets that requests may use at a time."""
        if not self.in_force(now_s):
            return ()
        if self.previous_hash is not None and now_s < self.previous_until_s:
            return self.hash, self.previous_hash
        return (self.hash,)

    def next_change_s(self, now_s: float) -> float | None:
        """When a secret of the key ends by itself; None where none does."""
        if not self.in_force(now_s):
            return None
        ends = [self.expires_s] if self.expires_s is not None else []
        if self.previous_hash is not None and now_s < self.previous_until_s:
            ends.append(self.previous_until_s)
        return min(ends, default=None)
