"""From a pool to its replicas: their arguments, environments and reservations on the cluster."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import msgspec

from pointsman.contract.registration import Role
from pointsman.engine.vllm.fleet import cpu
from pointsman.engine.vllm.fleet.config import Device, FleetConfig, PoolConfig
from pointsman.engine.vllm.replica.connector import connector_args

_COMMON_ENV = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # The tokenizer's threads and the event loop would otherwise compete for the same cores.
    "TOKENIZERS_PARALLELISM": "false",
}
_OFFLINE_ENV = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

Bundle = dict[str, float]
"""Resources reserved together on one node; Ray's names."""


class ReplicaSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The specification of one replica."""

    id: str
    argv: tuple[str, ...]
    """Command line of `vllm serve`."""
    model: str
    """Served name."""
    host: str
    admin: tuple[str, ...]
    admin_token: str
    ttl_s: float
    heartbeat_s: float
    drain_s: float
    """Seconds that running requests have to finish once the replica is orphaned."""
    born_ms: int
    """When the driver made this incarnation, in milliseconds since 1970; no two under one id have the same."""
    pool: str = ""
    role: Role = Role.BOTH
    prefill_timeout_s: float = 30.0
    loras: tuple[str, ...] = ()
    """Names of its adapters; each is a model clients may ask for."""


class Place(msgspec.Struct, frozen=True):
    """Which replica of a fleet a process is: written down with it, so that another driver can tell."""

    fleet: str
    pool: str
    number: int
    """In the pool, counted from 1."""
    rank: int
    """In its data-parallel group, counted from 0."""
    revision: str
    """Of the pool's configuration; see `revision_of`."""


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """One actor of a replica, ready to be made: the only one, or one of a data-parallel group."""

    place: Place
    spec: ReplicaSpec
    env: dict[str, str]
    bundles: tuple[Bundle, ...]
    """The first holds the actor itself, the others a worker each."""


def replica_id(pool: str, number: int, rank: int | None = None) -> str:
    """Id of a replica: `chat-2`, or `moe-2.0` for a rank of a group."""
    return f"{pool}-{number}" if rank is None else f"{pool}-{number}.{rank}"


def ranks_of(
    fleet: FleetConfig, pool: PoolConfig, number: int, device: Device, model_path: str, born_ms: int
) -> tuple[Rank, ...]:
    """The actors of replica `number`; `model_path` is where the model really lies, `born_ms` when they are made."""
    grouped = pool.data_parallel_size > 1
    revision = revision_of(fleet, pool)
    made = []
    for rank in range(pool.data_parallel_size):
        bundles = bundles_of(pool, device)
        env = _env(pool, device, model_path)
        if pool.executor == "ray":
            first = rank * len(bundles) + 1
            # The group's bundles are one placement group: each rank is told which of them its workers have.
            env["VLLM_RAY_BUNDLE_INDICES"] = ",".join(str(first + worker) for worker in range(pool.workers))
        made.append(
            Rank(
                place=Place(fleet.name, pool.name, number, rank, revision),
                spec=_spec(
                    fleet, pool, replica_id(pool.name, number, rank if grouped else None), device, model_path, born_ms
                ),
                env=env,
                bundles=bundles,
            )
        )
    return tuple(made)


def revision_of(fleet: FleetConfig, pool: PoolConfig) -> str:
    """Digest of all that makes a replica of the pool what it is: replicas with another one are rolled."""
    pool_only = msgspec.structs.replace(pool, replicas=1, surge=True)
    shared = (fleet.host, fleet.admin, fleet.admin_token, fleet.ttl_s, fleet.heartbeat_s)
    return hashlib.sha256(msgspec.json.encode((pool_only, shared), order="deterministic")).hexdigest()[:12]


def cpus_of(pool: PoolConfig) -> int:
    """Ray CPUs of a pool as large as it may get, and of one replica more for a roll."""
    return math.ceil((pool.replicas_max + 1) * pool.data_parallel_size * pool.num_cpus)


def group_argv(rank: int, size: int, address: str, port: int) -> tuple[str, ...]:
    """Arguments of a rank of a data-parallel group besides its own: its number, and the address of rank 0."""
    return (
        f"--data-parallel-size={size}",
        "--data-parallel-size-local=1",
        f"--data-parallel-rank={rank}",
        f"--data-parallel-address={address}",
        f"--data-parallel-rpc-port={port}",
    )


def _spec(fleet: FleetConfig, pool: PoolConfig, id: str, device: Device, model_path: str, born_ms: int) -> ReplicaSpec:
    argv = (*(cpu.ARGS if device is Device.CPU else ()), *pool.args)
    if pool.executor == "ray":
        argv += ("--distributed-executor-backend=ray",)
    if pool.tensor_parallel_size > 1:
        argv += (f"--tensor-parallel-size={pool.tensor_parallel_size}",)
    if pool.pipeline_parallel_size > 1:
        argv += (f"--pipeline-parallel-size={pool.pipeline_parallel_size}",)
    if pool.loras:
        argv += ("--enable-lora", "--lora-modules", *(f"{lora.name}={lora.path}" for lora in pool.loras))
    argv += connector_args(pool.role, pool.args)
    return ReplicaSpec(
        id=id,
        argv=(*argv, f"--model={model_path}", f"--served-model-name={pool.model_name}"),
        model=pool.model_name,
        host=fleet.host,
        admin=fleet.admin,
        admin_token=fleet.admin_token,
        ttl_s=fleet.ttl_s,
        heartbeat_s=fleet.heartbeat_s,
        drain_s=fleet.drain_s,
        born_ms=born_ms,
        pool=pool.name,
        role=pool.role,
        prefill_timeout_s=pool.prefill_timeout_s,
        loras=tuple(lora.name for lora in pool.loras),
    )


def _env(pool: PoolConfig, device: Device, model_path: str) -> dict[str, str]:
    """Environment of a replica's process. A model that lies in a folder needs nothing from the hub."""
    return {
        **_COMMON_ENV,
        **(_OFFLINE_ENV if Path(model_path).is_dir() else {}),
        **(cpu.ENV if device is Device.CPU else {}),
        **pool.env,
    }


def bundles_of(pool: PoolConfig, device: Device) -> tuple[Bundle, ...]:
    """Return the resources that one rank reserves: the first bundle for its actor, the others for a worker each."""
    own: Bundle = {"CPU": pool.num_cpus, **pool.resources}
    if pool.executor == "ray":
        # vLLM's Ray executor takes one accelerator a worker and counts bundles that have one.
        return (own, *({"GPU": 1.0} for _ in range(pool.workers)))
    if device is Device.GPU:
        own["GPU"] = pool.num_gpus if pool.workers == 1 else float(pool.workers)
    return (own,)
