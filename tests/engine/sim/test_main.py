"""A replica as a process: its ready line, its signals, its exit codes."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from sim_replica import chat_body, post, read_chunks, read_head

STREAM = chat_body(max_tokens=20, ignore_eos=True, stream=True)


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[Process, str]]:
    """`python -m pointsman.engine.sim` and the URL of its ready line."""
    replica = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman.engine.sim", *arguments, stdout=PIPE, stderr=PIPE
    )
    try:
        assert replica.stdout is not None
        line = (await replica.stdout.readline()).decode()
        assert line.startswith("ready: http://")
        yield replica, line.removeprefix("ready: ").strip()
    finally:
        if replica.returncode is None:
            replica.kill()
        await replica.communicate()


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_answers_finish(number: signal.Signals) -> None:
    """The stream under way comes whole, then the process ends with 0."""
    async with process("--token-interval-ms", "10", "--port", "0") as (replica, url):
        reader, writer = await connect(url)
        writer.write(post("/v1/chat/completions", STREAM))
        await read_head(reader)
        replica.send_signal(number)
        assert len(await read_chunks(reader)) == 1 + 20 + 1
        assert await replica.wait() == 0
        writer.close()
        await writer.wait_closed()


async def test_a_second_signal_ends_it_at_once() -> None:
    """An hour of stream is left; the exit code names the signal."""
    async with process("--token-interval-ms", "60000") as (replica, url):
        reader, writer = await connect(url)
        writer.write(post("/v1/chat/completions", STREAM))
        await read_head(reader)
        replica.send_signal(signal.SIGTERM)
        # The listener closes when the drain has begun; who is in its queue at that moment is reset.
        with pytest.raises(ConnectionError):
            while True:
                _, other = await connect(url)
                other.close()
                await other.wait_closed()
        replica.send_signal(signal.SIGINT)
        assert await replica.wait() == 128 + signal.SIGINT
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_drain_that_takes_too_long_is_cut() -> None:
    """Exit 0 all the same, and a line that says how many were cut."""
    async with process("--token-interval-ms", "60000", "--drain-s", "0.1") as (replica, url):
        reader, writer = await connect(url)
        writer.write(post("/v1/chat/completions", STREAM))
        await read_head(reader)
        replica.send_signal(signal.SIGTERM)
        assert await replica.wait() == 0
        assert replica.stderr is not None
        assert "1 requests were cut after 0.1 s" in (await replica.stderr.read()).decode()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_an_idle_replica_serves_and_leaves() -> None:
    """Health, one answer, SIGTERM, 0."""
    async with process("--timing", "fast", "--model", "tiny") as (replica, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await client.get("/health")).status_code == 200
            answer = await client.post("/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1})
            assert answer.status_code == 200
        replica.send_signal(signal.SIGTERM)
        assert await replica.wait() == 0


async def test_a_bad_setting_is_one_sentence() -> None:
    """Key, value, what is expected; no traceback."""
    replica = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman.engine.sim", "--timing", "slow", stdout=PIPE, stderr=PIPE
    )
    _, said = await replica.communicate()
    assert replica.returncode == 2
    assert "timing: got 'slow', expected one of" in " ".join(said.decode().replace("│", " ").split())
