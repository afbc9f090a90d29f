"""A simulated vLLM replica behind HTTP: routes, answers, drain, and the process round them.

`SimServer` wires model, generation, HTTP and registration of one replica; a process may hold many. `run` is the
blocking entry for a process of its own. It is never passed off as vLLM: `/version` and the system fingerprint say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from types import TracebackType

import msgspec
import uvloop

from pointsman.contract.registration import Role
from pointsman.engine.registration import Registration
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.errors import RequestError, SimConfigError
from pointsman.engine.sim.faults import Faults
from pointsman.engine.sim.handoff import FETCH_PATH
from pointsman.engine.sim.http import Exchange, Service
from pointsman.engine.sim.metrics import CONTENT_TYPE
from pointsman.engine.sim.model import EngineModel
from pointsman.engine.sim.serving import APIS, Generation

VERSION = "0.32.0+sim"
"""The vLLM release whose surface this is."""
BACKLOG = 2048
"""Connections the kernel keeps for us; uvicorn's default."""
IDLE_SWEEP_S = 1.0
HEALTH_PATHS = ("/health", "/ping")
CORS_HEADERS = [b"vary: Origin"]
"""vLLM's CORS middleware adds it to every answer."""
DRAIN_SETTLE_S = 0.5
"""Between asking routers for no more and refusing: what they routed here by then is still served."""
CLOSE_GRACE_S = 1.0
"""What a stopping replica gives clients to take the last bytes of finished answers."""

Handler = Callable[[Exchange], None]


