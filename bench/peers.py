"""Starting what is compared: stub replicas, an edge of ours, vllm-router. Each is a context manager.

A `Side` is something that takes requests on a port and whose processes can be measured. Nothing outlives the
bench, even if it is killed. vllm-router is no dependency of ours: `find_vllm_router` installs the pinned wheel into a
folder of its own inside the virtual environment, where it cannot disturb anything, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.cpu import ProcessTree
from pointsman.contract.child_process import die_with_parent
from pointsman.up.ports import pick_ports

VLLM_ROUTER_VERSION = "0.1.17"
COMPILED = Path(__file__).resolve().parent.parent / ".venv-compiled"
"""Where `make compiled` installs what this is, compiled."""
START_S = 60.0
STOP_S = 15.0
POLL_S = 0.05
LAST_WORDS = 2000
PIP_INSTALL = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


class PeerError(Exception):
    """Something a bench needs cannot be installed or does not come up; the message says what it said last."""


@dataclass(frozen=True)
class Side:
    """One contestant: where it takes requests and what its processes are."""

    name: str
    port: int
    processes: ProcessTree
    admin_url: str = ""
    run_dir: Path | None = None


def say(text: str) -> None:
    """A line of progress for whoever waits."""
    print(text, file=sys.stderr, flush=True)


class Spawned:
    """A started process with its log. One that `speaks` has its stdout read by `line`; else that is logged too."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log_dir: Path,
        *,
        speaks: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log_file = log_dir / f"{name}.log"
        with self._log_file.open("ab") as log_file:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if speaks else log_file,
                stderr=log_file,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self, within_s: float = START_S) -> str:
        """The next line of its stdout. Raises PeerError when it ends or takes too long."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await asyncio.to_thread(self.process.stdout.readline)
        except TimeoutError:
            self.process.kill()  # or the reading thread would wait for ever
            raise PeerError(f"{self.name} said nothing within {within_s:g} s: {self.last_words()}") from None
        if not line:
            self.process.wait()
            raise PeerError(f"{self.name} ended with code {self.process.returncode}: {self.last_words()}")
        return line.decode().strip()

    def last_words(self) -> str:
        return self._log_file.read_text(errors="replace")[-LAST_WORDS:].strip() or "no log"

    def require_running(self) -> None:
        if self.process.poll() is not None:
            raise PeerError(f"{self.name} ended with code {self.process.returncode}: {self.last_words()}")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to its whole session when that does not help."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                await asyncio.to_thread(self.process.wait)
        if self.process.stdout is not None:
            self.process.stdout.close()


async def until(
    condition: Callable[[], Awaitable[bool]],
    what: str,
    process: Spawned | None = None,
    within_s: float = START_S,
    *,
    poll_s: float = POLL_S,
) -> float:
    """Return the moment (`time.perf_counter`) at which `condition` was found to hold; a front that is away says no.

    Raises PeerError when `process` ends first, or the time is up.
    """
    deadline_s = time.perf_counter() + within_s
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if await condition():
                return time.perf_counter()
        if process is not None:
            process.require_running()
        if time.perf_counter() > deadline_s:
            raise PeerError(f"{what}: not within {within_s:g} s; {process.last_words() if process else 'no log'}")
        await asyncio.sleep(poll_s)


async def replica_states(admin: httpx.AsyncClient) -> dict[str, str]:
    """States of a router's replicas by id."""
    listed = (await admin.get("/v1/replicas")).json()["replicas"]
    return {replica["id"]: replica["state"] for replica in listed}


@contextlib.asynccontextmanager
async def stub_replicas(
    count: int, token_interval_ms: float, log_dir: Path, *, spread: bool = False
) -> AsyncIterator[list[str]]:
    """URLs of running stub replicas. With `spread` their steps do not fall together."""
    argv = [sys.executable, "-m", "bench.stub"]
    argv += ["--replicas", str(count), "--token-interval-ms", str(token_interval_ms)]
    if spread:
        argv.append("--spread")
    stub = Spawned("stub", argv, log_dir)
    try:
        yield json.loads(await stub.line())
    finally:
        await stub.stop()


def edge_part(command: str) -> str:
    """Which part of an edge a command line is."""
    if " router --config" in command:
        return "router"
    return "haproxy" if "haproxy" in command.partition(" ")[0] else "supervisor"


