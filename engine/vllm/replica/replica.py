"""One replica: a Ray actor that runs vLLM's engine and serves its OpenAI app over HTTP, straight to the client.

Ray carries only the few calls below; no token passes through it. A replica is driven by four of them in this order:
`start` (load, serve, first token, register), `wait` (until the replica stops or dies), `drain`, `end`. The replica
watches its engine by itself: when the engine dies, the replica withdraws from the routers and stops listening, whether
or not a driver is there to see. The replica also watches whether it is orphaned: without the raylet that started it no
driver reaches it any more, and once a router has a later incarnation, the id is that one's. An orphaned replica
finishes what runs, within `drain_s`, and ends with its engine. The class is plain: `actor` makes it an actor with
`ray.remote`, a test may use it as it is on any event loop.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable

import httpx
import msgspec
import uvicorn

from pointsman.contract.events import Handoffs
from pointsman.contract.registration import Role
from pointsman.engine.disaggregation import Peer
from pointsman.engine.vllm.errors import EngineStartError, ReplicaDiedError, VllmError
from pointsman.engine.vllm.fleet import cluster
from pointsman.engine.vllm.fleet.config import NODE_ADDRESS
from pointsman.engine.vllm.fleet.spec import Place, ReplicaSpec
from pointsman.engine.vllm.replica import failure, openai_server
from pointsman.engine.vllm.replica.connector import open_side_channel
from pointsman.engine.vllm.replica.gate import App, Gate
from pointsman.engine.vllm.replica.handoff import Handoff, current_handed_over
from pointsman.engine.vllm.replica.priorities import classed, ranked
from pointsman.engine.vllm.replica.renaming import renaming
from pointsman.engine.vllm.replica.router_link import RouterLink
from pointsman.engine.vllm.replica.signals import EngineSignals

log = logging.getLogger("pointsman.vllm.replica")

KEEP_ALIVE_S = 75
"""Idle connections are kept longer than HAProxy keeps them, so the side that reuses one never meets a closed one."""

BACKLOG = 2048
"""Connections the kernel holds while the event loop is busy."""

ALIVE_CHECK_S = 0.1
"""Between two checks that the engine lives and the replica is not orphaned; requests and health checks notice the death
of an engine at once."""

EXIT_DELAY_S = 1.0
"""Between the end of an orphaned replica and that of its process: a call that waits is answered with the reason."""

DRAIN_SETTLE_S = 0.5
"""Between the drain at the routers and refusing work: what is on its way here by then is still served."""

UNANSWERED_SETTLE_S = 2.0
"""Seconds of settling when a router did not answer: HAProxy then notices two failed health checks."""

EX_ORPHANED = 1
"""Exit status of an orphaned replica's process."""

_CLOSE_S = 1
"""Seconds that uvicorn waits for connections once the work is over; requests of a dead engine have failed by then."""


class Found(msgspec.Struct, frozen=True):
    """The state of a replica that a driver finds."""

    place: Place
    begun: bool
    """Whether the replica was asked to start: a rank that was not lacks the arguments of its group."""
    stopping: bool


class Started(msgspec.Struct, frozen=True):
    """A replica that has given its first token."""

    replica: str
    url: str
    pids: tuple[int, ...]
    """The actor's process and those of the engine."""
    start_s: float


