"""The Ray cluster a fleet runs on: joined where an address is given, else started on this machine and ended again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pointsman.engine.vllm.errors import ClusterError, MissingExtraError
from pointsman.engine.vllm.fleet.config import Device, FleetConfig, PoolConfig
from pointsman.engine.vllm.fleet.spec import bundles_of, cpus_of

Say = Callable[[str], None]
"""A function that prints one line about the fleet."""

NAMESPACE = "pointsman"
"""Ray's namespace of the actors' names; the name of an actor is its replica's id."""

OBJECT_STORE_BYTES = 80_000_000
"""The least Ray accepts. Nothing of ours goes through it; Ray's own default is 30 % of memory."""

_OWN_ENV = {
    # Ray otherwise runs every worker at nice 15: an engine would give way to everything else on the machine.
    "RAY_worker_niceness": "0",
    # The engine is a child of the actor's process: it must not outlive it, however that one ends.
    "RAY_process_group_cleanup_enabled": "1",
    # Ray otherwise starts an idle worker for every CPU it is told of.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def check_installed(config: FleetConfig) -> None:
    """Raise MissingExtraError when Ray, or vLLM where it runs on this machine, is not installed."""
    for module in ("ray",) if config.ray_address else ("ray", "vllm"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module)


@contextlib.contextmanager
def connected(config: FleetConfig, say: Say) -> Iterator[None]:
    """Within it this process is a Ray driver.

    A cluster of our own listens beyond loopback (Ray knows no other way), so it demands a token made for this one run
    unless RAY_AUTH_MODE says otherwise. Its files go with it, except after an error: then the logs are kept.
    Raises ClusterError.
    """
    if config.ray_address:
        with _driver(address=config.ray_address):
            yield
        return
    os.environ.update({key: value for key, value in _OWN_ENV.items() if key not in os.environ})
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = Path(config.ray_dir).resolve() if config.ray_dir else Path(tempfile.mkdtemp(prefix="pointsman-ray-"))
    # Ray CPUs are tickets, not cores: a small machine may well hold more replicas than it has cores.
    cpus = max(os.cpu_count() or 1, sum(cpus_of(pool) for pool in config.pools))
    say(f"logs: {folder}/session_latest/logs")
    with _driver(
        address="local",  # Whatever RAY_ADDRESS says.
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(folder),
    ):
        say(f"ray: {_address()}")
        yield
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


def device_of(pool: PoolConfig) -> Device:
    """The device a pool computes on; raises ClusterError when the whole cluster could not hold one replica."""
    import ray

    total: dict[str, float] = ray.cluster_resources()
    device = pool.device
    if device is Device.AUTO:
        device = Device.GPU if total.get("GPU") else Device.CPU
    needed: dict[str, float] = {}
    for bundle in bundles_of(pool, device):
        for name, amount in bundle.items():
            needed[name] = needed.get(name, 0.0) + amount * pool.data_parallel_size
    for name, amount in needed.items():
        if total.get(name, 0.0) < amount:
            raise ClusterError(
                f"pool {pool.name}: a replica needs {amount:g} {name}, the Ray cluster has {total.get(name, 0.0):g}"
            )
    return device


def node_address() -> str:
    """The address other machines of the Ray cluster reach this one by."""
    import ray

    return str(ray.util.get_node_ip_address())
