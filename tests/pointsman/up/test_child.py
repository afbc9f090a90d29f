"""A supervised process: started, restarted, stopped, given up."""

import asyncio
import errno
import os
import sys
from pathlib import Path

import psutil
import pytest

from pointsman.errors import StartError
from pointsman.up.child import Child

UP = "print('up', flush=True); import time; time.sleep(60)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


async def until_said(child: Child, word: str) -> None:
    async with asyncio.timeout(20):
        while word not in child.last_words():
            await asyncio.sleep(0.01)


async def test_a_killed_process_is_started_again(log_file: Path) -> None:
    """Another pid, one restart counted, what it wrote before still in the log."""
    child = Child("c", python(UP), log_file=log_file)
    await child.start()
    await until_said(child, "up")
    first = child.pid
    assert first
    psutil.Process(first).kill()
    await until_said(child, "up\nup")
    assert child.pid != first and child.restarts == 1
    assert await child.stop()
    assert not psutil.pid_exists(first)


async def test_a_process_that_does_not_stop_is_killed(log_file: Path) -> None:
    """After `stop_s`; the answer says it was not polite."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = Child("c", python(code), log_file=log_file, stop_s=0.1)
    await child.start()
    await until_said(child, "up")
    pid = child.pid
    assert not await child.stop()
    assert pid and not psutil.pid_exists(pid)


async def test_exit_code_2_is_final(log_file: Path) -> None:
    """The configuration is wrong: what it said is handed over, and nothing is tried again."""
    child = Child("c", python("import sys; print('pointsman: x: bad'); sys.exit(2)"), log_file=log_file)
    await child.start()
    async with asyncio.timeout(20):
        assert await child.refused == "pointsman: x: bad"
    assert child.pid is None and child.restarts == 0
    await child.stop()


async def test_exit_code_2_of_what_ran_before_is_a_failure_like_others(log_file: Path, tmp_path: Path) -> None:
    """A restart that is refused is tried again, and said with the reason: an edge does not end for it."""
    said: list[str] = []
    works = tmp_path / "works"
    code = (
        "import pathlib, sys, time\n"
        f"if not pathlib.Path({str(works)!r}).exists(): print('pointsman: state: bad'); sys.exit(2)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    works.touch()
    child = Child("router", python(code), log_file=log_file, say=said.append)
    await child.start()
    await until_said(child, "up")
    child.established = True
    works.unlink()
    psutil.Process(child.pid).kill()
    async with asyncio.timeout(20):
        while child.restarts < 2:
            await asyncio.sleep(0.01)
    assert said[0] == "router was killed by SIGKILL, starts again in 0.2 s"
    assert said[1] == "router ended with code 2 (state: bad), starts again in 0.4 s"
    assert not child.refused.done()
    works.touch()
    async with asyncio.timeout(20):
        while not child.last_words().endswith("up"):
            await asyncio.sleep(0.01)
    await child.stop()


async def test_a_start_that_the_system_refuses_is_tried_again(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor, no memory, no process to be had: the watch goes on until there is."""
    said: list[str] = []
    child = Child("c", python(UP), log_file=log_file, say=said.append)
    await child.start()
    await until_said(child, "up")
    spawn, refusals = child._spawn, [errno.EMFILE, errno.EAGAIN]

    async def refused_twice() -> None:
        if refusals:
            number = refusals.pop()
            raise OSError(number, os.strerror(number))
        await spawn()

    monkeypatch.setattr(child, "_spawn", refused_twice)
    psutil.Process(child.pid).kill()
    await until_said(child, "up\nup")
    assert said[1:] == [
        "c cannot be started: [Errno 11] Resource temporarily unavailable; tried again in 0.4 s",
        "c cannot be started: [Errno 24] Too many open files; tried again in 0.8 s",
    ]
    await child.stop()


async def test_the_first_start_that_the_system_refuses_is_one_sentence(log_file: Path) -> None:
    """There is nothing yet that would be worth waiting for."""
    child = Child("c", ["/no/such/program"], log_file=log_file)
    with pytest.raises(StartError, match=r"c: cannot be started: .*No such file"):
        await child.start()


async def test_a_watch_that_meets_an_exception_goes_on(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A programming error in the watch is said, and the process is kept alive all the same."""
    said: list[str] = []
    child = Child("c", python(UP), log_file=log_file, say=said.append)
    await child.start()
    await until_said(child, "up")
    spawn, errors = child._spawn, [ZeroDivisionError("oops")]

    async def wrong_once() -> None:
        if errors:
            raise errors.pop()
        await spawn()

    monkeypatch.setattr(child, "_spawn", wrong_once)
    psutil.Process(child.pid).kill()
    await until_said(child, "up\nup")
    assert "watching c failed (ZeroDivisionError: oops), goes on in 0.2 s" in said
    await child.stop()


async def test_a_log_that_cannot_be_written_keeps_no_process_from_starting(tmp_path: Path) -> None:
    """What it says is lost, which is said."""
    said: list[str] = []
    child = Child("c", python("import time; time.sleep(60)"), log_file=tmp_path / "no" / "log", say=said.append)
    await child.start()
    assert child.pid and "its log cannot be written" in said[0]
    assert child.last_words() == ""
    await child.stop()


async def test_lines_of_its_state_are_shown(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that `shown` makes a sentence of, whole and once; the log file has all."""
    monkeypatch.setattr("pointsman.up.child.FOLLOW_S", 0.01)
    said: list[str] = []
    code = "import time; print('noise'); print('state: 1'); print('state: 2', flush=True); time.sleep(60)"
    child = Child(
        "c",
        python(code),
        log_file=log_file,
        say=said.append,
        shown=lambda line: line.removeprefix("state: ") if line.startswith("state: ") else None,
    )
    await child.start()
    async with asyncio.timeout(20):
        while len(said) < 2:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert said == ["1", "2"] and child.last_words() == "noise\nstate: 1\nstate: 2"
    await child.stop()
