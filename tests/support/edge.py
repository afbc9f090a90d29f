"""A whole edge for tests: `pointsman up` as a process, its parts found by their command lines, its API at hand.

If the test inside fails, the ends of all logs become notes of its exception.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

READY = re.compile(r"ready: (http://\S+)  admin: (http://\S+)")

REACH_S = 60.0
"""How long a test waits for what must happen; nothing is asserted about time."""

START_S = 90.0
FAST = {"timing": "fast"}
STOP_S = 60.0
LOG_TAIL = 3000

SHARING = pytest.mark.asyncio(loop_scope="module")
"""Mark of a file whose tests share edges: one event loop for all of them."""


async def until(condition: Callable[[], Awaitable[object]], within_s: float = REACH_S) -> None:
    """Return once `condition` holds. TimeoutError after `within_s`."""
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.02)


class RunningEdge:
    """One `pointsman up` that is ready."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, admin_url: str, run_dir: Path) -> None:
        self.process = process
        self.url = url
        self.admin_url = admin_url
        self.run_dir = run_dir
        limits = httpx.Limits(max_connections=1000)
        self.client = httpx.AsyncClient(base_url=url, timeout=60.0, limits=limits)
        # Idle connections go before the router closes them (5 s): one that it closes just now may get a request.
        self.admin = httpx.AsyncClient(base_url=admin_url, timeout=10.0, limits=httpx.Limits(keepalive_expiry=2.0))

    # Talking to it

    async def chat(self, content: str = "hello", *, session: str | None = None, **body: Any) -> httpx.Response:
        """One chat completion, not streamed unless `stream=True` (then read whole)."""
        headers = {"x-session-id": session} if session else {}
        whole = {"model": "sim", "messages": [{"role": "user", "content": content}], "max_tokens": 4} | body
        return await self.client.post("/v1/chat/completions", json=whole, headers=headers)

    async def replicas(self) -> dict[str, dict[str, Any]]:
        return {r["id"]: r for r in (await self.admin.get("/v1/replicas")).json()["replicas"]}

    async def states(self) -> dict[str, str]:
        return {replica: view["state"] for replica, view in (await self.replicas()).items()}

    async def metrics(self) -> dict[str, float]:
        """Samples of the router by name and labels as scraped."""
        text = (await self.admin.get("/metrics")).text
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    async def put_policy(self, document: dict[str, Any]) -> httpx.Response:
        return await self.admin.put("/v1/policy", json=document)

    async def idle(self) -> bool:
        """Whether nothing is in flight anywhere: not by the router's count, not by HAProxy's."""
        views = (await self.replicas()).values()
        reservations = (await self.metrics())["pointsman_reservations"]
        return not reservations and all(v["in_flight"] == v["in_flight_tokens"] == 0 for v in views)

    async def haproxy(self, command: str) -> str:
        """One Runtime API command."""
        reader, writer = await asyncio.open_unix_connection(str(self.run_dir / "admin.sock"))
        writer.write(command.encode() + b"\n")
        answer = await reader.read()
        writer.close()
        return answer.decode()

    # Its processes

    def part(self, *words: str) -> psutil.Process:
        """The one child whose command line holds these words in a row."""
        found = [child for child in psutil.Process(self.process.pid).children() if _has(child, words)]
        assert len(found) == 1, f"{words}: {found}"
        return found[0]

    def router(self) -> psutil.Process:
        return self.part("router", "--config", str(self.run_dir / "router.yaml"))

    def replica(self, replica_id: str) -> psutil.Process:
        return self.part("--id", replica_id)

    def tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals `up` and waits for its end; its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()

    async def close(self) -> None:
        await self.client.aclose()
        await self.admin.aclose()
        survivors = self.tree() if self.process.returncode is None else []
        if self.process.returncode is None:
            try:
                await self.stop()
            except TimeoutError as error:
                for process in survivors:
                    with suppress(psutil.NoSuchProcess):  # those before it in the list take it with them
                        error.add_note(f"{process.pid} {process.status()}: {' '.join(process.cmdline())}")
                        process.kill()
                await self.process.wait()
                raise


class SharedEdges:
    """Edges that stay up between tests. Each test finds them idle, with the policy it asks for, and leaves them running
    with the replicas they had; one whose test fails is not used again.

    Counters go on from test to test, and caches keep prompts: tests look at differences, and send prompts of their own.
    """

    def __init__(self, stack: AsyncExitStack) -> None:
        """`stack` stops them all."""
        self._stack = stack
        self._running: dict[str, RunningEdge] = {}
        self._policies: dict[str, dict[str, Any]] = {}

    @asynccontextmanager
    async def up(
        self, replicas: int, *arguments: str, policy: dict[str, Any] | None = None, **options: Any
    ) -> AsyncIterator[RunningEdge]:
        """The edge that `running_up` would start with these arguments; `policy` is put live, else that of the start."""
        key = repr((replicas, arguments, options))
        if key not in self._running:
            edge = await self._stack.enter_async_context(running_up(replicas, *arguments, **options))
            self._policies[key] = (await edge.admin.get("/v1/policy")).json()
            self._running[key] = edge
        edge = self._running.pop(key)
        assert (await edge.put_policy(policy or self._policies[key])).status_code == 200
        try:
            yield edge
            await until(edge.idle)
        except BaseException as error:
            error.add_note(_logs(edge.run_dir.parent, edge.run_dir))
            raise
        self._running[key] = edge


