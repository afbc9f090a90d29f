"""The running parts of one edge under `pointsman up`: its router and its HAProxy.

`Edge` keeps HAProxy running: it starts one that ended again, for as long as it takes, and ends one that no longer
answers, which nothing else would notice.
"""

from __future__ import annotations

import asyncio
import os

import msgspec
import structlog

from pointsman.commands.engine import ADMIN_TOKEN_VARIABLE
from pointsman.commands.haproxy import saved_servers
from pointsman.contract.backoff import Backoff
from pointsman.errors import NotReadyError
from pointsman.haproxy.binary import Binary
from pointsman.haproxy.config import EdgeConfig
from pointsman.haproxy.errors import HAProxyError
from pointsman.haproxy.process import HAProxyProcess
from pointsman.router.errors import RouterError
from pointsman.up.child import MAX_BACKOFF_S, MIN_BACKOFF_S, Child, Say, go_on
from pointsman.up.plan import EdgePlan
from pointsman.up.terminal import how_it_ended
from pointsman.up.window import WindowWatch, saved_window

HAPROXY_DRAIN_S = 30.0
"""Streams still running this long after the first Ctrl-C are cut."""

PROBE_S = 5.0
"""Between two looks whether HAProxy answers on its admin socket."""

HUNG_PROBES = 3
"""Looks in a row without an answer, of two seconds each, after which HAProxy counts as hung. Only a debugger, a stopped
process or the kernel holds it up for so long, and nobody is served meanwhile."""

log = structlog.get_logger(__name__)


def environment(made: EdgePlan) -> dict[str, str]:
    """The environment of every child: ours, with the admin token where one is set."""
    token = made.settings.admin.token
    return {**os.environ, ADMIN_TOKEN_VARIABLE: token} if token else dict(os.environ)


class Edge:
    """One router and one HAProxy, kept running."""

    def __init__(self, made: EdgePlan, binary: Binary, say: Say) -> None:
        self.plan = made
        self._binary = binary
        self._say = say
        self.router: Child | None = None
        self.restarts = 0
        """Number of HAProxy's restarts."""
        self._haproxy: HAProxyProcess | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._window_bytes = made.edge.body_window_bytes
        """Body window, in bytes, of the HAProxy that was started last."""
        self._reload_task: asyncio.Task[None] | None = None
        self._serving = False
        """HAProxy has come up, and has not ended since."""
        self._stopping = False

    async def start(self) -> None:
        """Starts the router. Raises StartError."""
        made = self.plan
        self.router = Child(
            "router",
            made.router_argv(),
            log_file=made.log_file("router"),
            environment=environment(made),
            say=self._say,
        )
        await self.router.start()

    async def start_haproxy(self) -> None:
        """Starts HAProxy and the watch over it. Raises HAProxyError or StartError."""
        self._haproxy = HAProxyProcess(
            self._edge_config, self.plan.run_dir, log_file=self.plan.log_file("haproxy"), binary=self._binary
        )
        try:
            await self._haproxy.start()
        except OSError as error:
            raise NotReadyError(f"HAProxy cannot be started: {error}") from error
        self._serving = True
        watches = [("HAProxy", self._keep_haproxy), ("HAProxy's answers", self._end_hung_haproxy)]
        if not self.plan.window_is_configured:
            window = WindowWatch(self.plan.state_file, rendered=lambda: self._window_bytes, reload=self.reload_haproxy)
            watches.append(("HAProxy's body window", window.run))
        for name, work in watches:
            self._tasks.append(asyncio.create_task(go_on(name, work, self._say), name=f"watch {name}"))

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
            self._say(f"HAProxy starts without servers, which the router adds: {error}")
        self._window_bytes = edge.body_window_bytes
        return edge

    async def _keep_haproxy(self) -> None:
        assert self._haproxy is not None
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            code = await self._haproxy.wait()
            if self._stopping:
                return
            self._serving = False
            self.restarts += 1
            self._say(f"HAProxy {how_it_ended(code)}, starts again")
            while not await self._started_again(self._haproxy, backoff.next_s):
                await backoff.pause()
            backoff.reset()

    async def _started_again(self, haproxy: HAProxyProcess, pause_s: float) -> bool:
        try:
            await haproxy.start()
        except (HAProxyError, OSError) as error:
            self._say(f"HAProxy did not start: {error}; tried again in {pause_s:g} s")
            return False
        if haproxy.fallback:
            self._say(f"HAProxy runs with the files checked last, since new ones cannot be used: {haproxy.fallback}")
        self._serving = True
        return True

    async def _end_hung_haproxy(self) -> None:
        assert self._haproxy is not None
        unanswered = 0
        while True:
            await asyncio.sleep(PROBE_S)
            if not self._serving or await self._haproxy.answers():
                unanswered = 0
                continue
            unanswered += 1
            if unanswered >= HUNG_PROBES and self._serving:
                self._say(f"HAProxy has not answered {unanswered} times in a row, and is ended")
                self._haproxy.kill()
                unanswered = 0

    def reload_haproxy(self) -> None:
        """SIGHUP: HAProxy's files are rendered anew, with the replicas of the moment, and fresh workers take over.

        Streams go on in the old ones. What HAProxy refuses is said, and the old workers serve on.
        """
        if self._haproxy is not None and (self._reload_task is None or self._reload_task.done()):
            self._reload_task = asyncio.create_task(self._reload(self._haproxy), name="reload haproxy")

    async def _reload(self, haproxy: HAProxyProcess) -> None:
        try:
            await haproxy.reload()
        except (HAProxyError, OSError) as error:
            self._say(f"HAProxy is not reloaded, and serves on as before: {error}")
        except Exception as error:
            log.exception("reload failed")
            self._say(f"HAProxy is not reloaded: {type(error).__name__}: {error}")

    async def stop_haproxy(self) -> None:
        """Lets streams finish, for a while."""
        self._stopping = True
        # A start under way would outlive this: the watch goes first.
        tasks = [task for task in (*self._tasks, self._reload_task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._haproxy is not None:
            await self._haproxy.stop(drain_s=HAPROXY_DRAIN_S)

    def kill_haproxy(self) -> None:
        """SIGKILL at once."""
        self._stopping = True
        if self._haproxy is not None:
            self._haproxy.kill()
