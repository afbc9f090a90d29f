"""What a fleet of vLLM replicas is configured with, and what one replica is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from engine.vllm import cpu
from engine.vllm.errors import VllmConfigError

REPLICAS_MAX = 512
"""Replicas of one fleet; a larger one is several fleets with different names."""

NODE_ADDRESS = "node"
"""Value of `host`: the address Ray knows the replica's machine by."""

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,56}")
# HAProxy server names have at most 64 characters; the replica's number takes the rest.

_OWNED_ARGS = {
    "--model": "the setting `model`",
    "--served-model-name": "the setting `served_name`",
    "--host": "the setting `host`",
    "--port": "the operating system",
    "--uds": "the setting `host`",
    "--api-server-count": "Pointsman: one server a replica",
    "--ssl-keyfile": "HAProxy: TLS ends there",
    "--ssl-certfile": "HAProxy: TLS ends there",
}

_COMMON_ENV = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # The tokenizer's threads and the event loop would otherwise compete for the same cores.
    "TOKENIZERS_PARALLELISM": "false",
}
_OFFLINE_ENV = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class Device(StrEnum):
    """What a replica computes on."""

    AUTO = "auto"
    """GPU where the Ray cluster has one, else CPU."""
    CPU = "cpu"
    GPU = "gpu"


class VllmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A fleet of replicas of one model. Raises VllmConfigError (a ValueError) when a value cannot be."""

    model: str
    """Folder or hub name, as `vllm serve` takes it; `tiny` is a small seeded model made on the spot."""
    served_name: str = ""
    """Name clients ask for; empty: the same as `model`."""
    replicas: int = 1
    name: str = "vllm"
    """Replica ids are `<name>-1`, `<name>-2`, ...; unique among the fleets of one edge."""
    args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, one word each."""
    env: dict[str, str] = {}
    """Further environment of each replica."""
    device: Device = Device.AUTO
    num_cpus: float = 1.0
    """Ray CPUs a replica reserves."""
    num_gpus: float = 1.0
    """Ray GPUs a replica reserves where it runs on GPUs; with tensor parallelism, as many as it uses."""
    host: str = "127.0.0.1"
    """Address each replica listens on and registers; `node` is the address Ray knows its machine by."""
    admin: tuple[str, ...] = ()
    """Admin addresses of the edges to register with, as `http://127.0.0.1:7071`. None: nothing registers."""
    admin_token: str = ""
    ttl_s: float = 10.0
    """Lease of a registration; a replica that dies without leaving is forgotten after this."""
    heartbeat_s: float = 2.0
    ray_address: str = ""
    """Ray cluster to join (`auto`, `host:port`, `ray://...`); empty starts one on this machine and ends it again."""
    ray_dir: str = ""
    """Where a cluster of our own keeps its files, logs of replicas among them; empty: a temporary folder."""
    drain_s: float = 30.0
    """How long running requests may take to finish when the fleet stops."""
    start_timeout_s: float = 900.0
    """From creating a replica to its first token, model loading included."""

    def __post_init__(self) -> None:
        if not self.model:
            raise VllmConfigError("vllm.model: '' (expected a folder or a hub name)")
        if not 1 <= self.replicas <= REPLICAS_MAX:
            raise VllmConfigError(f"vllm.replicas: {self.replicas} (expected 1 to {REPLICAS_MAX})")
        if not _NAME.fullmatch(self.name):
            raise VllmConfigError(f"vllm.name: {self.name!r} (expected 1 to 56 of A-Z a-z 0-9 _ . : -)")
        for key in ("num_cpus", "num_gpus", "drain_s"):
            if getattr(self, key) < 0:
                raise VllmConfigError(f"vllm.{key}: {getattr(self, key)} (expected 0 or more)")
        for key in ("ttl_s", "heartbeat_s", "start_timeout_s"):
            if getattr(self, key) <= 0:
                raise VllmConfigError(f"vllm.{key}: {getattr(self, key)} (expected more than 0)")
        if self.ttl_s <= self.heartbeat_s:
            raise VllmConfigError(f"vllm.ttl_s: {self.ttl_s} (expected more than heartbeat_s, {self.heartbeat_s})")
        for url in self.admin:
            if not url.startswith(("http://", "https://")):
                raise VllmConfigError(f"vllm.admin: {url!r} (expected http://host:port)")
        for word in self.args:
            flag = word.split("=", 1)[0].replace("_", "-")
            if flag in _OWNED_ARGS:
                raise VllmConfigError(f"vllm.args: {word!r} (expected no {flag}: it is set by {_OWNED_ARGS[flag]})")

    @property
    def model_name(self) -> str:
        """The name clients ask for."""
        return self.served_name or self.model

    def replica_id(self, number: int) -> str:
        """Id of the replica with this number, counted from 1."""
        return f"{self.name}-{number}"


def decode(document: Mapping[str, object]) -> VllmConfig:
    """A configuration from plain values; raises VllmConfigError, also for an unknown key."""
    try:
        return msgspec.convert(dict(document), VllmConfig)
    except msgspec.ValidationError as error:
        raise VllmConfigError(f"vllm: {error}") from error


class ReplicaSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All one replica is told."""

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


def replica_spec(config: VllmConfig, number: int, device: Device, model_path: str) -> ReplicaSpec:
    """What replica `number` of the fleet is told; `model_path` is where the model really lies."""
    defaults = cpu.ARGS if device is Device.CPU else ()
    owned = (f"--model={model_path}", f"--served-model-name={config.model_name}")
    return ReplicaSpec(
        id=config.replica_id(number),
        argv=(*defaults, *config.args, *owned),
        model=config.model_name,
        host=config.host,
        admin=config.admin,
        admin_token=config.admin_token,
        ttl_s=config.ttl_s,
        heartbeat_s=config.heartbeat_s,
    )


def replica_env(config: VllmConfig, device: Device, model_path: str) -> dict[str, str]:
    """Environment of a replica's process. A model that lies in a folder needs nothing from the hub."""
    return {
        **_COMMON_ENV,
        **(_OFFLINE_ENV if Path(model_path).is_dir() else {}),
        **(cpu.ENV if device is Device.CPU else {}),
        **config.env,
    }
