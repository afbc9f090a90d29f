"""Sessions and conversations in the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pointsman.contract.registration import ReplicaId
from pointsman.router.fronts.api.paging import Next


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A session: the replica that it lives on, and what it keeps there."""

    key: Annotated[
        str,
        msgspec.Meta(
            description="Session id of the client. `#` and 16 hexadecimal digits: a conversation without a session id, "
            "which is named by a key of its prompt and gets another name with its next request."
        ),
    ]
    tenant: Annotated[str, msgspec.Meta(description="Tenant of the session where tenants are isolated; else empty.")]
    replica: Annotated[
        str,
        msgspec.Meta(
            description="Replica that the session lives on: where it was moved to, where it is pinned, or where its KV "
            "is."
        ),
    ]
    state: Annotated[
        str,
        msgspec.Meta(
            description="`under-way`: a request is in flight; `pausing`: another one is likely to follow; `dormant`: "
            "none is; `pinned`: there is a pin and no conversation."
        ),
    ]
    moving: Annotated[
        bool, msgspec.Meta(description="Whether an operator moved the session to `replica` and no request followed.")
    ]
    pinned: Annotated[bool, msgspec.Meta(description="Whether the live policy pins the session to `replica`.")]
    tokens: Annotated[int | None, msgspec.Meta(description="Prompt and answers so far; null: unknown.")]
    turns: Annotated[int | None, msgspec.Meta(description="Requests so far; null: unknown.")]
    in_flight: Annotated[int | None, msgspec.Meta(description="Requests in flight at this edge; null: unknown.")]
    last_active: Annotated[
        str, msgspec.Meta(description="Time at which a request of the session last came or ended, RFC 3339.")
    ]
    idle_s: Annotated[float, msgspec.Meta(description="Seconds since `last_active`.")]
    idle_timeout_left_s: Annotated[
        float | None,
        msgspec.Meta(
            description="Seconds until no further request is expected and the KV of the conversation no longer counts "
            "as live; null: a request is in flight, or there is no conversation."
        ),
    ]
    forgotten_in_s: Annotated[
        float | None,
        msgspec.Meta(description="Seconds until the session is forgotten by itself; null: a request is in flight."),
    ]


class SessionList(msgspec.Struct, frozen=True, kw_only=True):
    sessions: Annotated[list[SessionView], msgspec.Meta(description="Sessions, by key.")]
    next: Next = msgspec.UNSET


class SessionMove(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a session shall live."""

    replica: Annotated[ReplicaId, msgspec.Meta(description="Id of a replica that may serve the session's model.")]
