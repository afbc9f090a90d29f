"""A fleet of real vLLM on a Ray cluster that was there before it, behind a whole edge; and clients that count."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from edge import READY, up_argv
from ray_cluster import CPU_PLUGIN, running_cluster
from vllm_fleet import FleetProcess

ROOT = Path(__file__).parents[2]

ON_CPU = {
    "device": "cpu",
    "num_cpus": 0.1,
    "env": {"PYTHONPATH": f"{CPU_PLUGIN}:{ROOT}"},
}
"""Settings of a pool whose workers or ranks compute on the CPU."""


UP_S = 600.0
"""A few engines, all at once on two cores beside other work; alone they take a quarter of it."""

ANSWER_S = 30.0
"""Of an admin API on a machine where engines start."""

SMALL = ("--max-model-len=1024", "--kv-cache-memory-bytes=16M")


@contextlib.contextmanager
def empty_edge(folder: Path) -> Iterator[tuple[str, str]]:
    """HAProxy and a router without replicas: where clients connect, and the admin URL.

    By least load any replica gets a request soon, whatever its prompt: tests wait for that.
    """
    folder.mkdir()
    words = ("--replicas", "0", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--run-dir", str(folder / "run"))
    words += ("--policy", "least_load")
    with (folder / "log").open("w") as log:
        up = subprocess.Popen(up_argv(*words), stdout=subprocess.PIPE, stderr=log, text=True)
    assert up.stdout is not None
    try:
        ready = READY.search(up.stdout.readline())
        assert ready, (folder / "log").read_text()
        yield ready[1], ready[2]
    finally:
        up.terminate()
        up.wait(60)
        up.stdout.close()


class Driver(FleetProcess):
    """`pointsman engine vllm --config FILE`, in a process group of its own: Ray's reaper ends groups."""

    @classmethod
    def start(cls, folder: Path, environment: dict[str, str], settings: dict[str, Any]) -> Driver:
        config = folder / "fleet.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML.
        errors = folder / "driver.log"
        with errors.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pointsman", "engine", "vllm", "--config", str(config)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                start_new_session=True,
            )
        return cls(process, errors)


class Load:
    """Clients that stream one answer after another, each noting how it ended and when."""

    def __init__(self, url: str, model: str, *, tokens: int = 24, clients: int = 3, pause_s: float = 0.0) -> None:
        """`pause_s` is between the answers of one client: none takes all the machine gives."""
        self.streaming: collections.Counter[str] = collections.Counter()
        """Answers under way, by replica."""
        self.ends: list[tuple[float, str, str]] = []
        """When, what became of it ("ok", a status, "cut" and where, or an error), and which replica served it."""
        self._url = url
        self._model = model
        self._tokens = tokens
        self._clients = clients
        self._pause_s = pause_s
        self._stop = asyncio.Event()

    @property
    def failures(self) -> list[tuple[float, str, str]]:
        return [end for end in self.ends if end[1] != "ok"]

    @property
    def served_by(self) -> collections.Counter[str]:
        return collections.Counter(replica for _, how, replica in self.ends if how == "ok")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Sends while the context is open; what is under way at its end is finished."""
        async with httpx.AsyncClient(base_url=self._url, timeout=120, trust_env=False) as client:
            working = [asyncio.create_task(self._one_after_another(client, n)) for n in range(self._clients)]
            try:
                yield self
            finally:
                self._stop.set()
                await asyncio.gather(*working)

    async def _one_after_another(self, client: httpx.AsyncClient, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            how, replica = await self._ask(client, f"client {number} asks {count}")
            self.ends.append((time.monotonic(), how, replica))
            await asyncio.sleep(self._pause_s if how == "ok" else max(self._pause_s, 0.02))

    async def _ask(self, client: httpx.AsyncClient, said: str) -> tuple[str, str]:
        body = {
            "model": self._model,
            "prompt": said,
            "max_tokens": self._tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        replica = ""
        try:
            async with client.stream("POST", "/v1/completions", json=body) as answer:
                replica = answer.headers.get("x-pointsman-replica", "")
                if answer.status_code != 200:
                    return str(answer.status_code), replica
                self.streaming[replica] += 1
                try:
                    lines = [line async for line in answer.aiter_lines() if line]
                finally:
                    self.streaming[replica] -= 1
        except httpx.HTTPError as error:
            return type(error).__name__, replica
        whole = lines and lines[-1] == "data: [DONE]" and self._tokens_of(lines[-2]) == self._tokens
        return ("ok" if whole else f"cut after {len(lines)} lines: {' '.join(lines[-2:])}"), replica

    @staticmethod
    def _tokens_of(line: str) -> int:
        """Tokens of the answer, by the event before the end; -1 where that is an error or a token."""
        usage = json.loads(line.removeprefix("data: ")).get("usage")
        return -1 if usage is None else int(usage["completion_tokens"])


class Site:
    """The running parts; `driver` is the one of the moment."""

    def __init__(self, url: str, admin: str, folder: Path, environment: dict[str, str], settings: dict[str, Any]):
        self.url = url
        self.admin = admin
        self.settings = settings
        self.environment = environment
        self._folder = folder
        self.driver = self.start_driver()

    def start_driver(self) -> Driver:
        self.driver = Driver.start(self._folder, self.environment, self.settings)
        return self.driver

    def replicas(self) -> dict[str, dict[str, Any]]:
        listed = httpx.get(f"{self.admin}/v1/replicas", timeout=ANSWER_S).json()["replicas"]
        return {replica["id"]: replica for replica in listed}

    def up(self) -> set[str]:
        return {id for id, replica in self.replicas().items() if replica["state"] == "up"}

    def pool(self, name: str) -> dict[str, Any]:
        pool: dict[str, Any] = httpx.get(f"{self.admin}/v1/pools/{name}", timeout=ANSWER_S).json()
        return pool

    async def until_up(self, *replicas: str, within_s: float = UP_S) -> None:
        async with asyncio.timeout(within_s):
            while not set(replicas) <= await asyncio.to_thread(self.up):
                await asyncio.sleep(0.1)


def completion(url: str, model: str, prompt: str = "Once upon a time") -> str:
    """A greedy answer."""
    body = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


@contextlib.contextmanager
def running_site(pools: list[dict[str, Any]], *replicas: str, drain_s: float = 60.0) -> Iterator[Site]:
    """A cluster, an edge and a fleet of these pools, once these replicas are up."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (
        # Short: Ray's sockets lie deep below it, and a socket's path has at most 107 bytes.
        tempfile.TemporaryDirectory(prefix="pm-", ignore_cleanup_errors=True) as name,
        running_cluster(Path(name) / "ray", environment) as address,
        empty_edge(Path(name) / "edge") as (url, admin),
    ):
        settings = {"ray_address": address, "admin": [admin], "pools": pools, "drain_s": drain_s}
        began_s = time.monotonic()
        site = Site(url, admin, Path(name), environment, settings)
        try:
            asyncio.run(site.until_up(*replicas))
            print(f"\n{len(replicas)} replicas up after {time.monotonic() - began_s:.1f} s")
            yield site
        except BaseException as error:
            error.add_note("\n".join(site.driver.lines.all()) + site.driver.errors[-3000:])
            raise
        finally:
            if site.driver.process.poll() is None:
                site.driver.process.terminate()
            site.driver.wait(120)
