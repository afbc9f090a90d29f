"""Pools of replicas as the driver of a fleet reports them: body of `PUT /v1/fleets/{name}`, and the orders it takes."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pointsman.contract.bounds import MAX_COUNT, MAX_LEASE_S, MIN_LEASE_S, Count, Url, Word
from pointsman.contract.registration import ReplicaId, Role

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
    """One replica of a pool, as its supervisor sees it."""

    id: ReplicaId
    state: Annotated[Word, msgspec.Meta(description="starting, ready, dead, draining or stopped")]
    revision: Annotated[Word, msgspec.Meta(description="Revision of the configuration the replica was started with.")]
    deaths: Annotated[Count, msgspec.Meta(description="Number of restarts after a death.")]
    urls: Annotated[
        list[Url],
        msgspec.Meta(
            max_length=MEMBERS_MAX, description="URLs of the replica; one for each rank of a data-parallel group."
        ),
    ]


class PoolStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pool at one moment."""

    name: PoolName
    model: Annotated[str, msgspec.Meta(max_length=1024)]
    role: Role
    replicas: Annotated[
        Count, msgspec.Meta(description="Wanted number of replicas; a data-parallel group counts as one.")
    ]
    replicas_max: Annotated[Count, msgspec.Meta(description="Largest number of replicas that may be ordered.")]
    ready: Count
    state: Annotated[Word, msgspec.Meta(description="ready, scaling, rolling, refused or stopping")]
    revision: Annotated[Word, msgspec.Meta(description="Revision of the wanted configuration.")]
    error: Annotated[
        str,
        msgspec.Meta(
            max_length=MAX_ERROR, description="Reason why the last configuration was refused; empty: it was not."
        ),
    ] = ""
    members: Annotated[list[PoolMember], msgspec.Meta(max_length=MEMBERS_MAX)] = []


class FleetLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `PUT /v1/fleets/{name}`: who takes orders for these pools, until the lease ends or is renewed."""

    control: Annotated[
        str,
        msgspec.Meta(max_length=256, description="Base URL of the driver, to which orders are sent: http://HOST:PORT."),
    ]
    ttl_s: Annotated[float, msgspec.Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S)]
    pools: Annotated[list[PoolStatus], msgspec.Meta(max_length=POOLS_MAX)]


class ScaleOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/pools/{name}/scale`."""

    replicas: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT, description="At most the pool's `replicas_max`.")]
