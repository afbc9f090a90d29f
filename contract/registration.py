"""A replica's registration: body of `PUT /v1/replicas/{id}`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from pointsman.contract.bounds import MAX_COUNT, MAX_LEASE_S, MIN_LEASE_S

REPLICA_ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
"""Replica ids are HAProxy server names as they are (configuration manual 2.8, section 2.4 and `add server`)."""

ReplicaId = Annotated[str, msgspec.Meta(pattern=REPLICA_ID_PATTERN)]

ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

MAX_ADAPTERS = 4096
"""LoRA adapters one replica may name."""

HEALTH_PATH_PATTERN = r"^(|/[A-Za-z0-9_./~:@%+-]{0,255})$"
"""Pattern of paths that HAProxy accepts in its configuration and on its Runtime API."""


class Role(StrEnum):
    """Use of a replica."""

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


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Body of `PUT /v1/replicas/{id}`: one routable engine endpoint.

    A field at its default is not encoded, so that a router which does not know the field takes the registration.
    """

    url: Annotated[str, msgspec.Meta(max_length=256, description="Base URL, http://HOST:PORT; HAProxy connects here.")]
    model: Annotated[
        str,
        msgspec.Meta(max_length=256, description="Served model name; empty: the names in the endpoint's `/v1/models`."),
    ] = ""
    adapters: Annotated[
        list[ModelName],
        msgspec.Meta(max_length=MAX_ADAPTERS, description="LoRA adapters that the replica serves, loaded or loadable."),
    ] = []
    health_path: Annotated[
        str,
        msgspec.Meta(
            pattern=HEALTH_PATH_PATTERN,
            description="Path of HAProxy's health check, answered with 2xx or 3xx; empty: "
            "`server_options.health_path`.",
        ),
    ] = ""
    ttl_s: (
        Annotated[
            float, msgspec.Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S, description="Lease in seconds; absent: permanent.")
        ]
        | None
    ) = None
    role: Annotated[Role, msgspec.Meta(description="both, prefill or decode; see docs/how-to-disaggregate.md.")] = (
        Role.BOTH
    )
    pool: Annotated[str, msgspec.Meta(max_length=64, description="Pool of the replica; empty: none.")] = ""
    born_ms: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=MAX_COUNT,
            description="When this incarnation of the replica started, in milliseconds since 1970. While a later one "
            "is registered, it is refused with 409; 0 is unknown and never refused.",
        ),
    ] = 0
    renames_model: Annotated[
        bool,
        msgspec.Meta(
            description="Whether the replica serves requests for an alias of its model, which `x-pointsman-model` "
            "names; others are chosen for an alias only where their `/v1/models` lists it."
        ),
    ] = False
