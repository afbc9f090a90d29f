"""Real vLLM on the CPU, as Ray actors: one fleet of two replicas for all tests, ended by the one that drains it.

Tests run in the order of the file. `make engine-cpu` installs what they need.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import psutil
import pytest
from vllm_fleet import READY_S, FleetProcess, Lines, admin_server, listener_of, real_vllm, running_fleet

if TYPE_CHECKING:
    from openai import AsyncOpenAI

pytestmark = real_vllm(timeout_s=3 * READY_S)

LONG = 1500
"""Tokens of an answer that takes some seconds: about 300 tokens/s on an idle core."""

DRAIN_S = 180.0
"""For LONG tokens on a core shared with much else."""

WAIT_S = 60.0
"""For what takes a moment on an idle machine."""


class Running(NamedTuple):
    """The fleet, and what its admin API is told."""

    fleet: FleetProcess
    admin: str
    calls: Lines
    folder: Path
    environment: dict[str, str]

    def url(self, replica: str) -> str:
        """Where a replica serves at this moment."""
        ready = [line for line in self.fleet.lines.all() if line.startswith("ready: ") and f"={replica} " in line]
        return str(ready[-1].split()[1])

    @property
    def ray_address(self) -> str:
        return str(self.fleet.lines.wait(lambda line: line.startswith("ray: "), 1).removeprefix("ray: "))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A short one: Ray's sockets lie deep below it, and a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    """Two ready replicas of the tiny model."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    settings: dict[str, Any] = {"model": "tiny", "replicas": 2, "ray_dir": str(folder / "ray")}
    with (
        admin_server() as (admin, calls),
        running_fleet(folder, environment, admin=[admin], num_cpus=0.5, drain_s=DRAIN_S, **settings) as fleet,
    ):
        for replica in ("vllm-1", "vllm-2"):
            fleet.wait_ready(replica)
        yield Running(fleet, admin, calls, folder, environment)


def client_of(url: str) -> AsyncOpenAI:
    from openai import AsyncOpenAI  # where it is used: a second of CPU in each worker

    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=DRAIN_S)


async def stream(client: AsyncOpenAI, said: str, *, tokens: int, order: list[str] | None = None) -> int:
    """Stream one greedy answer of exactly `tokens` tokens; answers the engine's own count of them."""
    chunks = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": said}],
        max_tokens=tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    counted = 0
    async for chunk in chunks:
        if order is not None and chunk.choices:
            order.append(said)
        if chunk.usage is not None:
            counted = chunk.usage.completion_tokens
    return counted


def metric(url: str, name: str) -> float:
    """One of vLLM's own counts."""
    lines = httpx.get(f"{url}/metrics", timeout=WAIT_S).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


def running_requests(url: str) -> float:
    """Requests in the engine's batch."""
    return metric(url, "vllm:num_requests_running")


def test_both_replicas_register_themselves(running: Running) -> None:
    """Each PUTs its own URL, the served name and its lease, after its first token."""
    for replica in ("vllm-1", "vllm-2"):
        call = running.calls.wait(lambda call, path=f"/v1/replicas/{replica}": call.path == path, WAIT_S)
        assert call.method == "PUT"
        told = dict(call.body)
        assert told.pop("born_ms") > 0
        named = {"model": "tiny", "pool": "vllm", "renames_model": True}
        assert told == {"url": running.url(replica), "ttl_s": 10.0, **named}


def test_a_heartbeat_renews_the_lease(running: Running) -> None:
    """The same PUT comes again."""
    seen = len(running.calls.all())
    running.calls.wait(lambda call: call.method == "PUT" and call.path.endswith("/vllm-1"), WAIT_S, since=seen)


async def test_replicas_stream_chats_and_agree(running: Running) -> None:
    """An OpenAI client streams from each replica; equal seeds give equal weights, so greedy answers are equal."""
    answers = []
    for replica in ("vllm-1", "vllm-2"):
        async with client_of(running.url(replica)) as client:
            assert await stream(client, "hello", tokens=16) == 16
            whole = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=16, temperature=0
            )
            answers.append(whole.choices[0].message.content)
    assert answers[0] == answers[1] != ""


async def test_two_streams_on_one_replica_run_at_once(running: Running) -> None:
    """Their chunks interleave: the second starts before the first has ended."""
    order: list[str] = []
    async with client_of(running.url("vllm-1")) as client:
        assert await asyncio.gather(*(stream(client, name, tokens=200, order=order) for name in "ab")) == [200, 200]
    assert order.index("b") < len(order) - 1 - order[::-1].index("a")
    assert order.index("a") < len(order) - 1 - order[::-1].index("b")


async def test_a_client_that_leaves_frees_the_engine(running: Running) -> None:
    """Generation ends long before the answer would have."""
    url = running.url("vllm-1")
    before = metric(url, "vllm:generation_tokens_total")
    async with client_of(url) as client:
        chunks = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "long"}],
            max_tokens=2 * LONG,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        read = 0
        async for _ in chunks:
            read += 1
            if read == 5:
                break
        assert running_requests(url) == 1
        await chunks.close()
    async with asyncio.timeout(WAIT_S):
        while running_requests(url):
            await asyncio.sleep(0.05)
    assert 5 <= metric(url, "vllm:generation_tokens_total") - before < LONG


