"""`pointsman up`: starts the parts of one edge or several, watches them, and takes them down in order.

Everything starts at once; each part waits for those it needs. Ready is when HAProxy is attached to the router, every
replica passes its health check through it, and an edge that shares state has joined the others. Order down: HAProxy
stops accepting and lets streams finish while everything behind it still runs; then replicas, then the router. SIGHUP
reloads HAProxy. Whatever a part or the system does while the edge runs, the watch over it goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import Any

import httpx
import structlog

from pointsman.contract.tls import tls_for
from pointsman.errors import EXIT_CONFIGURATION, NotReadyError, StartError
from pointsman.haproxy.binary import Binary, find_binary
from pointsman.haproxy.errors import HAProxyError
from pointsman.router.edges.sharing import CATCHING_UP, JOINING
from pointsman.router.errors import RouterError
from pointsman.router.process.logs import configure
from pointsman.up import fleet_lines
from pointsman.up.child import Child
from pointsman.up.edge import HAPROXY_DRAIN_S, Edge, environment
from pointsman.up.plan import EdgePlan, UpOptions, plan_edges
from pointsman.up.terminal import Terminal
from pointsman.up.valkey import valkey_argv, valkey_url
from pointsman.up.waiting import (
    POLL_S,
    WantedReplicas,
    degraded_parts,
    wait_for_replicas,
    wait_for_router,
)

START_S = {"sim": 60.0, "vllm": 900.0}
"""Seconds that replicas have to become ready before `up` gives up; loading weights takes minutes."""

SETTLE_S = 5.0
"""Seconds that an edge has to join others and to check their replicas before `ready:` is printed all the same: a store
that hangs or an endpoint that never answers must not delay it, because requests are served."""

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
    return asyncio.run(_supervise(made, binary))


def require_vllm() -> None:
    """Raises StartError when Ray or vLLM is not installed: better in the first second than in the first replica."""
    for module in ("ray", "vllm"):
        if find_spec(module) is None:
            raise StartError(
                f"--engine vllm needs the Python package {module!r}, which is not installed: "
                "`pip install '.[engine]'` in the clone where there is a GPU, `make engine-cpu` where there is none"
            )


async def _supervise(made: Sequence[EdgePlan], binary: Binary) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    terminal = Terminal()
    site = Site(made, binary, terminal)

    def asked_to_stop() -> None:
        if stop.is_set():
            terminal.say("ending everything at once")
            site.kill()
        else:
            terminal.end_progress()
            terminal.say(
                f"stopping: HAProxy lets running streams finish, for up to {HAPROXY_DRAIN_S:.0f} s; "
                "a second signal ends everything at once"
            )
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    loop.add_signal_handler(signal.SIGHUP, site.reload_haproxy)
    refused = failed = False
    try:
        starting = asyncio.create_task(site.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        await starting
        print("\n".join(await site.ready_lines()), flush=True)
        await stopping
        return 0
    except (StartError, RouterError, HAProxyError) as error:
        # What HAProxy refuses it explains by lines of files in the folder, what is not ready by its log.
        failed = isinstance(error, (HAProxyError, NotReadyError))
        refused = not failed
        terminal.end_progress()
        print(f"pointsman: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except BaseException:
        failed = True
        raise
    finally:
        await site.stop()
        site.leave_folders(refused=refused, failed=failed)


class Site:
    """All that one `up` runs: edges, the replicas behind them, and the Valkey between them."""

    def __init__(self, made: Sequence[EdgePlan], binary: Binary, terminal: Terminal) -> None:
        self._plan = made[0]
        self._terminal = terminal
        self._edges = [Edge(edge, binary, terminal.say) for edge in made]
        self._replicas: list[Child] = []
        self._valkey: Child | None = None

    async def start(self) -> None:
        """Brings everything up. Raises StartError when a part cannot start."""
        made, say = self._plan, self._terminal.progress
        self._terminal.say(f"logs: {made.folder.logs}")
        if os.geteuid() == 0 and not made.edge.user and not made.edge.chroot:
            self._terminal.say(
                "warning: HAProxy runs as root without chroot; start this as another user where it matters"
            )
        say("starting router, HAProxy and replicas")
        if made.settings.shared.url == valkey_url(made.run_dir):
            self._valkey = self._child("valkey", valkey_argv(made.run_dir))
            await self._valkey.start()
        for edge in self._edges:
            await edge.start()
        await self._start_replicas()
        for edge in self._edges:
            await edge.start_haproxy()
        say("waiting for the router")
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(_client(edge.plan)) for edge in self._edges]
            for edge, client in zip(self._edges, clients, strict=True):
                assert edge.router is not None
                await wait_for_router(client, edge.router, self._terminal)
            await self._wait_for_replicas(clients)
            await self._settle(clients)
        for child in self._children():
            child.established = True
        self._terminal.end_progress()

    async def _start_replicas(self) -> None:
        made = self._plan
        if not made.replicas:
            return
        if made.options.engine == "vllm":
            self._replicas = [self._child("vllm", made.vllm_argv(), shown=fleet_lines.shown)]
        else:
            self._replicas = [self._child(name, argv) for name, argv in made.sim_argvs().items()]
        await asyncio.gather(*(child.start() for child in self._replicas))

    def _child(self, name: str, argv: list[str], *, shown: Callable[[str], str | None] | None = None) -> Child:
        made = self._plan
        return Child(
            name,
            argv,
            log_file=made.log_file(name),
            environment=environment(made),
            say=self._terminal.say,
            shown=shown,
        )

    def _children(self) -> list[Child]:
        routers = [edge.router for edge in self._edges]
        return [child for child in (*routers, *self._replicas, self._valkey) if child is not None]

    # Until it is ready

    async def _wait_for_replicas(self, clients: Sequence[httpx.AsyncClient]) -> None:
        if not self._plan.replicas:
            return
        wanted = WantedReplicas(self._plan.replicas, START_S[self._plan.options.engine], self._replicas[0])
        await wait_for_replicas(clients, wanted, self._states, self._children(), self._terminal)

    async def _settle(self, clients: Sequence[httpx.AsyncClient]) -> None:
        """Returns once every edge has joined those it shares state with and knows whether each replica serves.

        A replica that was learned of from another edge is not up before HAProxy has checked it: until then the edge
        answers that nobody can serve.
        """
        deadline_s = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline_s:
            if not any([await self._unsettled(client) for client in clients]):
                return
            self._terminal.progress("joining the other edges and checking their replicas")
            await asyncio.sleep(POLL_S)

    async def _unsettled(self, client: httpx.AsyncClient) -> bool:
        passing = any(why.endswith((JOINING, CATCHING_UP)) for why in await degraded_parts(client))
        return passing or "starting" in await self._states(client)

    async def _states(self, client: httpx.AsyncClient) -> list[str]:
        """The state of each registered replica; none while the router does not answer."""
        token = self._plan.settings.admin.token
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            listed: dict[str, Any] = (await client.get("/v1/replicas", headers=headers)).json()
        except httpx.HTTPError:
            return []
        return [replica["state"] for replica in listed["replicas"]]

    async def ready_lines(self) -> list[str]:
        """A line for each edge, and below them what is degraded."""
        lines, degraded = [], []
        for edge in self._edges:
            made = edge.plan
            lines.append(f"ready: http://{made.listen}  admin: {made.admin_url}")
            async with _client(made) as client:
                whose = f"http://{made.listen}: " if len(self._edges) > 1 else ""
                degraded += [f"degraded: {whose}{why}" for why in await degraded_parts(client)]
        return lines + degraded

    def reload_haproxy(self) -> None:
        """SIGHUP: every edge's."""
        for edge in self._edges:
            edge.reload_haproxy()

    # Down

    async def stop(self) -> None:
        """Drains and stops everything; leaves no process and no socket. What one part meets does not keep others up."""
        await self._all("HAProxy", [edge.stop_haproxy() for edge in self._edges])
        if self._replicas:
            self._terminal.say(
                f"stopping {len(self._replicas)} replicas" if len(self._replicas) > 1 else "stopping replicas"
            )
        await self._all("replicas", [child.stop() for child in self._replicas])
        await self._all("router", [edge.router.stop() for edge in self._edges if edge.router is not None])
        if self._valkey is not None:
            await self._all("valkey", [self._valkey.stop()])

    async def _all(self, what: str, stops: Sequence[Any]) -> None:
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.error("stop failed", stopped=what, exc_info=outcome)

    def kill(self) -> None:
        """A second Ctrl-C: nothing drains."""
        for child in self._children():
            child.kill()
        for edge in self._edges:
            edge.kill_haproxy()

    def leave_folders(self, *, refused: bool, failed: bool) -> None:
        """Lets go of the run folders: of a start that was `refused` nothing stays; logs do when something `failed`."""
        failed = failed or any(child.restarts for child in self._children()) or any(e.restarts for e in self._edges)
        # From the innermost: the first folder holds the others.
        for edge in reversed(self._edges):
            folder = edge.plan.folder
            if refused:
                folder.refuse()
            elif folder.release(failed=failed):
                self._terminal.say(f"logs are kept, since something failed: {folder.logs}")


def _client(made: EdgePlan) -> httpx.AsyncClient:
    """For one edge's admin API. Proxies of the environment are for the outside world, not for what runs next door."""
    url = made.admin_url
    return httpx.AsyncClient(base_url=url, timeout=2.0, trust_env=False, verify=tls_for(url))
