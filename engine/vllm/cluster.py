"""The Ray cluster a fleet runs on: joined where an address is given, else started on this machine and ended again."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.vllm.config import Device, VllmConfig
from engine.vllm.errors import ClusterError, MissingExtraError

Say = Callable[[str], None]
"""Given one line for people and for whoever supervises the fleet."""

NAMESPACE = "pointsman"
"""Where the actors' names live; the name of an actor is its replica's id."""

OBJECT_STORE_BYTES = 80_000_000
"""The least Ray accepts. Nothing of ours goes through it; Ray's own default is 30 % of memory."""

_OWN_ENV = {
    # Ray otherwise runs every worker at nice 15: an engine would give way to everything else on the machine.
    "RAY_worker_niceness": "0",
    # The engine is a child of the actor's process: it must not outlive it, however that one ends.
    "RAY_process_group_cleanup_enabled": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def check_installed(config: VllmConfig) -> None:
    """Raise MissingExtraError when Ray, or vLLM where it runs on this machine, is not installed."""
    for module in ("ray",) if config.ray_address else ("ray", "vllm"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module)


@contextlib.contextmanager
def connected(config: VllmConfig, say: Say) -> Iterator[Device]:
    """Within it this process is a Ray driver. Yields what the replicas compute on.

    A cluster of our own listens beyond loopback (Ray knows no other way), so it demands a token made for this one run
    unless RAY_AUTH_MODE says otherwise. Its files go with it, except after an error: then the logs are kept.
    Raises ClusterError.
    """
    if config.ray_address:
        with _driver(address=config.ray_address):
            yield _device(config)
        return
    os.environ.update({key: value for key, value in _OWN_ENV.items() if key not in os.environ})
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = Path(config.ray_dir).resolve() if config.ray_dir else Path(tempfile.mkdtemp(prefix="pointsman-ray-"))
    # Ray CPUs are tickets, not cores: a small machine may well hold more replicas than it has cores.
    cpus = max(os.cpu_count() or 1, math.ceil(config.replicas * config.num_cpus))
    say(f"logs: {folder}/session_latest/logs")
    with _driver(
        address="local",  # Whatever RAY_ADDRESS says.
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(folder),
    ):
        say(f"ray: {_address()}")
        yield _device(config)
    if not config.ray_dir:  # Not reached after an error: then the logs are what there is to read.
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _driver(*, address: str, **arguments: object) -> Iterator[None]:
    import ray

    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR", **arguments)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"Ray ({address}): {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _device(config: VllmConfig) -> Device:
    """What to compute on; raises ClusterError when the whole cluster could not hold one replica."""
    import ray

    total: dict[str, float] = ray.cluster_resources()
    gpus = total.get("GPU", 0.0)
    device = config.device
    if device is Device.AUTO:
        device = Device.GPU if gpus else Device.CPU
    if device is Device.GPU and gpus < config.num_gpus:
        raise ClusterError(f"a replica needs {config.num_gpus:g} GPU (vllm.num_gpus), the Ray cluster has {gpus:g}")
    if total.get("CPU", 0.0) < config.num_cpus:
        raise ClusterError(
            f"a replica needs {config.num_cpus:g} CPU (vllm.num_cpus), the Ray cluster has {total.get('CPU', 0.0):g}"
        )
    return device
