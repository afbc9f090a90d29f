"""Background tasks of one router: none ends unnoticed, and none takes the process along at its first exception.

`BackgroundTasks` owns them. A task that meets an exception is a programming error or an unexpected state of the world:
it is logged with its traceback, counted, said in `/readyz`, and started again after a pause that grows. A task that
fails `MAX_FAILURES` times in a row ends the process, whose supervisor starts a fresh one: HAProxy serves meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import structlog

from pointsman.contract.backoff import Backoff
from pointsman.router.process.clock import Clock
from pointsman.router.process.readiness import Readiness

MIN_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0
"""Between two starts of a task that fails."""

STEADY_S = 60.0
"""A task that ran for so long works: what failed before does not count."""

MAX_FAILURES = 20
"""Failures in a row, over some two minutes, after which only a fresh process may help."""

LOOP = "event loop"
"""Name under which errors in callbacks and connections are counted, because they belong to no task."""

Work = Callable[[], Coroutine[Any, Any, None]]

log = structlog.get_logger(__name__)


class BackgroundTasks:
    """Starts tasks, starts them again when they fail, and stops them."""

    def __init__(self, *, readiness: Readiness, clock: Clock, on_given_up: Callable[[], None]) -> None:
        self._readiness = readiness
        self._clock = clock
        self._on_given_up = on_given_up
        self.errors: Counter[str] = Counter()
        """Exceptions met, by name of the task."""

    def __repr__(self) -> str:
        return f"BackgroundTasks(errors={dict(self.errors)})"

    def start(self, stack: AsyncExitStack, name: str, work: Work) -> None:
        """Runs `work()`, which ends by cancellation alone, until the stack unwinds."""
        self.errors[name] += 0  # exported from the start, so that the first error is an increase
        task = asyncio.create_task(self._keep_running(name, work), name=name)

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(stop)

    async def _keep_running(self, name: str, work: Work) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        failures = 0
        while True:
            started_s = self._clock()
            steady = loop.call_later(STEADY_S, self._readiness.restored, name)
            try:
                await work()
                problem: Exception = RuntimeError("the task returned, though it should run for ever")
            except Exception as error:
                problem = error
            finally:
                steady.cancel()
            if self._clock() - started_s >= STEADY_S:
                failures = 0
                backoff.reset()
            failures += 1
            self._failed(name, problem, failures, backoff.next_s)
            if failures >= MAX_FAILURES:
                log.critical("background task given up, the process ends", task=name, failures=failures)
                self._on_given_up()
                return
            await backoff.pause()

    def _failed(self, name: str, error: Exception, failures: int, pause_s: float) -> None:
        self.errors[name] += 1
        self._readiness.degraded(name, f"failed, starts again: {type(error).__name__}: {error}")
        log.error("background task failed", task=name, failures=failures, again_in_s=pause_s, exc_info=error)

    def watch_loop(self, stack: AsyncExitStack) -> None:
        """Logs and counts what the event loop reports until the stack unwinds: exceptions in callbacks, in protocols,
        and of tasks that nobody waited for."""
        loop = asyncio.get_running_loop()
        self.errors[LOOP] += 0
        before = loop.get_exception_handler()

        def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            self.errors[LOOP] += 1
            log.error("event loop reports an error", said=context["message"], exc_info=context.get("exception"))

        loop.set_exception_handler(handle)
        stack.callback(loop.set_exception_handler, before)
