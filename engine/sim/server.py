"""A simulated vLLM replica behind HTTP: its life from start to drain and stop, and the process round it.

`SimServer` wires model, generation, routes, HTTP and registration of one replica; a process may hold many. `run` is the
blocking entry for a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import TracebackType

import uvloop

from pointsman.contract.registration import Registration
from pointsman.engine.disaggregation import Peer
from pointsman.engine.registration import Registrar
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.errors import SimConfigError
from pointsman.engine.sim.faults import FaultInjection
from pointsman.engine.sim.http import Service
from pointsman.engine.sim.priority_model import engine_model
from pointsman.engine.sim.routes import Routes
from pointsman.engine.sim.serving import Generation

CORS_HEADERS = [(b"vary", b"Origin")]
"""vLLM's CORS middleware adds it to every answer."""
DRAIN_SETTLE_S = 0.5
"""Between asking routers for no more and refusing: what they routed here by then is still served."""
CLOSE_GRACE_S = 1.0
"""Seconds that clients have to take the last bytes of finished answers from a stopping replica."""


class SimServer:
    """One replica, built inside a running event loop. An async context manager, or `start` and `stop`."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.model = engine_model(config.model_config())
        self.port = config.port
        loop = asyncio.get_running_loop()
        self._born_ms = time.time_ns() // 1_000_000
        self._generation = Generation(config, self.model, loop, born_ms=self._born_ms)
        self._routes = Routes(config, self._generation, self._set_adapters)
        self.service = Service(self._routes.handle, loop, CORS_HEADERS, config.keep_alive_s)
        if config.faults:
            self._routes.inject(FaultInjection(self.service, self._routes.handle, self._generation.suffer))
        self._registrar: Registrar | None = None

    @property
    def url(self) -> str:
        """Where others reach this replica."""
        return self.config.url or f"http://{Peer(self.config.host, self.port)}"

    @property
    def in_flight(self) -> int:
        """Requests for generation being served."""
        return self._generation.in_flight

    @property
    def draining(self) -> bool:
        """Whether generation is refused."""
        return self._routes.draining

    async def start(self) -> None:
        """Listen, and register if routers are named. Raises SimConfigError when the address cannot be bound."""
        try:
            self.port = self._generation.port = await self.service.listen(self.config.host, self.port)
        except OSError as error:
            raise SimConfigError("port", self.port, f"an address that can be bound: {error}") from error
        reporter = self._generation.reporter
        if self.config.register:
            registration = Registration(
                url=self.url,
                model=self.config.model,
                ttl_s=self.config.ttl_s,
                role=self.config.role,
                adapters=sorted(self._generation.adapters),
                born_ms=self._born_ms,
                renames_model=True,
            )
            self._registrar = Registrar(
                self.config.register,
                self.config.admin_token,
                self.config.replica_id,
                registration,
                heartbeat_s=self.config.heartbeat_s,
                renewals=reporter.transports if reporter is not None else (),
            )
            self._registrar.start().add_done_callback(_raise_failure)
        if reporter is not None:
            reporter.publisher.start().add_done_callback(_raise_failure)

    async def drain(self) -> bool:
        """Accept nothing more, let running answers finish, withdraw; False if some had not finished within `drain_s`.

        Routers are asked for no more first, and what is on its way by then is served. The lease is renewed until the
        end, so that no router forgets a replica that is still busy.
        """
        if self._registrar is not None and self.config.drain_s:
            await self._registrar.drain()
            await asyncio.sleep(DRAIN_SETTLE_S)
        self._routes.draining = True
        self.service.stop_listening()
        self.service.shut_down()
        try:
            async with asyncio.timeout(self.config.drain_s):
                await self._generation.idle.wait()
        except TimeoutError:
            return False
        finally:
            await self._withdraw()
        return True

    async def stop(self) -> None:
        """Close everything at once; running answers are cut."""
        self.service.stop_listening()
        await self._withdraw()
        await self._generation.stop()
        await self.service.close(CLOSE_GRACE_S)

    async def __aenter__(self) -> SimServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _withdraw(self) -> None:
        reporter, self._generation.reporter = self._generation.reporter, None
        if reporter is not None:
            await reporter.publisher.stop()
        registrar, self._registrar = self._registrar, None
        if registrar is not None:
            await registrar.withdraw()

    def _set_adapters(self, adapters: Sequence[str]) -> None:
        if self._registrar is not None:
            self._registrar.set_adapters(adapters)


def _raise_failure(task: asyncio.Task[None]) -> None:
    """Let the event loop report a background task that failed, which is a mistake of ours, when it happens."""
    if not task.cancelled():
        task.result()


async def serve(config: SimConfig) -> None:
    """Serve until the first SIGTERM or SIGINT, then drain. A second one exits at once."""
    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()

    def on_signal(number: int) -> None:
        if leaving.is_set():
            os._exit(128 + number)
        leaving.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    async with SimServer(config) as server:
        print(f"ready: {server.url}", flush=True)
        await leaving.wait()
        if not await server.drain():
            print(f"{server.in_flight} requests were cut after {config.drain_s:g} s", file=sys.stderr, flush=True)


def run(config: SimConfig) -> None:
    """Serve in this process until told to stop; returns after the drain."""
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(config))