class VllmReplica:
    """One vLLM engine and its HTTP server. Methods run on one event loop, in any thread."""

    def __init__(
        self,
        spec: ReplicaSpec,
        place: Place,
        *,
        parent: Callable[[], int] = os.getppid,
        exit: Callable[[int], None] = os._exit,
    ) -> None:
        """`parent` gives the id of this process's parent: the node's raylet while that lives. `exit` ends this one."""
        self._spec = spec
        self._place = place
        self._parent = parent
        self._parent_pid = parent()
        self._exit = exit
        self._signals = EngineSignals()
        self._starting: asyncio.Task[Started] | None = None
        self._stopping = False
        self._died = ""
        self._over = asyncio.Event()
        self._link = RouterLink(spec)
        self._watch: asyncio.Task[None] | None = None
        self._handoff: Handoff | None = None

    async def found(self) -> Found:
        """Which replica this is and how it stands: asked by a driver that finds it."""
        return Found(self._place, self._starting is not None, self._stopping)

    async def reserve(self) -> tuple[str, int]:
        """An address of this machine and a port free there, for the coordinator of a data-parallel group."""
        host = self._host()
        with socket.create_server((host, 0), family=_family(host)) as listening:
            return host, listening.getsockname()[1]

    async def start(self, more: tuple[str, ...] = ()) -> Started:
        """Load the model, serve, wait for a real token, register. Raises EngineStartError with vLLM's own message.

        `more` are arguments of `vllm serve` that are known only then. Asked again, it answers the same start.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(more))
        return await asyncio.shield(self._starting)

    async def wait(self) -> None:
        """Return when the replica has ended; raise ReplicaDiedError when it did so unasked."""
        await self._over.wait()
        if self._died:
            raise ReplicaDiedError(f"{self._spec.id}: {self._died}")

    async def drain(self, drain_s: float) -> int:
        """Ask the routers for no more and let running work finish for at most `drain_s`; how many requests are left.

        The lease is renewed while the work finishes, so nobody forgets the replica. Health checks fail from the start,
        work is refused only when all that could be on its way has come.
        """
        self._stopping = True
        if self._link.registered and drain_s:
            self._gate.fail_checks()
            accepted = await self._link.drain()
            await asyncio.sleep(DRAIN_SETTLE_S if accepted else UNANSWERED_SETTLE_S)
        return await self._gate.drain(drain_s)

    async def end(self) -> None:
        """Leave the routers, close, end the engine; what still runs is cut."""
        self._stopping = True
        await self.leave()
        await asyncio.get_running_loop().run_in_executor(None, self._server.shutdown)
        self._over.set()

    async def leave(self) -> None:
        """Leave the routers and stop listening: connections are refused, which HAProxy answers by going elsewhere."""
        self._http.should_exit = True
        await self._link.withdraw()
        await self._serving
        if self._handoff is not None:
            await self._handoff.close()

    async def _start(self, more: tuple[str, ...]) -> Started:
        began_s = time.monotonic()
        _tell_children_of_ray()
        if self._spec.role is not Role.BOTH:
            open_side_channel(self._host(), self._place.rank)
        try:
            argv = (*self._spec.argv, *more)
            self._server = await openai_server.build(argv, self._signals, kv_events=bool(self._spec.admin))
        except VllmError:
            raise
        except Exception as error:  # Whatever vLLM, torch or transformers raise: it is about their input, not about us.
            raise EngineStartError(failure.start_failure(error, failure.own_logs())) from error
        app = renaming(self._server.app)
        if self._server.by_priority:
            self._server.watch(ranked)
            app = classed(app)
        app = self._link.report(self._server, self._paired(app), self._signals, self._handoffs, current_handed_over)
        self._gate = Gate(app, alive=lambda: self._server.alive)
        url = self._serve(self._gate)
        await self._first_token(url)
        self._gate.open()
        self._link.register(url)
        self._watch = asyncio.create_task(self._watch_engine())
        pids = (os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid))
        return Started(self._spec.id, url, pids, time.monotonic() - began_s)

    async def _watch_engine(self) -> None:
        done: set[asyncio.Task[None]] = set()
        orphaned = ""
        while self._server.alive and not done and not orphaned:
            done, _ = await asyncio.wait({self._serving}, timeout=ALIVE_CHECK_S)
            orphaned = self._orphaned()
        if orphaned:
            await self._end_orphaned(orphaned)
        elif not self._stopping:
            self._died = "the HTTP server died" if self._server.alive else "the engine died"
            self._over.set()
            await self.leave()

    def _orphaned(self) -> str:
        """Why no driver can reach this replica any longer; empty while one can."""
        if self._parent() != self._parent_pid:
            return "the raylet that kept it died"
        if self._link.superseded:
            return "a later incarnation of it is registered"
        return ""

    async def _end_orphaned(self, why: str) -> None:
        """End this process: an engine left alone would hold its accelerator without end."""
        log.warning("replica %s: %s: it ends, within %g s", self._spec.id, why, self._spec.drain_s)
        self._died = why
        left = await self.drain(self._spec.drain_s)
        if left:
            log.warning("replica %s: cut %d requests", self._spec.id, left)
        await self.end()
        await asyncio.sleep(EXIT_DELAY_S)
        self._exit(EX_ORPHANED)

    def _host(self) -> str:
        return cluster.node_address() if self._spec.host == NODE_ADDRESS else self._spec.host

    def _serve(self, gate: Gate) -> str:
        host = self._host()
        listening = socket.create_server((host, 0), family=_family(host), backlog=BACKLOG)
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
        return f"http://{Peer(host, listening.getsockname()[1])}"

    def _paired(self, app: App) -> App:
        """Put handoffs around the engine of a replica with a role; the app to serve instead of `app`."""
        if self._spec.role is Role.BOTH:
            return app
        self._handoff = Handoff(
            self._spec.role,
            self._spec.model,
            timeout_s=self._spec.prefill_timeout_s,
            lost=lambda: self._signals.failed_transfers,
        )
        self._server.watch(self._handoff.watch)
        return self._handoff.app(app)

    def _handoffs(self) -> Handoffs | None:
        return None if self._handoff is None else self._handoff.totals()

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


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _tell_children_of_ray() -> None:
    """Name the cluster to the engine's process, which vLLM's Ray executor connects from: by itself it would look for
    any cluster of this machine."""
    ray = sys.modules.get("ray")  # It is there in an actor, whatever is installed elsewhere.
    if ray is not None and ray.is_initialized():
        os.environ["RAY_ADDRESS"] = str(ray.get_runtime_context().gcs_address)
