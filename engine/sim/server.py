"""A simulated vLLM replica behind HTTP: routes, answers, drain, and the process round them.

`SimServer` wires model, driver, HTTP and metrics of one replica and can be started many times in a process. `run` is
the blocking entry for a process of its own. It is never passed off as vLLM: `/version` and the system fingerprint say
so.
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

from engine.registration import Registration
from engine.sim.answers import Choice, Reply, StreamReply
from engine.sim.bodies import READERS, Ask, read_json
from engine.sim.config import SimConfig
from engine.sim.driver import Driver
from engine.sim.errors import RequestError
from engine.sim.faults import Faults
from engine.sim.http import Exchange, Service
from engine.sim.metrics import CONTENT_TYPE, Metrics
from engine.sim.model import EngineModel, SimRequest, StepResult
from engine.sim.prompts import block_hashes, draw_answer
from engine.sim.wire import WIRES

VERSION = "0.32.0+sim"
"""The vLLM release whose surface this is."""
BACKLOG = 2048
"""Connections the kernel keeps for us; uvicorn's default."""
IDLE_SWEEP_S = 1.0
CLOSE_GRACE_S = 1.0
"""What a stopping replica gives clients to take the last bytes of finished answers."""

Handler = Callable[[Exchange], None]


class SimServer:
    """One replica. Use as an async context manager, or `start` and `stop`."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.model = EngineModel(config.model_config())
        self.metrics = Metrics(config, self.model)
        self.faults = Faults()
        self.draining = False
        self.port = config.port
        self._choices: dict[str, Choice] = {}
        self._replies: set[Reply] = set()
        self._hung: list[Exchange] = []
        self._next_id = 0
        self._started_s = int(time.time())
        self._idle = asyncio.Event()
        self._idle.set()
        self._listener: asyncio.Server | None = None
        self._registration: Registration | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._metrics_page},
            "/v1/models": {"GET": self._models},
            **{path: {"POST": self._generate} for path in READERS},
        }
        if config.faults:
            self._routes["/sim/fault"] = {"GET": self._show_faults, "POST": self._set_faults}
            self._routes["/sim/stats"] = {"GET": self._show_stats}

    @property
    def url(self) -> str:
        """Where others reach this replica."""
        return self.config.url or f"http://{self.config.host}:{self.port}"

    @property
    def in_flight(self) -> int:
        """Requests for generation being served."""
        return len(self._replies)

    async def start(self) -> None:
        """Listen, and register if routers are named. Raises OSError when the address cannot be bound."""
        self._loop = asyncio.get_running_loop()
        self._service = Service(self._handle, self._loop)
        self._driver = Driver(self.model, self._deliver, self._loop)
        await self._listen()
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
            )
            self._heartbeat = asyncio.create_task(self._registration.run())

    async def drain(self) -> bool:
        """Withdraw, accept nothing more, let running answers finish; False if some had not within `drain_s`."""
        self.draining = True
        self._service.closing = True
        self._unlisten()
        await self._leave()
        try:
            async with asyncio.timeout(self.config.drain_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Close everything at once; running answers are cut."""
        self._unlisten()
        await self._leave()
        if self._sweep is not None:
            self._sweep.cancel()
        self._driver.stop()
        await self._service.close(CLOSE_GRACE_S)

    async def __aenter__(self) -> SimServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _listen(self) -> None:
        self._listener = await self._loop.create_server(
            self._service.connection, self.config.host, self.port, backlog=BACKLOG, reuse_address=True
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _leave(self) -> None:
        registration, self._registration = self._registration, None
        if registration is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.wait({self._heartbeat})
        await registration.leave()

    def _close_idle(self) -> None:
        self._service.close_idle(self.config.keep_alive_s)
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
        healthy = self.faults.health and not self.draining
        exchange.respond(200 if healthy else 503, content_type="")

    def _version(self, exchange: Exchange) -> None:
        exchange.respond(200, msgspec.json.encode({"version": VERSION}))

    def _load(self, exchange: Exchange) -> None:
        exchange.respond(200, msgspec.json.encode({"server_load": self.in_flight}))

    def _metrics_page(self, exchange: Exchange) -> None:
        exchange.respond(200, self.metrics.page(), CONTENT_TYPE)

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
        card = {
            "id": self.config.model,
            "object": "model",
            "created": self._started_s,
            "owned_by": "vllm",
            "root": self.config.model,
            "parent": None,
            "max_model_len": self.config.context_tokens,
            "permission": [permission],
        }
        exchange.respond(200, msgspec.json.encode({"object": "list", "data": [card]}))

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

    # Generation

    def _generate(self, exchange: Exchange) -> None:
        if self.draining:
            body = RequestError(503, "ServiceUnavailableError", "The replica is draining").body()
            exchange.respond(503, body, headers=[("retry-after", "1")])
            return
        if self._faulty(exchange):
            return
        path = exchange.path
        try:
            values = read_json(exchange.body, exchange.header(b"content-type") or b"")
            ask = READERS[path](values)
        except RecursionError:
            raise RequestError(400, "Bad Request", "There was an error parsing the body") from None
        self._check(ask)
        self._answer(exchange, path, ask)

    def _check(self, ask: Ask) -> None:
        """What vLLM refuses once it knows what is asked. Raises RequestError."""
        served = self.config.model
        if ask.model and ask.model != served:
            text = f"The model `{ask.model}` does not exist. Valid aliases: {served}."
            raise RequestError(404, "NotFoundError", text, "model")
        limit = self.config.context_tokens
        if ask.max_tokens is not None and ask.max_tokens > limit:
            text = f"max_tokens={ask.max_tokens} cannot be greater than max_model_len={limit}. "
            text += f"Please request fewer output tokens. (parameter=max_tokens, value={ask.max_tokens})"
            raise RequestError(400, "BadRequestError", text, "max_tokens")
        for prompt in ask.prompts:
            if not prompt.tokens:
                raise RequestError(400, "BadRequestError", "The decoder prompt cannot be empty")
            if prompt.tokens > limit:
                text = f"This model's maximum context length is {limit} tokens. However, your prompt contains "
                text += f"{prompt.tokens} input tokens, which exceeds this limit even without any output tokens. "
                text += f"Please reduce the length of the input prompt. (parameter=input_tokens, value={prompt.tokens})"
                raise RequestError(400, "BadRequestError", text, "input_tokens")
            if prompt.tokens == limit:
                text = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
                raise RequestError(400, "BadRequestError", text, "max_tokens")

    def _answer(self, exchange: Exchange, path: str, ask: Ask) -> None:
        config = self.config
        given = exchange.header(b"x-request-id")
        wire = WIRES[path](
            given.decode("latin-1") if given else uuid.uuid4().hex,
            int(time.time()),
            config.model,
            len(ask.prompts) * ask.choices,
            ask.include_usage,
        )
        prompt_tokens = sum(prompt.tokens for prompt in ask.prompts)
        full = ask.prompts[0].tokens // config.block_size * config.block_size
        kind = StreamReply if ask.stream else Reply
        reply = kind(exchange, wire, prompt_tokens, full, self._loop.time())
        requests: list[SimRequest] = []
        for prompt in ask.prompts:
            for _ in range(ask.choices):
                limit = min(ask.max_tokens or config.context_tokens, config.context_tokens - prompt.tokens)
                mean = 0 if ask.ignore_eos else config.mean_output_tokens
                answer = draw_answer(prompt, len(requests), config.seed, mean, limit, ask.min_tokens)
                hashes = block_hashes(prompt.data + answer.data(), config.block_size, ask.cache_salt)
                self._next_id += 1
                request = SimRequest(str(self._next_id), prompt.tokens, answer.tokens, hashes)
                choice = Choice(reply, len(requests), request.request_id, answer)
                reply.add(choice)
                self._choices[request.request_id] = choice
                requests.append(request)
        self._replies.add(reply)
        self._idle.clear()
        reply.on_finished = self._finished
        exchange.on_lost = lambda: self._abort(reply)
        reply.begin()
        if config.first_token_ms:
            self.metrics.waiting_outside += len(requests)
            self._loop.call_later(config.first_token_ms / 1000, self._submit_late, requests)
        else:
            for request in requests:
                self._driver.submit(request)

    def _submit_late(self, requests: list[SimRequest]) -> None:
        self.metrics.waiting_outside -= len(requests)
        for request in requests:
            if request.request_id in self._choices:
                self._driver.submit(request)

    def _deliver(self, result: StepResult) -> None:
        """Hand a step's tokens to the answers they belong to; some may have been aborted while it ran."""
        choices = self._choices
        now_s = self._loop.time()
        for request_id, cached in result.first.items():
            if choice := choices.get(request_id):
                choice.reply.first(cached)
                self.metrics.first_token_s.observe(now_s - choice.reply.arrived_s)
        cut = self.faults.reset_after_tokens
        for request_id in result.emitted:
            if choice := choices.get(request_id):
                choice.reply.token(choice)
                if cut and choice.computed >= cut:
                    choice.reply.exchange.reset()
        for request_id in result.finished:
            if choice := choices.pop(request_id, None):
                self.metrics.finished[choice.reason] += 1

    def _finished(self, reply: Reply) -> None:
        self.metrics.latency_s.observe(self._loop.time() - reply.arrived_s)
        self._forget(reply)

    def _abort(self, reply: Reply) -> None:
        """The client left: whatever is still being computed for it stops."""
        for choice in reply.choices:
            if self._choices.pop(choice.request_id, None) is not None:
                self.model.abort(choice.request_id)
                self.metrics.finished["abort"] += 1
        self._forget(reply)

    def _forget(self, reply: Reply) -> None:
        self._replies.discard(reply)
        if not self._replies:
            self._idle.set()

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
        exchange.respond(200, msgspec.json.encode(self.faults))
        if self.faults.refuse and not before.refuse:
            self._unlisten()
            self._service.close_idle(0.0)
        elif before.refuse and not self.faults.refuse:
            self._relisten = self._loop.create_task(self._listen())
        if not self.faults.hang:
            hung, self._hung = self._hung, []
            for waiting in hung:
                if not waiting.lost:
                    self._handle(waiting)

    def _show_stats(self, exchange: Exchange) -> None:
        stats = msgspec.structs.asdict(self.model.stats())
        exchange.respond(200, msgspec.json.encode({**stats, "in_flight": self.in_flight, **self.metrics.finished}))


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