@contextlib.asynccontextmanager
async def edge(
    name: str,
    log_dir: Path,
    *,
    policy: str | None = None,
    lookup: str = "spoe",
    replicas: Sequence[str] = (),
    up: Sequence[str] = ("--replicas", "0"),
    python: str = sys.executable,
) -> AsyncIterator[Side]:
    """A whole edge by `pointsman up`, run by that `python`, over replicas that are there already (`replicas`: URLs)."""
    run_dir = log_dir / name
    argv = [python, "-m", "pointsman", "up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    argv += ["--run-dir", str(run_dir), "--lookup", lookup, *up]
    if policy:
        argv += ["--policy", policy]
    process = Spawned(name, argv, log_dir, environment=installed_only(python))
    try:
        ready = await process.line()  # ready: http://127.0.0.1:8000  admin: http://127.0.0.1:8001
        _, listen_url, _, admin_url = ready.split()
        async with httpx.AsyncClient(base_url=admin_url, timeout=5.0, trust_env=False) as admin:
            for number, url in enumerate(replicas, 1):
                (await admin.put(f"/v1/replicas/stub-{number}", json={"url": url})).raise_for_status()

            async def all_up() -> bool:
                return set((await replica_states(admin)).values()) <= {"up"}

            await until(all_up, name, process)
        yield Side(name, httpx.URL(listen_url).port or 80, ProcessTree(process.pid, edge_part), admin_url, run_dir)
    finally:
        await process.stop()


def find_compiled() -> str:
    """The Python of the virtual environment that `make compiled` makes. Raises PeerError when it is not there."""
    python = COMPILED / "bin" / "python"
    if not python.exists():
        raise PeerError(f"{COMPILED} is not there: `make compiled` makes it")
    return str(python)


def installed_only(python: str) -> dict[str, str]:
    """Environment in which another Python than this one takes packages from where they are installed: the sources in
    the current folder would come first."""
    return {} if python == sys.executable else {"PYTHONSAFEPATH": "1"}


def run(argv: Sequence[str], *, within_s: float | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Output of a command that prepares a bench. Raises PeerError when it fails or takes too long."""
    environment = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=within_s, env=environment)
    except subprocess.TimeoutExpired:
        raise PeerError(f"`{shlex.join(argv)[:200]}`: not within {within_s:g} s") from None
    if done.returncode:
        raise PeerError(f"`{shlex.join(argv)[:200]}` failed: {(done.stderr or done.stdout).strip()[-LAST_WORDS:]}")
    return done.stdout


def find_vllm_router() -> Path:
    """The folder with the pinned vllm-router, installed there if it is not. Raises PeerError."""
    folder = Path(sys.prefix) / "peers" / f"vllm-router-{VLLM_ROUTER_VERSION}"
    if (folder / "vllm_router").is_dir():
        return folder
    requirement = f"vllm-router=={VLLM_ROUTER_VERSION}"
    say(f"installing {requirement} into {folder} (105 MB, used by the benches only)")
    run([*PIP_INSTALL, "--target", str(folder), requirement])
    return folder


@contextlib.asynccontextmanager
async def vllm_router(name: str, log_dir: Path, *, policy: str, replicas: Sequence[str]) -> AsyncIterator[Side]:
    """vllm-router with its defaults, but for the start-up poll and its logging.

    At its default level `consistent_hash` writes three lines a request; `error` is the one level its launcher and its
    core spell alike, and the cheapest.
    """
    folder = await asyncio.to_thread(find_vllm_router)
    port, metrics_port = pick_ports(2)
    argv = [sys.executable, "-m", "vllm_router.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--prometheus-port", str(metrics_port), "--policy", policy, "--log-level", "error"]
    argv += ["--worker-startup-check-interval", "1", "--worker-urls", *replicas]
    process = Spawned(name, argv, log_dir, speaks=False, environment={"PYTHONPATH": str(folder)})
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5.0, trust_env=False) as client:

            async def ready() -> bool:
                return (await client.get("/readiness")).status_code == 200

            await until(ready, name, process)
        yield Side(name, port, ProcessTree(process.pid))
    finally:
        await process.stop()


def served_counts(replicas: Sequence[str]) -> list[int]:
    """Requests that each stub replica has answered."""
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        return [int(client.get(f"{url}/counts").text) for url in replicas]
