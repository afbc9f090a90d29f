"""One supervised process: started, watched, restarted when it dies, stopped in order.

`Child` owns an operating-system process and its log file. It dies with its supervisor even if that is killed
(PR_SET_PDEATHSIG), so no orphan is left. Restarts back off from `MIN_BACKOFF_S` to `MAX_BACKOFF_S`; a process that ran
for `STEADY_S` starts over at the shortest. Exit code 2 says the configuration is wrong: trying again would not help.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from haproxy.process import die_with_parent
from pointsman.errors import EXIT_CONFIGURATION
from router.backoff import Backoff

MIN_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
STEADY_S = 30.0
LOG_TAIL_BYTES = 4096

log = structlog.get_logger(__name__)


class Child:
    """A process kept alive until `stop`."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_file: Path,
        environment: dict[str, str] | None = None,
        stop_s: float = 30.0,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.restarts = 0
        self._log_file = log_file
        self._environment = environment
        self._stop_s = stop_s
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        self.refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the process exits with code 2: what it said last."""

    def __repr__(self) -> str:
        return f"Child({self.name}, pid={self.pid}, restarts={self.restarts})"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_alive(), name=f"watch {self.name}")

    async def _spawn(self) -> None:
        with self._log_file.open("ab") as log_file:
            self._process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=self._environment,
                start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone, which stops things in order
                preexec_fn=die_with_parent(os.getpid()),
            )
        log.debug("started", child=self.name, pid=self._process.pid)

    async def _keep_alive(self) -> None:
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            assert self._process is not None
            started_s = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            if code == EXIT_CONFIGURATION:
                if not self.refused.done():
                    self.refused.set_result(self.last_words())
                return
            if time.monotonic() - started_s > STEADY_S:
                backoff.reset()
            log.warning("process ended, restarting", child=self.name, code=code, in_s=backoff.next_s)
            await backoff.pause()
            self.restarts += 1
            await self._spawn()

    def last_words(self) -> str:
        """The end of its log."""
        try:
            with self._log_file.open("rb") as log_file:
                log_file.seek(0, os.SEEK_END)
                log_file.seek(max(0, log_file.tell() - LOG_TAIL_BYTES))
                return log_file.read().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""

    async def stop(self) -> bool:
        """SIGTERM, then SIGKILL after `stop_s`; True if it left by itself."""
        self._stopping = True
        process = self._process
        polite = True
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self._stop_s)
            except TimeoutError:
                polite = False
                log.warning("process did not stop in time, killed", child=self.name, after_s=self._stop_s)
                process.kill()
                await process.wait()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if not self.refused.done():
            self.refused.cancel()
        return polite

    def kill(self) -> None:
        """SIGKILL at once, for a second Ctrl-C."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
