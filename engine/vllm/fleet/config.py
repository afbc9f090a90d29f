"""Configuration of a fleet of vLLM replicas: pools of equal replicas, and the settings they share.

A document with `pools` declares them; one without is a single pool, whose keys stand beside the fleet's own and which
has the fleet's name. `engine/vllm/fleet/spec.py` turns a pool into what each of its replicas is told.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from pointsman.contract.config import decode
from pointsman.contract.pools import POOL_NAME_PATTERN, POOLS_MAX
from pointsman.contract.registration import Role
from pointsman.engine.vllm.errors import VllmConfigError

REPLICAS_MAX = 512
"""Replicas of one pool, ranks counted one by one; a larger one is several pools with different names."""

RANKS_MAX = 256
"""Workers of one engine (tensor times pipeline parallel), and engines of one data-parallel group."""

LORAS_MAX = 256
"""Adapters of one pool; their names travel with every registration."""

NODE_ADDRESS = "node"
"""Value of `host` and of `control_host`: the address Ray knows the machine by."""

DEFAULT_NAME = "vllm"

AT = "vllm"
"""Path in front of the keys that errors of a fleet's configuration name."""

_NAME = re.compile(POOL_NAME_PATTERN)

_OWNED_ARGS = {
    "--model": "the setting `model`",
    "--served-model-name": "the setting `served_name`",
    "--host": "the setting `host`",
    "--port": "the operating system",
    "--uds": "the setting `host`",
    "--api-server-count": "Pointsman: one server a replica",
    "--tensor-parallel-size": "the setting `tensor_parallel_size`",
    "-tp": "the setting `tensor_parallel_size`",
    "--pipeline-parallel-size": "the setting `pipeline_parallel_size`",
    "-pp": "the setting `pipeline_parallel_size`",
    "--data-parallel-size": "the setting `data_parallel_size`",
    "-dp": "the setting `data_parallel_size`",
    "--data-parallel-rank": "Pointsman: a replica for each rank",
    "--data-parallel-size-local": "Pointsman: a replica for each rank",
    "--data-parallel-address": "Pointsman: the address of rank 0",
    "--data-parallel-rpc-port": "the operating system",
    "--ssl-keyfile": "HAProxy: TLS ends there",
    "--ssl-certfile": "HAProxy: TLS ends there",
}

_EXECUTOR = "--distributed-executor-backend"


class Device(StrEnum):
    """Device that a replica computes on."""

    AUTO = "auto"
    """GPU where the Ray cluster has one, else CPU."""
    CPU = "cpu"
    GPU = "gpu"


class Placement(StrEnum):
    """Ray's strategy for placing the bundles of one replica (or data-parallel group) on nodes; Ray's own words."""

    PACK = "PACK"
    SPREAD = "SPREAD"
    STRICT_PACK = "STRICT_PACK"
    STRICT_SPREAD = "STRICT_SPREAD"


class LoraAdapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One adapter, loaded when the replica starts."""

    name: str
    """Name that clients send as `model`."""
    path: str
    """Folder or hub name, as vLLM's `--lora-modules` takes it."""


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Equal replicas of one model. Raises VllmConfigError (a ValueError) for a value that cannot work."""

    name: str = DEFAULT_NAME
    """Name of the pool, unique among the pools of one edge. Replica ids are `<name>-1`, `<name>-2`, ..."""
    model: str
    """Folder or hub name, as `vllm serve` takes it. `tiny` and `tiny-moe` are small seeded models created on the
    spot."""
    served_name: str = ""
    """Model name that clients send. Empty: the same as `model`."""
    role: Role = Role.BOTH
    """Role of the replicas: `both`, `prefill` (compute prompts for others) or `decode` (may have their prompts
    computed)."""
    prefill_timeout_s: float = 30.0
    """Time, in seconds, after which a decode replica computes a prompt itself that a prefill replica has not
    finished."""
    replicas: int = 1
    """Number of replicas; with data parallelism, number of groups."""
    args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, one word each."""
    env: dict[str, str] = {}
    """Further environment variables of each replica."""
    device: Device = Device.AUTO
    """Device that replicas compute on: `gpu`, `cpu`, or `auto`: GPU where the Ray cluster has one, else CPU."""
    num_cpus: float = 1.0
    """Ray CPUs that a replica reserves; with data parallelism, each rank."""
    num_gpus: float = 1.0
    """Ray GPUs that a replica reserves when it runs on GPUs; with tensor or pipeline parallelism each worker has
    one."""
    resources: dict[str, float] = {}
    """Ray custom resources that a replica reserves, such as `{"accelerator_type:H100": 0.001}`."""
    tensor_parallel_size: int = 1
    """Tensor parallel size of one engine, as vLLM's `--tensor-parallel-size`."""
    pipeline_parallel_size: int = 1
    """Pipeline parallel size of one engine. Engines of several workers get one placement group, with a GPU for each
    worker."""
    placement: Placement = Placement.PACK
    """Ray's strategy for placing the bundles of one replica or data-parallel group on nodes."""
    data_parallel_size: int = 1
    """Data parallel size. Above 1, a replica is a group of so many ranks, each with its own server and signals; the
    group starts and ends as one."""
    loras: tuple[LoraAdapter, ...] = ()
    """LoRA adapters that are loaded when a replica starts."""
    surge: bool = True
    """Whether a roll adds a replica before it removes one. Set to false where there is no room for one more."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise VllmConfigError("name", self.name, "1 to 52 of A-Z a-z 0-9 _ . : -")
        if not self.model:
            raise VllmConfigError("model", self.model, "a folder or a hub name")
        for key in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            if not 1 <= getattr(self, key) <= RANKS_MAX:
                raise VllmConfigError(key, getattr(self, key), f"1 to {RANKS_MAX}")
        if not 1 <= self.replicas <= self.replicas_max:
            raise VllmConfigError("replicas", self.replicas, f"1 to {self.replicas_max}")
        if self.prefill_timeout_s <= 0:
            raise VllmConfigError("prefill_timeout_s", self.prefill_timeout_s, "more than 0")
        for key, value in {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, **self.resources}.items():
            if value < 0:
                raise VllmConfigError(key, value, "0 or more")
        if len(self.loras) > LORAS_MAX:
            raise VllmConfigError("loras", self.loras, f"at most {LORAS_MAX}", f"got {len(self.loras)} adapters")
        for word in self.args:
            flag = word.split("=", 1)[0].replace("_", "-")
            if flag in _OWNED_ARGS:
                raise VllmConfigError("args", word, f"no {flag}: it is set by {_OWNED_ARGS[flag]}")

    @property
    def replicas_max(self) -> int:
        """Largest number of replicas of the pool."""
        return max(1, REPLICAS_MAX // self.data_parallel_size)

    @property
    def model_name(self) -> str:
        """The name clients ask for."""
        return self.served_name or self.model

    @property
    def workers(self) -> int:
        """Processes that compute for one engine."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def executor(self) -> str:
        """vLLM's executor as the arguments name it, else Ray's for several workers; empty: vLLM's choice."""
        words = [word for argument in self.args for word in argument.split("=", 1)]
        named = [words[at + 1] for at, word in enumerate(words[:-1]) if word.replace("_", "-") == _EXECUTOR]
        return named[-1] if named else "ray" if self.workers > 1 else ""


class FleetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pools that one driver runs. Raises VllmConfigError (a ValueError) for a value that cannot work."""

    name: str = DEFAULT_NAME
    """Name of the fleet, under which a driver finds the replicas that an earlier driver left on the same Ray
    cluster."""
    pools: tuple[PoolConfig, ...]
    """Pools of equal replicas. A document without `pools` is one pool, whose keys stand next to the fleet's own."""
    host: str = "127.0.0.1"
    """Address that each replica listens on and registers; `node` stands for the address by which Ray knows the
    machine."""
    control_host: str = "127.0.0.1"
    """Address where the driver takes orders from routers; beyond loopback `admin_token` is required."""
    control_port: int = 0
    """TCP port where the driver takes orders from routers; 0 lets the system pick one."""
    admin: tuple[str, ...] = ()
    """Admin URLs of the edges to register with, such as `http://127.0.0.1:8001`. Empty: no registration."""
    admin_token: str = ""
    """Bearer token for the admin API of the edges and for the driver's own port. Empty: none."""
    ttl_s: float = 10.0
    """Lease of a registration, in seconds: without a renewal the router removes the replica."""
    heartbeat_s: float = 2.0
    """Interval between two renewals of a registration, in seconds."""
    ray_address: str = ""
    """Address of the Ray cluster to join (`auto`, `HOST:PORT`, `ray://...`). Empty: a cluster is started on this
    machine and ended with the driver."""
    ray_dir: str = ""
    """Folder for the files of a cluster that the driver starts, replica logs included. Empty: a temporary folder."""
    drain_s: float = 30.0
    """Time, in seconds, that running requests have to finish when a replica stops."""
    start_timeout_s: float = 900.0
    """Time limit, in seconds, from the creation of a replica to its first token, model loading included."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise VllmConfigError("name", self.name, "1 to 52 of A-Z a-z 0-9 _ . : -")
        if not 1 <= len(self.pools) <= POOLS_MAX:
            raise VllmConfigError("pools", self.pools, f"1 to {POOLS_MAX} pools", f"got {len(self.pools)} pools")
        names = [pool.name for pool in self.pools]
        for name in names:
            if names.count(name) > 1:
                raise VllmConfigError("pools", name, "a name for each", f"got {name!r} twice")
        if self.drain_s < 0:
            raise VllmConfigError("drain_s", self.drain_s, "0 or more")
        for key in ("ttl_s", "heartbeat_s", "start_timeout_s"):
            if getattr(self, key) <= 0:
                raise VllmConfigError(key, getattr(self, key), "more than 0")
        if self.ttl_s <= self.heartbeat_s:
            raise VllmConfigError("ttl_s", self.ttl_s, f"more than heartbeat_s, {self.heartbeat_s}")
        for url in self.admin:
            if not url.startswith(("http://", "https://")):
                raise VllmConfigError("admin", url, "http://host:port")
        if not 0 <= self.control_port <= 65535:
            raise VllmConfigError("control_port", self.control_port, "0 to 65535")
        if not self.admin_token and not _is_loopback(self.control_host):
            raise VllmConfigError("control_host", self.control_host, "a loopback address, or an admin_token beside it")


_FLEET_KEYS = FleetConfig.__struct_fields__
_KEYS_OF_POOLS = frozenset(PoolConfig.__struct_fields__) - frozenset(_FLEET_KEYS)
_KEYS_OF_FLEETS = tuple(key for key in _FLEET_KEYS if key not in PoolConfig.__struct_fields__)


def decode_fleet(document: Mapping[str, Any], *, source: str = "") -> FleetConfig:
    """The configuration of a fleet from plain values that come from `source`. Raises VllmConfigError."""
    tree = dict(document)
    if "pools" not in tree:
        alone = {key: tree.pop(key) for key in list(tree) if key not in _FLEET_KEYS}
        pool = decode_pool({"name": tree.get("name", DEFAULT_NAME), **alone}, AT, source=source, known=_KEYS_OF_FLEETS)
        return decode({**tree, "pools": (pool,)}, FleetConfig, at=AT, source=source, error=VllmConfigError)
    for key in sorted(_KEYS_OF_POOLS & tree.keys()):
        raise VllmConfigError(f"{AT}.{key}", tree[key], "it inside one of the pools", "stands beside `pools`", source)
    return decode(tree, FleetConfig, at=AT, source=source, error=VllmConfigError)


def decode_pool(document: Mapping[str, Any], at: str, *, source: str = "", known: tuple[str, ...] = ()) -> PoolConfig:
    """One pool from plain values. Raises VllmConfigError.

    at: path of the pool in its document, which comes from `source`.
    known: keys that may stand beside those of a pool.
    """
    return decode(dict(document), PoolConfig, at=at, source=source, error=VllmConfigError, known=known)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
