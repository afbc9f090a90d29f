"""One replica: a Ray actor that runs vLLM's engine and serves its OpenAI app over HTTP, straight to the client.

Ray carries only the few calls below; no token passes through it. The life of a replica is one line:
`start` (load, serve, first token, register), `wait` (until it stops or dies), `stop` (drain, leave, end).
The class is plain: `launch` makes it an actor with `ray.remote`, a test may use it as it is on any event loop.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import time

import httpx
import msgspec
import uvicorn

from engine.registration import Registration
from engine.transport import HttpTransport
from engine.vllm import failure, openai_server
from engine.vllm.config import NODE_ADDRESS, ReplicaSpec
from engine.vllm.errors import EngineStartError, ReplicaDiedError, VllmError
from engine.vllm.gate import App, Gate
from engine.vllm.reporting import Reporter
from engine.vllm.signals import EngineSignals, Signals
from router.state.schema import EngineLoad

KEEP_ALIVE_S = 75
"""Idle connections are kept longer than HAProxy keeps them, so the side that reuses one never meets a closed one."""

BACKLOG = 2048
"""Connections the kernel holds while the event loop is busy."""

ALIVE_CHECK_S = 0.5
"""How often the engine is asked whether it lives; its death also shows at once to requests and health checks."""

DRAIN_SETTLE_S = 0.5
"""Between telling the routers and refusing work: what is on its way here by then is still served."""

LAST_WORDS_S = 2.0
"""How long a dead engine's requests get to tell their clients so."""

_CLOSE_S = 1
"""How long uvicorn waits for connections once the work is over."""


class Started(msgspec.Struct, frozen=True):
    """A replica that has given its first token."""

    url: str
    pids: tuple[int, ...]
    """The actor's process and those of the engine."""
    start_s: float


class VllmReplica:
    """One vLLM engine and its HTTP server. Methods run on one event loop, in any thread."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._signals = EngineSignals()
        self._stopping = False
        self._registration: Registration | None = None
        self._reporter: Reporter | None = None
        self._heartbeat: asyncio.Task[None] | None = None

    async def start(self) -> Started:
        """Load the model, serve, wait for a real token, register. Raises EngineStartError with vLLM's own message."""
        began_s = time.monotonic()
        try:
            self._server = await openai_server.build(self._spec.argv, self._signals, kv_events=bool(self._spec.admin))
        except VllmError:
            raise
        except Exception as error:  # Whatever vLLM, torch or transformers raise: it is about their input, not about us.
            raise EngineStartError(failure.start_failure(error, failure.own_logs())) from error
        self._gate = Gate(self._reported(self._server.app), alive=lambda: self._server.alive)
        url = self._serve(self._gate)
        await self._first_token(url)
        self._gate.open()
        self._register(url)
        pids = (os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid))
        return Started(url, pids, time.monotonic() - began_s)

    async def wait(self) -> None:
        """Return when the replica has stopped; raise ReplicaDiedError when engine or server ended unasked."""
        while self._server.alive or self._stopping:
            done, _ = await asyncio.wait({self._serving}, timeout=ALIVE_CHECK_S)
            if done and self._stopping:
                return
            if done:
                break
        await self._leave()
        await self._gate.drain(LAST_WORDS_S)
        what = "HTTP server" if self._server.alive else "engine"
        raise ReplicaDiedError(f"{self._spec.id}: the {what} died")

    async def stop(self, drain_s: float) -> int:
        """Ask the routers for no more, let running work finish for at most `drain_s`, leave, end.

        Answers how many requests were cut. The lease is renewed while the work finishes, so nobody forgets the replica.
        """
        self._stopping = True
        if self._registration is not None and drain_s:
            await self._registration.drain()
            await asyncio.sleep(DRAIN_SETTLE_S)
        left = await self._gate.drain(drain_s)
        await self._leave()
        self._http.should_exit = True
        await self._serving
        await asyncio.get_running_loop().run_in_executor(None, self._server.shutdown)
        return left

    async def signals(self) -> Signals:
        """Load of this replica at this moment."""
        return self._signals.read(
            in_flight=self._gate.in_flight,
            unfinished=self._server.unfinished,
            queued_tokens=self._server.queued_tokens,
        )

    def _reported(self, app: App) -> App:
        """The app, and an engine whose routers are told what happens in it."""
        spec = self._spec
        if not spec.admin:
            return app
        transports = [HttpTransport(admin, spec.admin_token, spec.id) for admin in spec.admin]
        self._reporter = Reporter(transports, load=self._load)
        self._reporter.start(self._server.prefix_cache)
        self._server.watch(self._reporter.watch)
        return self._reporter.app(app)

    def _load(self) -> EngineLoad:
        signals = self._signals
        return EngineLoad(
            running=signals.running,
            waiting=signals.waiting,
            queued_prefill_tokens=self._server.queued_tokens,
            kv_usage=signals.kv_usage,
        )

    def _serve(self, gate: Gate) -> str:
        host = _node_address() if self._spec.host == NODE_ADDRESS else self._spec.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, 0), family=family, backlog=BACKLOG)
        config = uvicorn.Config(
            gate,
            lifespan="on",
            log_level="warning",
            access_log=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CLOSE_S,
        )
        self._http = uvicorn.Server(config)
        self._server.end_with(self._http)
        self._serving = asyncio.create_task(self._http.serve(sockets=[listening]))
        port = listening.getsockname()[1]
        return f"http://[{host}]:{port}" if family == socket.AF_INET6 else f"http://{host}:{port}"

    async def _first_token(self, url: str) -> None:
        """Ask over HTTP for one token. An engine that loaded may still fail at its first step; this is that step."""
        headers = {"authorization": f"Bearer {self._server.api_keys[0]}"} if self._server.api_keys else {}
        body = {"model": self._spec.model, "prompt": "Hello", "max_tokens": 1}
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            asking = asyncio.create_task(client.post(f"{url}/v1/completions", json=body, headers=headers))
            await asyncio.wait({asking, self._serving}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                asking.cancel()
                raise EngineStartError("the HTTP server did not start: " + failure.last_lines(failure.own_logs()))
            answer = asking.result()
        if answer.status_code != 200:
            raise EngineStartError(f"the first request failed with status {answer.status_code}: {answer.text[:500]}")

    def _register(self, url: str) -> None:
        if not self._spec.admin:
            return
        self._registration = Registration(
            self._spec.admin,
            self._spec.admin_token,
            self._spec.id,
            url,
            self._spec.model,
            ttl_s=self._spec.ttl_s,
            heartbeat_s=self._spec.heartbeat_s,
        )
        self._heartbeat = asyncio.create_task(self._registration.run())

    async def _leave(self) -> None:
        reporter, self._reporter = self._reporter, None
        if reporter is not None:
            await reporter.stop()
        if self._registration is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.wait({self._heartbeat})
        registration, self._registration = self._registration, None
        await registration.leave()


def _node_address() -> str:
    """The address other machines of the Ray cluster reach this one by."""
    import ray

    return str(ray.util.get_node_ip_address())
