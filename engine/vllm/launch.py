"""The driver of a fleet: one process that keeps the pools from `run` to the end.

On a cluster of our own the actors are owned, not detached: when this process ends, so do they.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from engine.vllm import cluster, tiny_model
from engine.vllm.actor import RayLife
from engine.vllm.cluster import Say
from engine.vllm.config import FleetConfig, PoolConfig
from engine.vllm.errors import VllmConfigError, VllmError
from engine.vllm.pool import Bring, Pool
from engine.vllm.spec import ranks_of, revision_of

_TINY = {tiny_model.TINY: "qwen3", tiny_model.TINY_MOE: "qwen3moe"}


def run(config: FleetConfig, *, say: Say | None = None) -> None:
    """Run the fleet until SIGTERM or SIGINT, then drain and end it; a second signal ends it at once.

    Must be called in the main thread. `say` is given one line for each change of a replica's state; the line of a
    replica that takes requests is `ready: http://host:port replica=<id> start_s=<seconds>`. Before all of them come
    `logs: <folder>` and `ray: <address>` of a Ray cluster of our own. By default the lines go to standard output, which
    then holds nothing else: what Ray prints goes to standard error. Raises VllmError.
    """
    out = sys.stdout
    lines: Say = say or (lambda line: print(line, file=out, flush=True))
    cluster.check_installed(config)
    for pool in config.pools:
        model_path(config, pool)
    with contextlib.redirect_stdout(sys.stderr), cluster.connected(config, lines):
        for pool in config.pools:
            cluster.device_of(pool)
        asyncio.run(_run(config, lines))


def model_path(config: FleetConfig, pool: PoolConfig) -> str:
    """Where the model of a pool lies. A folder is looked for here only if the replicas run here."""
    if pool.model in _TINY:
        return str(tiny_model.cached_tiny_model(arch=_TINY[pool.model]))
    if not config.ray_address and pool.model.startswith(("/", "./", "../")) and not Path(pool.model).is_dir():
        raise VllmConfigError(f"pool {pool.name}: model: {pool.model!r} (expected a folder that exists, or a hub name)")
    return pool.model


def _life(config: FleetConfig, pool: PoolConfig, number: int) -> RayLife:
    ranks = ranks_of(config, pool, number, cluster.device_of(pool), model_path(config, pool))
    return RayLife(ranks, pool.placement, detached=False)


async def _run(config: FleetConfig, say: Say) -> None:
    async def routed(replicas: object) -> None:
        return

    bring = Bring(
        life=partial(_life, config),
        revision=partial(revision_of, config),
        routed=routed,
        drain_s=config.drain_s,
        start_timeout_s=config.start_timeout_s,
        say=say,
    )
    pools = [Pool(pool, bring) for pool in config.pools]

    def stop() -> None:
        for pool in pools:
            pool.stop()

    _on_signals(stop)
    try:
        async with asyncio.TaskGroup() as running:
            for pool in pools:
                running.create_task(pool.run(), name=f"pool {pool.config.name}")
    except BaseExceptionGroup as group:
        expected, others = group.split(VllmError)
        if expected is None or others is not None:
            raise
        # Replicas of one fleet fail alike: the first says it all.
        error = expected.exceptions[0]
        raise error from error.__cause__


def _on_signals(stop: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):  # Ray's own handlers would end the cluster at once.
        loop.add_signal_handler(name, stop)