class SimServer:
    """One replica, built inside a running event loop. An async context manager, or `start` and `stop`."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.model = EngineModel(config.model_config())
        self.faults = Faults()
        self.draining = False
        self.port = config.port
        self._loop = asyncio.get_running_loop()
        self.service = Service(self._handle, self._loop, CORS_HEADERS)
        self._generation = Generation(config, self.model, self._loop)
        self._reporter = self._generation.reporter
        self._hung: list[Exchange] = []
        self._started_s = int(time.time())
        self._listener: asyncio.Server | None = None
        self._registration: Registration | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._relisten: asyncio.Task[None] | None = None
        self._routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._metrics_page},
            "/v1/models": {"GET": self._models},
            **{path: {"POST": self._generate} for path in APIS},
        }
        if config.max_loras:
            self._routes["/v1/load_lora_adapter"] = {"POST": self._load_adapter}
            self._routes["/v1/unload_lora_adapter"] = {"POST": self._unload_adapter}
        if config.role is Role.PREFILL:
            self._routes[FETCH_PATH] = {"POST": self._generation.kept.serve}
        if config.faults:
            self._routes["/sim/fault"] = {"GET": self._show_faults, "POST": self._set_faults}
            self._routes["/sim/stats"] = {"GET": self._show_stats}

    @property
    def url(self) -> str:
        """Where others reach this replica."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return self.config.url or f"http://{host}:{self.port}"

    @property
    def in_flight(self) -> int:
        """Requests for generation being served."""
        return self._generation.in_flight

    async def start(self) -> None:
        """Listen, and register if routers are named. Raises SimConfigError when the address cannot be bound."""
        try:
            await self._listen()
        except OSError as error:
            raise SimConfigError("port", self.port, f"an address that can be bound: {error}") from error
        self._sweep = self._loop.call_later(IDLE_SWEEP_S, self._close_idle)
        if self.config.register:
            self._registration = Registration(
                self.config.register,
                self.config.admin_token,
                self.config.replica_id,
                self.url,
                self.config.model,
                heartbeat_s=self.config.heartbeat_s,
                ttl_s=self.config.ttl_s,
                role=self.config.role,
                adapters=sorted(self._generation.adapters),
                renewals=self._reporter.transports if self._reporter is not None else (),
            )
            self._heartbeat = asyncio.create_task(self._registration.run())
            self._heartbeat.add_done_callback(_be_loud)
        if self._reporter is not None:
            self._reporter.start().add_done_callback(_be_loud)

    async def drain(self) -> bool:
        """Accept nothing more, let running answers finish, withdraw; False if some had not finished within `drain_s`.

        Routers are asked for no more first, and what is on its way by then is served. The lease is renewed until the
        end, so that nobody forgets a replica that is still busy.
        """
        if self._registration is not None and self.config.drain_s:
            await self._registration.drain()
            await asyncio.sleep(DRAIN_SETTLE_S)
        self.draining = True
        self.service.closing = True
        self._unlisten()
        self.service.close_idle(0.0)
        try:
            async with asyncio.timeout(self.config.drain_s):
                await self._generation.wait_idle()
        except TimeoutError:
            return False
        finally:
            await self._leave()
        return True

    async def stop(self) -> None:
        """Close everything at once; running answers are cut."""
        self._unlisten()
        await self._leave()
        if self._sweep is not None:
            self._sweep.cancel()
        self._generation.stop()
        await self._generation.close()
        await self.service.close(CLOSE_GRACE_S)

    async def __aenter__(self) -> SimServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _listen(self) -> None:
        self._listener = await self._loop.create_server(
            self.service.connection, self.config.host, self.port, backlog=BACKLOG, reuse_address=True
        )
        self.port = self._generation.port = self._listener.sockets[0].getsockname()[1]

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _leave(self) -> None:
        registration, self._registration = self._registration, None
        reporter, self._reporter = self._reporter, None
        if reporter is not None:
            await reporter.stop()
        if registration is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.wait({self._heartbeat})
        await registration.leave()

    def _close_idle(self) -> None:
        self.service.close_idle(self.config.keep_alive_s)
        self._sweep = self._loop.call_later(IDLE_SWEEP_S, self._close_idle)

    # Routes

    def _handle(self, exchange: Exchange) -> None:
        path = exchange.path
        methods = self._routes.get(path)
        try:
            if methods is not None:
                handler = methods.get(exchange.method)
                if handler is not None:
                    handler(exchange)
                else:
                    allow = ", ".join(methods)
                    exchange.respond(405, b'{"detail":"Method Not Allowed"}', headers=[("allow", allow)])
            elif self.config.echo and path.startswith("/echo"):
                self._echo(exchange)
            else:
                exchange.respond(404, b'{"detail":"Not Found"}')
        except RequestError as error:
            exchange.respond(error.status, error.body())

    def _health(self, exchange: Exchange) -> None:
        if self.faults.health_hang:
            self._hung.append(exchange)
            return
        healthy = self.faults.health and not self.draining
        exchange.respond(200 if healthy else 503, content_type="")

    def _version(self, exchange: Exchange) -> None:
        exchange.respond(200, msgspec.json.encode({"version": VERSION}))

    def _load(self, exchange: Exchange) -> None:
        exchange.respond(200, msgspec.json.encode({"server_load": self.in_flight}))

    def _metrics_page(self, exchange: Exchange) -> None:
        if self.faults.metrics:
            exchange.respond(200, self._generation.metrics.page(), CONTENT_TYPE)
        else:
            exchange.respond(404, b'{"detail":"Not Found"}')

    def _models(self, exchange: Exchange) -> None:
        permission = {
            "id": f"modelperm-{uuid.uuid4().hex}",
            "object": "model_permission",
            "created": self._started_s,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        base = {"object": "model", "created": self._started_s, "owned_by": "vllm", "permission": [permission]}
        model = self.config.model
        cards = [{"id": model, **base, "root": model, "parent": None, "max_model_len": self.config.context_tokens}]
        cards += [
            {"id": name, **base, "root": f"/adapters/{name}", "parent": model, "max_model_len": None}
            for name in sorted(self._generation.adapters)
        ]
        exchange.respond(200, msgspec.json.encode({"object": "list", "data": cards}))

    def _load_adapter(self, exchange: Exchange) -> None:
        name, adapters = _adapter_name(exchange.body, "lora_name", "lora_path"), self._generation.adapters
        if name in adapters:
            text = f"The lora adapter '{name}' has already been loaded."
            raise RequestError(400, "InvalidUserInput", text)
        adapters.add(name)
        self._offer()
        exchange.respond(200, f"Success: LoRA adapter '{name}' added successfully.".encode(), "text/plain")

    def _unload_adapter(self, exchange: Exchange) -> None:
        name, adapters = _adapter_name(exchange.body, "lora_name"), self._generation.adapters
        if name not in adapters:
            raise RequestError(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        adapters.discard(name)
        self.model.adapters.drop(name)
        self._offer()
        exchange.respond(200, f"Success: LoRA adapter '{name}' removed successfully.".encode(), "text/plain")

    def _offer(self) -> None:
        if self._registration is not None:
            self._registration.offer(sorted(self._generation.adapters))

    def _echo(self, exchange: Exchange) -> None:
        path, _, query = exchange.target.partition(b"?")
        said = {
            "method": exchange.method,
            "path": path.decode("latin-1"),
            "query": query.decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in exchange.headers],
            "body_sha256": hashlib.sha256(exchange.body).hexdigest(),
            "body_bytes": len(exchange.body),
            "replica": self.config.replica_id,
        }
        exchange.respond(200, msgspec.json.encode(said))

    def _generate(self, exchange: Exchange) -> None:
        if self.draining:
            body = RequestError(503, "ServiceUnavailableError", "The replica is draining").body()
            exchange.respond(503, body, headers=[("retry-after", "1")])
        elif not self._faulty(exchange):
            self._generation.serve(exchange)

    # Faults

    def _faulty(self, exchange: Exchange) -> bool:
        """Whether a fault took this request."""
        faults = self.faults
        if faults.reset_before_response > 0:
            faults.reset_before_response -= 1
            exchange.reset()
        elif faults.hang:
            self._hung.append(exchange)
        elif faults.error_count > 0:
            faults.error_count -= 1
            raise RequestError(faults.error_status, "InternalServerError", "A fault that was asked for")
        else:
            return False
        return True

    def _show_faults(self, exchange: Exchange) -> None:
        exchange.respond(200, msgspec.json.encode(self.faults))

    def _set_faults(self, exchange: Exchange) -> None:
        before, self.faults = self.faults, self.faults.updated(exchange.body)
        self._generation.suffer(self.faults)
        if self.faults.refuse and not before.refuse:
            # Before the answer: the connection that asked is busy, so it stays and can take it back.
            self._unlisten()
            self.service.close_idle(0.0)
        if before.refuse and not self.faults.refuse:
            self._relisten = self._loop.create_task(self._reopen(exchange))
        else:
            self._show_faults(exchange)
        hung, self._hung = self._hung, []
        for waiting in hung:
            if self.faults.health_hang if waiting.path in HEALTH_PATHS else self.faults.hang:
                self._hung.append(waiting)
            elif not waiting.lost:
                self._handle(waiting)

    async def _reopen(self, exchange: Exchange) -> None:
        await self._listen()
        self._show_faults(exchange)

    def _show_stats(self, exchange: Exchange) -> None:
        shown = {
            "in_flight": self.in_flight,
            "hung": len(self._hung),
            "finished_by_reason": self._generation.metrics.finished,
            "engine": self.model.stats(),
            "kv_kept": len(self._generation.kept),
            "kv_fetched": self._generation.kept.fetched,
            "handoffs": self._generation.handoffs(),
        }
        exchange.respond(200, msgspec.json.encode(shown))


def _adapter_name(body: bytes, *wanted: str) -> str:
    """The first of the fields `wanted`, all of which are there. Raises RequestError."""
    try:
        given = msgspec.json.decode(body, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise RequestError(400, "Bad Request", str(error)) from None
    values = [given.get(key) for key in wanted]
    if not all(isinstance(value, str) and value for value in values):
        raise RequestError(400, "InvalidUserInput", f"{' and '.join(wanted)} must be provided.")
    return str(values[0])


def _be_loud(task: asyncio.Task[None]) -> None:
    """A background task that fails is a mistake of ours: let the event loop report it when it happens."""
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