async def agree(edges: Sequence[RunningEdge]) -> None:
    """Waits until all edges know the same."""

    known: list[dict[str, Any]] = []

    async def same() -> bool:
        known[:] = [(await edge.admin.get("/v1/state/digests")).json()["parts"] for edge in edges]
        return all(parts == known[0] for parts in known)

    try:
        await until(same)
    except TimeoutError as error:
        for name in set().union(*known):
            said = [parts.get(name) for parts in known]
            if any(part != said[0] for part in said):
                error.add_note(f"{name}: {said}")
        raise


def _has(process: psutil.Process, words: tuple[str, ...]) -> bool:
    try:
        line = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return any(tuple(line[at : at + len(words)]) == words for at in range(len(line)))


def up_argv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pointsman", "up", *arguments]


async def start_up(*arguments: str, temporary: Path | None = None) -> asyncio.subprocess.Process:
    """`pointsman up` with pipes, whatever becomes of it; `temporary` is where it makes temporary folders."""
    return await asyncio.create_subprocess_exec(
        *up_argv(*arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if temporary is None else os.environ | {"TMPDIR": str(temporary)},
    )


@asynccontextmanager
async def running_up(
    replicas: int = 2,
    *arguments: str,
    engine: dict[str, Any] | None = None,
    start_s: float = START_S,
    **sections: dict[str, Any],
) -> AsyncIterator[RunningEdge]:
    """An edge; `engine` (fast simulated replicas unless given), `router` and `haproxy` are sections of its file."""
    async with running_edges(1, replicas, *arguments, engine=engine, start_s=start_s, **sections) as (edge,):
        yield edge


@asynccontextmanager
async def running_edges(
    count: int,
    replicas: int = 2,
    *arguments: str,
    engine: dict[str, Any] | None = None,
    start_s: float = START_S,
    **sections: dict[str, Any],
) -> AsyncIterator[list[RunningEdge]]:
    """Several edges of one `up`, all in front of the same replicas."""
    with tempfile.TemporaryDirectory(prefix="pm-", ignore_cleanup_errors=True) as folder:
        run_dir = Path(folder) / "run"
        config = Path(folder) / "up.yaml"
        config.write_text(yaml.safe_dump({"engine": FAST if engine is None else engine, **sections}))
        with (Path(folder) / "up.log").open("wb") as log_file:
            process = await asyncio.create_subprocess_exec(
                *up_argv(
                    *("--replicas", str(replicas), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
                    *("--run-dir", str(run_dir), "--config", str(config), "--edges", str(count), *arguments),
                ),
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
            )
        edges: list[RunningEdge] = []
        try:
            assert process.stdout is not None
            for number in range(1, count + 1):
                async with asyncio.timeout(start_s):
                    line = (await process.stdout.readline()).decode()
                ready = READY.search(line)
                assert ready, f"up did not become ready: {line!r}"
                folder_of = run_dir if number == 1 else run_dir / f"edge-{number}"
                edges.append(RunningEdge(process, ready[1], ready[2], folder_of))
            yield edges
        except BaseException as error:
            error.add_note(_logs(Path(folder), run_dir))
            raise
        finally:
            try:
                if edges:
                    await asyncio.gather(*(edge.close() for edge in edges))
                elif process.returncode is None:
                    process.terminate()
                    await process.wait()
            except TimeoutError as error:
                error.add_note(_logs(Path(folder), run_dir))
                raise
            finally:
                process._transport.close()  # type: ignore[attr-defined]


def _logs(folder: Path, run_dir: Path) -> str:
    """The end of every log of an `up` whose files are in `folder`."""
    logs = (folder / "up.log", *sorted(run_dir.glob("**/log/*.log")))
    return "\n".join(f"--- {log.relative_to(folder)}\n{log.read_text(errors='replace')[-LOG_TAIL:]}" for log in logs)


async def read_stream(
    edge: RunningEdge, *, tokens: int, session: str | None = None, client: httpx.AsyncClient | None = None
) -> tuple[str, int]:
    """A streamed chat read to its end: the replica that served and the number of tokens. Raises when it was cut."""
    headers = {"x-session-id": session} if session else {}
    body = {
        "model": "sim",
        "stream": True,
        "ignore_eos": True,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": f"stream {session} {os.urandom(4).hex()}"}],
    }
    count = 0
    done = False
    async with (client or edge.client).stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status_code == 200, (answer.status_code, await answer.aread())
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                choices = json.loads(line[6:])["choices"]
                count += bool(choices and choices[0]["delta"].get("content"))
    assert done, "the stream was cut"
    return answer.headers["x-pointsman-replica"], count
