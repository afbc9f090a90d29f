"""Records that cross a process boundary: replica registrations and the saved state. A leaf: engines import it too.

`SCHEMA_VERSION` is written beside everything saved; a reader refuses a later one.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

SCHEMA_VERSION = 1

REPLICA_ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
"""Replica ids are HAProxy server names as they are (configuration manual 2.8, section 2.4 and `add server`)."""

ReplicaId = Annotated[str, msgspec.Meta(pattern=REPLICA_ID_PATTERN)]

MIN_LEASE_S = 1.0
MAX_LEASE_S = 86_400.0


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `PUT /v1/replicas/{id}`: one routable engine endpoint."""

    url: Annotated[str, msgspec.Meta(max_length=256, description="Base URL, http://HOST:PORT; HAProxy connects here.")]
    model: Annotated[str, msgspec.Meta(max_length=256, description="Served model name; empty serves any.")] = ""
    ttl_s: (
        Annotated[
            float, msgspec.Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S, description="Lease in seconds; absent means permanent.")
        ]
        | None
    ) = None


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


class SavedState(msgspec.Struct, frozen=True, kw_only=True):
    """What a router started on the same host needs to take over at once."""

    schema: int = SCHEMA_VERSION
    replicas: list[SavedReplica] = []
    policy: dict[str, Any] | None = None
    """The policy document put live through the admin API, if any."""
    configured_policy: dict[str, Any] | None = None
    """The document that was configured when `policy` was put; a changed configuration wins over a saved policy."""
