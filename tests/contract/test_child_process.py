"""One process with its log: how it is ended, and what is left of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from pointsman.contract.child_process import LOG_TAIL_BYTES, ChildProcess


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


async def until_said(child: ChildProcess, word: str) -> None:
    async with asyncio.timeout(10):
        while word not in child.last_words():
            await asyncio.sleep(0.01)


async def test_a_process_that_ends_by_itself_leaves_code_and_last_words(tmp_path: Path) -> None:
    """Of a long log the end is quoted."""
    child = ChildProcess(tmp_path / "log")
    assert (child.pid, child.exit_code, child.last_words()) == (None, None, "")
    await child.spawn(shell(f"head -c {2 * LOG_TAIL_BYTES} /dev/zero | tr '\\0' x; echo last; exit 3"))
    assert await child.wait() == 3
    assert (child.pid, child.exit_code) == (None, 3)
    assert child.last_words().endswith("xlast") and len(child.last_words()) < LOG_TAIL_BYTES
    assert await child.stop(0.0)


async def test_sigterm_is_enough_for_one_that_heeds_it(tmp_path: Path) -> None:
    """Nothing is killed."""
    child = ChildProcess(tmp_path / "log")
    await child.spawn(shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"))
    await until_said(child, "up")
    assert await child.stop(10.0)
    assert child.last_words().endswith("bye") and child.exit_code == 0


async def test_one_that_ignores_sigterm_is_killed_with_its_workers(tmp_path: Path) -> None:
    """The whole group, where that is wanted."""
    child = ChildProcess(tmp_path / "log", whole_group=True)
    await child.spawn(shell("trap '' TERM; sleep 1000 & echo worker $!; while :; do sleep 0.01; done"))
    await until_said(child, "worker")
    worker = psutil.Process(int(child.last_words().split()[-1]))
    assert not await child.stop(0.1)
    assert child.exit_code == -9
    async with asyncio.timeout(10):
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
