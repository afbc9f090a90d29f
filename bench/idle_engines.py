"""Engines that have nothing to do: `python -m bench.idle_engines --admin URL --engines 1000`.

Each one registers with the router and reports to it as a vLLM replica does, over the same code; none computes anything.
They answer health checks on ports of their own, all in one process. The first line on stdout is their number, once
every one of them is registered.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import sys
import uuid

import uvloop

from bench.stub import MODEL, Replica, StubProtocol
from pointsman.contract.events import EngineLoad
from pointsman.contract.registration import Registration
from pointsman.engine.publisher import EngineFacts, EngineReadings, Publisher
from pointsman.engine.registration import Registrar
from pointsman.engine.transport import RouterTransport

CAPACITY_TOKENS = 524_288
TOKEN_INTERVAL_S = 0.02
TTL_S = 10.0
STARTING_MAX = 16
"""Engines that start at once: a thousand in one process would wait for each other beyond their time limits."""


async def engine(number: int, admin_url: str, ready: asyncio.Semaphore, starting: asyncio.Semaphore) -> None:
    """One engine, until cancelled."""
    await starting.acquire()
    loop = asyncio.get_running_loop()
    replica = Replica(loop, TOKEN_INTERVAL_S)
    server = await loop.create_server(lambda: StubProtocol(replica), "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    name = f"engine-{number}"
    transport = RouterTransport(admin_url, "", name)
    publisher = Publisher(
        [transport],
        EngineFacts(epoch=uuid.uuid4().hex, capacity_tokens=CAPACITY_TOKENS),
        EngineReadings(resident=list, load=EngineLoad),
    )
    registration = Registration(url=url, model=MODEL, ttl_s=TTL_S)
    registrar = Registrar([admin_url], "", name, registration, renewals=[transport])

    async def announce() -> None:
        async with asyncio.timeout(60):
            await registrar.wait_registered()
        starting.release()
        ready.release()

    async with asyncio.TaskGroup() as group:
        group.create_task(registrar.run())
        group.create_task(publisher.run())
        group.create_task(announce())


async def serve(engines: int, admin_url: str) -> None:
    """Run them until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ready, starting = asyncio.Semaphore(0), asyncio.Semaphore(STARTING_MAX)
    tasks = [asyncio.create_task(engine(number, admin_url, ready, starting)) for number in range(engines)]
    registered = asyncio.create_task(_all_ready(ready, engines))
    await stop.wait()  # also while some never come to be registered
    for task in (registered, *tasks):
        task.cancel()
    await asyncio.gather(registered, *tasks, return_exceptions=True)


async def _all_ready(ready: asyncio.Semaphore, engines: int) -> None:
    for _ in range(engines):
        await ready.acquire()
    # A collection of all that a thousand engines hold takes 150 ms, in which none of them answers a request.
    gc.collect()
    gc.freeze()
    print(json.dumps(engines), flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.idle_engines", description="Registered engines at rest.")
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--admin", required=True, help="Base URL of the router's admin API.")
    options = parser.parse_args(arguments)
    uvloop.run(serve(options.engines, options.admin))


if __name__ == "__main__":
    main(sys.argv[1:])
