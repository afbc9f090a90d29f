"""One operating-system process that never outlives ours, with a log file for all it writes.

`ChildProcess` owns the process between `spawn` and its end. The kernel ends it with our own process, however that dies
(PR_SET_PDEATHSIG), and a terminal's Ctrl-C does not reach it, so that its owner stops things in order. It starts
nothing again: `wait` returns when the process has ended, and its owner decides.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from pointsman.contract.private_files import append_private

LOG_TAIL_BYTES = 4096
"""Bytes at the end of a log that are quoted."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> Callable[[], None]:
    """Runs in the child before exec: the kernel sends it SIGTERM when `parent` dies, however it dies.

    Or when the thread that started it ends (prctl(2)), so that must be the one the event loop lives in.
    """

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(0)

    return ask


class ChildProcess:
    """A process and its log file.

    log_file: appended to by every `spawn`.
    say: takes a sentence when the log cannot be written. The process runs all the same, and what it writes is lost.
    whole_group: whether SIGKILL goes to the process group, for a process that has workers of its own.
    """

    def __init__(
        self, log_file: Path, *, say: Callable[[str], None] = lambda sentence: None, whole_group: bool = False
    ) -> None:
        self.log_file = log_file
        self._say = say
        self._whole_group = whole_group
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None while none runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def exit_code(self) -> int | None:
        """Of the process that ended last, negative for a signal; None while one runs, and before the first."""
        return self._process.returncode if self._process is not None else None

    async def spawn(
        self, argv: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts the process. Raises OSError when the system refuses to."""
        with self._open_log() as log:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )

    async def wait(self) -> int:
        """Returns when the process has ended: its exit code, negative for a signal."""
        assert self._process is not None, "spawn comes first"
        return await self._process.wait()

    async def stop(self, within_s: float) -> bool:
        """Ends the process by SIGTERM, or SIGKILL after `within_s`; True if it left by itself or had ended before."""
        if self.pid is None:
            return True
        assert self._process is not None
        self._process.terminate()
        try:
            async with asyncio.timeout(within_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
            return False
        return True

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process if it runs."""
        if self.pid is not None:
            assert self._process is not None
            self._process.send_signal(number)

    def kill(self) -> None:
        """Sends SIGKILL at once if it runs."""
        if self._whole_group and self.pid is not None:
            os.killpg(self.pid, signal.SIGKILL)
        else:
            self.send_signal(signal.SIGKILL)

    def last_words(self) -> str:
        """The end of the log; empty when there is none."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                return log.read().decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def _open_log(self) -> BinaryIO:
        try:
            return append_private(self.log_file)
        except OSError as error:
            self._say(f"its log cannot be written: {error}")
            return Path(os.devnull).open("ab")
