"""The driver of a fleet: one process that runs the pools until they end.

On a cluster of our own the replicas are this process's: however it ends, so do they. On a cluster that was there before
they are detached: when the driver is killed, or told to leave by SIGUSR1, they go on, and a driver started again with
the fleet's name takes them over. SIGTERM and SIGINT end them in either case.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pointsman.contract.pools import FleetLease
from pointsman.engine.vllm import tiny_model
from pointsman.engine.vllm.errors import VllmConfigError, VllmError
from pointsman.engine.vllm.fleet import cluster, control
from pointsman.engine.vllm.fleet.actor import RayIncarnation
from pointsman.engine.vllm.fleet.admin_client import AdminClient
from pointsman.engine.vllm.fleet.cluster import Say
from pointsman.engine.vllm.fleet.config import NODE_ADDRESS, FleetConfig, PoolConfig
from pointsman.engine.vllm.fleet.environment import PoolEnvironment
from pointsman.engine.vllm.fleet.fleet import Fleet, find_replicas
from pointsman.engine.vllm.fleet.spec import ranks_of, revision_of
from pointsman.engine.vllm.fleet.store import FleetStore


def run(config: FleetConfig, *, say: Say | None = None) -> None:
    """Run the fleet until SIGTERM or SIGINT, then drain and end it; a second signal ends it at once.

    SIGUSR1 leaves the replicas running, where the cluster is not our own.

    Must be called in the main thread. `say` is given one line for each change of a replica's state; the line of a
    replica that takes requests is `ready: http://host:port replica=<id> start_s=<seconds>`. Before all of them come
    `logs: <folder>` and `ray: <address>` of a Ray cluster of our own, and `control: <url>` for orders. By default the
    lines go to standard output, which then holds nothing else: what Ray prints goes to standard error.

    Raises VllmError.
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
    if pool.model in (tiny_model.TINY, tiny_model.TINY_MOE):
        return str(tiny_model.cached_tiny_model(experts=pool.model == tiny_model.TINY_MOE))
    if not config.ray_address and pool.model.startswith(("/", "./", "../")) and not Path(pool.model).is_dir():
        raise VllmConfigError("model", pool.model, "a folder that exists, or a hub name", source=f"pool {pool.name}")
    return pool.model


def _incarnation(config: FleetConfig, detached: bool, pool: PoolConfig, number: int) -> RayIncarnation:
    born_ms = time.time_ns() // 1_000_000
    ranks = ranks_of(config, pool, number, cluster.device_of(pool), model_path(config, pool), born_ms)
    return RayIncarnation(ranks, pool.placement, detached=detached)


async def _run(config: FleetConfig, say: Say) -> None:
    detached = bool(config.ray_address)
    admin = AdminClient(config.name, config.admin, config.admin_token, heartbeat_s=config.heartbeat_s)
    environment = PoolEnvironment(
        incarnation=partial(_incarnation, config, detached),
        revision=partial(revision_of, config),
        wait_routed=admin.wait_routed,
        drain_s=config.drain_s,
        start_timeout_s=config.start_timeout_s,
        say=say,
        on_change=admin.renew_now,
        deregister=admin.deregister,
    )
    store = FleetStore(config.name) if detached else None
    if store is not None:
        await store.claim()
    found = await find_replicas(config.name, say) if store is not None else []
    fleet = Fleet(
        config,
        environment,
        wanted=store.wanted(config) if store is not None else None,
        check=partial(_check, config),
        on_order=partial(store.save, config) if store is not None else lambda wanted: None,
        adopting=bool(found),
    )
    fleet.adopt(found)
    leaving = asyncio.Event()
    _on_signals(fleet.stop, leaving.set if detached else None)
    try:
        async with control.serving(
            control.Control(fleet, config.admin_token).app(), _control_host(config), config.control_port
        ) as url:
            say(f"control: {url}")
            lease = partial(_lease, config, fleet, url)
            keeping = asyncio.create_task(admin.keep_lease(lease), name="lease")
            try:
                await _until_over(fleet, leaving)
            finally:
                keeping.cancel()
                await asyncio.wait({keeping})
    finally:
        if not leaving.is_set():
            await admin.withdraw()
    if leaving.is_set():
        say("left: the replicas go on")
    elif store is not None:
        store.clear()


async def _until_over(fleet: Fleet, leaving: asyncio.Event) -> None:
    """Until the fleet has ended, or is left alone."""
    running = asyncio.create_task(fleet.run(), name="fleet")
    asked = asyncio.create_task(leaving.wait())
    await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if leaving.is_set() and not running.done():
        fleet.leave_alone()
        running.cancel()
        await asyncio.wait({running})
        return
    try:
        await running
    except BaseExceptionGroup as group:
        expected, others = group.split(VllmError)
        if expected is None or others is not None:
            raise
        # Replicas of one fleet fail alike: the first says it all.
        error = expected.exceptions[0]
        raise error from error.__cause__


def _lease(config: FleetConfig, fleet: Fleet, url: str) -> FleetLease:
    return FleetLease(control=url, ttl_s=config.ttl_s, pools=fleet.statuses())


def _check(config: FleetConfig, pool: PoolConfig) -> None:
    model_path(config, pool)
    cluster.device_of(pool)


def _control_host(config: FleetConfig) -> str:
    return cluster.node_address() if config.control_host == NODE_ADDRESS else config.control_host


def _on_signals(stop: Callable[[], None], leave: Callable[[], None] | None) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):  # Ray's own handlers would end the cluster at once.
        loop.add_signal_handler(name, stop)
    if leave is not None:
        loop.add_signal_handler(signal.SIGUSR1, leave)