async def test_a_fleet_may_join_a_cluster_and_leaves_it_running(running: Running) -> None:
    """One replica of another fleet on the same cluster serves, and takes nothing with it when it goes.

    It goes in the middle of a start: its engine is killed, which its process notices, tells the router and its
    supervisor, and while that starts it again the fleet is asked to stop.
    """
    seen = len(running.calls.all())
    settings: dict[str, Any] = {"model": "tiny", "served_name": "joined", "name": "j", "admin": [running.admin]}
    with running_fleet(
        running.folder / "joined", running.environment, ray_address=running.ray_address, num_cpus=0.5, **settings
    ) as fleet:
        url = fleet.wait_ready("j-1")
        replica = listener_of(url)
        async with client_of(url) as client:
            answer = await client.completions.create(model="joined", prompt="x", max_tokens=3)
            assert answer.model == "joined"
        engine = replica.children(recursive=True)
        said = len(fleet.lines.all())
        for process in engine:
            process.kill()
        running.calls.wait(lambda call: call.said("DELETE", "/v1/replicas/j-1"), WAIT_S, since=seen)
        fleet.lines.wait(lambda line: line == "j-1 died: j-1: the engine died; starts again in 1 s", WAIT_S)
        fleet.lines.wait(lambda line: line == "j-1 starting", WAIT_S, since=said)
        fleet.process.send_signal(signal.SIGTERM)
        assert fleet.wait(WAIT_S) == 0
    _, alive = psutil.wait_procs([replica, *engine], WAIT_S)
    assert not alive
    assert httpx.get(f"{running.url('vllm-1')}/health").status_code == 200


async def test_a_killed_process_is_replaced_and_registers_again(running: Running) -> None:
    """kill -9: its engine dies with it, the other replica serves on, and it comes back as itself at another port."""
    old = running.url("vllm-1")
    seen, said = len(running.calls.all()), len(running.fleet.lines.all())
    replica = listener_of(old)
    family = [replica, *replica.children(recursive=True)]
    assert len(family) > 1
    replica.kill()
    running.fleet.lines.wait(lambda line: line == "vllm-1 died: vllm-1: its process died; starts again in 1 s", WAIT_S)
    _, alive = psutil.wait_procs(family, WAIT_S)
    assert not alive
    async with client_of(running.url("vllm-2")) as client:
        assert await stream(client, "meanwhile", tokens=4) == 4
    url = running.fleet.wait_ready("vllm-1", since=said)
    assert url != old
    running.calls.wait(
        lambda call: call.path == "/v1/replicas/vllm-1" and call.body.get("url") == url, WAIT_S, since=seen
    )
    async with client_of(url) as client:
        assert await stream(client, "again", tokens=4) == 4


async def test_sigterm_drains_and_leaves_nothing_behind(running: Running) -> None:
    """Routers are told, fresh work is refused, the stream ends whole, and no process or heartbeat is left."""
    url = running.url("vllm-1")
    family = running.fleet.family()
    seen = len(running.calls.all())
    async with client_of(url) as client, httpx.AsyncClient() as plain:
        order: list[str] = []
        streaming = asyncio.create_task(stream(client, "last", tokens=LONG, order=order))
        while not order:
            await asyncio.sleep(0.01)
        running.fleet.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(
            running.calls.wait, lambda call: call.said("POST", "/v1/replicas/vllm-1/drain"), WAIT_S, since=seen
        )
        status = 200
        while status == 200:  # What was on its way when the routers heard is still served.
            answer = await plain.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1})
            status = answer.status_code
        assert status == 503
        assert answer.headers["retry-after"] == "1"
        assert (await plain.get(f"{url}/health")).status_code == 503
        assert not streaming.done()
        assert await streaming == LONG
    assert running.fleet.wait(WAIT_S) == 0
    running.calls.wait(lambda call: call.said("DELETE", "/v1/replicas/vllm-1"), 1, since=seen)
    running.calls.wait(lambda call: call.said("DELETE", "/v1/replicas/vllm-2"), 1, since=seen)
    _, alive = psutil.wait_procs(family, WAIT_S)
    assert not alive
    assert "Traceback" not in running.fleet.errors


def test_a_refusal_of_vllm_is_told_once_in_its_own_words(folder: Path) -> None:
    """Two replicas, one sentence, exit status 1, and logs to read further in."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    settings: dict[str, Any] = {"model": "tiny", "replicas": 2, "args": ["--max-model-len=99999999"]}
    with running_fleet(folder / "refused", environment, ray_dir=str(folder / "r"), **settings) as fleet:
        assert fleet.wait(READY_S) == 1
        assert fleet.errors.startswith("error: ValidationError: Value error, User-specified max_model_len (99999999)")
        assert fleet.errors.count("User-specified") == 1
        logs = next(line for line in fleet.lines.all() if line.startswith("logs: ")).removeprefix("logs: ")
    assert list(Path(logs).glob("worker-*.out"))
