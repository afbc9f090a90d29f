"""A supervised process: started, restarted, stopped, given up."""

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from pointsman.child import Child


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
    child = Child("c", python("import time; print('up', flush=True); time.sleep(60)"), log_file=log_file)
    await child.start()
    await until_said(child, "up")
    first = child.pid
    assert first
    psutil.Process(first).kill()
    await until_said(child, "up\nup")
    assert child.pid != first and child.restarts == 1
    assert await child.stop()
    assert not psutil.pid_exists(first)


async def test_a_stop_is_polite_first(log_file: Path) -> None:
    """A process that ends on SIGTERM is given the time to."""
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)));"
        "print('up', flush=True); time.sleep(60)"
    )
    child = Child("c", python(code), log_file=log_file)
    await child.start()
    await until_said(child, "up")
    assert await child.stop()
    assert child.last_words().endswith("bye") and child.restarts == 0


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


async def test_a_child_dies_with_its_supervisor(log_file: Path, tmp_path: Path) -> None:
    """SIGKILL leaves the supervisor no time to stop anything; the kernel does it."""
    code = f"""
import asyncio, sys
from pathlib import Path
from pointsman.child import Child
async def main():
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = Child("c", sleep, log_file=Path({str(tmp_path / "inner")!r}))
    await child.start()
    print("pid", child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    supervisor = await asyncio.create_subprocess_exec(*python(code), stdout=asyncio.subprocess.PIPE)
    assert supervisor.stdout
    line = b""
    while not line.startswith(b"pid "):
        line = await supervisor.stdout.readline()
    pid = int(line[4:])
    supervisor.kill()
    await supervisor.wait()
    supervisor._transport.close()  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
