"""The driver of a fleet: one process that owns the replicas from `run` to the end.

The actors are owned, not detached: when this process ends, so do they.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from functools import partial
from pathlib import Path

from engine.vllm import cluster, tiny_model
from engine.vllm.actor import RayActor
from engine.vllm.cluster import Say
from engine.vllm.config import Device, VllmConfig
from engine.vllm.errors import VllmConfigError, VllmError
from engine.vllm.keeper import FleetState, Keeper


def run(config: VllmConfig, *, say: Say | None = None) -> None:
    """Run the fleet until SIGTERM or SIGINT, then drain and end it; a second signal ends it at once.

    Must be called in the main thread. `say` is given one line for each change of a replica's state; the line of a
    replica that takes requests is `ready: http://host:port replica=<id> start_s=<seconds>`. Before all of them come
    `logs: <folder>` and `ray: <address>` of a Ray cluster of our own. By default the lines go to standard output, which
    then holds nothing else: what Ray prints goes to standard error. Raises VllmError.
    """
    out = sys.stdout
    lines: Say = say or (lambda line: print(line, file=out, flush=True))
    cluster.check_installed(config)
    model_path = _model_path(config)
    with contextlib.redirect_stdout(sys.stderr), cluster.connected(config, lines) as device:
        asyncio.run(_run(config, device, model_path, lines))


def _model_path(config: VllmConfig) -> str:
    """Where the model lies. A folder is looked for here only if the replicas run here."""
    if config.model == tiny_model.TINY:
        return str(tiny_model.cached_tiny_model())
    if not config.ray_address and config.model.startswith(("/", "./", "../")) and not Path(config.model).is_dir():
        raise VllmConfigError(f"vllm.model: {config.model!r} (expected a folder that exists, or a hub name)")
    return config.model


async def _run(config: VllmConfig, device: Device, model_path: str, say: Say) -> None:
    fleet = FleetState()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):  # Ray's own handlers would end the cluster at once.
        loop.add_signal_handler(name, fleet.stop)
    try:
        async with asyncio.TaskGroup() as keepers:
            for number in range(1, config.replicas + 1):
                keeper = Keeper(
                    config.replica_id(number),
                    partial(RayActor, config, number, device, model_path),
                    fleet,
                    say,
                    drain_s=config.drain_s,
                    start_timeout_s=config.start_timeout_s,
                )
                keepers.create_task(keeper.run())
    except BaseExceptionGroup as group:
        expected, others = group.split(VllmError)
        if expected is None or others is not None:
            raise
        # Replicas of one fleet fail alike: the first says it all.
        error = expected.exceptions[0]
        raise error from error.__cause__
