"""One supervised process: started, watched, restarted when it dies, stopped in order.

`Child` watches a process of `pointsman.contract.child_process`, which dies with its supervisor. Restarts back off from
`MIN_BACKOFF_S` to `MAX_BACKOFF_S`; a process that ran for `STEADY_S` starts over at the shortest. Nothing but `stop`
ends the watch: a start that the system refuses (no descriptor, no memory, a full disk) is tried again like one that
fails.

Exit code 2 says that the configuration is wrong. Until `established`, that is final, and `refused` has what the process
said. Later the process is started again like any other: it ran with this configuration before, and what it meets may
pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from pointsman.contract.backoff import Backoff
from pointsman.contract.child_process import ChildProcess
from pointsman.errors import EXIT_CONFIGURATION, StartError
from pointsman.up.terminal import as_people_read, how_it_ended

MIN_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
STEADY_S = 30.0

FOLLOW_S = 0.5
"""Between two looks at the log of a process whose lines are shown."""

FOLLOW_BYTES = 65_536
"""Read of such a log at a time; what is written faster is shown later."""

Say = Callable[[str], None]

log = structlog.get_logger(__name__)


async def go_on(name: str, work: Callable[[], Awaitable[None]], say: Say) -> None:
    """Runs `work` until it returns; after an exception, which is logged and said, again with a growing pause."""
    backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
    while True:
        try:
            await work()
        except Exception as error:
            log.exception("watch failed", watched=name)
            say(f"watching {name} failed ({type(error).__name__}: {error}), goes on in {backoff.next_s:g} s")
            await backoff.pause()
        else:
            return


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
        say: Say = log.warning,
        shown: Callable[[str], str | None] | None = None,
    ) -> None:
        """`say` takes sentences for people; `shown` makes one of a line of the process's log, or None of it."""
        self.name = name
        self.argv = list(argv)
        self.restarts = 0
        self.established = False
        """Note that the child accepted its configuration: from here on, exit code 2 is a failure like others."""
        self._environment = environment
        self._stop_s = stop_s
        self._say = say
        self._shown = shown
        self._process = ChildProcess(log_file, say=lambda sentence: say(f"{name}: {sentence}"))
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        self.refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the process exits with code 2 before it is established: what it said last."""

    def __repr__(self) -> str:
        return f"Child({self.name}, pid={self.pid}, restarts={self.restarts})"

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def start(self) -> None:
        """Starts it for the first time. Raises StartError when the system refuses to."""
        try:
            await self._spawn()
        except OSError as error:
            raise StartError(f"{self.name}: cannot be started: {error}") from error
        self._watch(self._keep_alive, f"watch {self.name}")
        if self._shown is not None:
            self._watch(self._follow, f"follow {self.name}")

    def _watch(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        self._tasks.append(asyncio.create_task(go_on(self.name, work, self._say), name=name))

    async def _spawn(self) -> None:
        await self._process.spawn(self.argv, environment=self._environment)
        log.debug("started", child=self.name, pid=self._process.pid)

    async def _keep_alive(self) -> None:
        backoff = self._backoff
        while True:
            started_s = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            if code == EXIT_CONFIGURATION and not self.established:
                if not self.refused.done():
                    self.refused.set_result(self.last_words())
                return
            if time.monotonic() - started_s > STEADY_S:
                backoff.reset()
            why = f" ({self.last_line()})" if code > 0 else ""
            self._say(f"{self.name} {how_it_ended(code)}{why}, starts again in {backoff.next_s:g} s")
            self.restarts += 1
            await backoff.pause()
            while not self._stopping and not await self._started_again():
                await backoff.pause()

    async def _started_again(self) -> bool:
        try:
            await self._spawn()
        except OSError as error:
            self._say(f"{self.name} cannot be started: {error}; tried again in {self._backoff.next_s:g} s")
            return False
        return True

    async def _follow(self) -> None:
        """Shows what the process says of its state, from its log."""
        assert self._shown is not None
        at, rest = 0, b""
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                with self._process.log_file.open("rb") as log_file:
                    log_file.seek(at)
                    read = log_file.read(FOLLOW_BYTES)
            except OSError:
                continue
            at += len(read)
            *lines, rest = (rest[-FOLLOW_BYTES:] + read).split(b"\n")
            for line in lines:
                if (sentence := self._shown(line.decode("utf-8", "replace"))) is not None:
                    self._say(sentence)

    def last_words(self) -> str:
        """The end of its log; empty when there is none."""
        return self._process.last_words()

    def last_line(self) -> str:
        """The last line of its log, as people read it."""
        return as_people_read((self.last_words().splitlines() or ["it said nothing"])[-1]).removeprefix("pointsman: ")

    async def stop(self) -> bool:
        """SIGTERM, then SIGKILL after `stop_s`; True if it left by itself."""
        self._stopping = True
        # A start under way would outlive this: the watch goes first.
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left = await self._process.stop(self._stop_s)
        if not left:
            self._say(f"{self.name} did not stop within {self._stop_s:g} s, and was killed")
        if not self.refused.done():
            self.refused.cancel()
        return left

    def kill(self) -> None:
        """SIGKILL at once, for a second Ctrl-C."""
        self._stopping = True
        self._process.kill()
