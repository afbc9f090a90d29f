"""Another task of the event loop, to see whether a piece of work lets others run in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """How often the other task ran."""

    count = 0


@asynccontextmanager
async def another_task() -> AsyncIterator[Turns]:
    """A task that runs whenever it may while the context is open; its turns are counted."""
    turns = Turns()

    async def run() -> None:
        while True:
            turns.count += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(run())
    try:
        yield turns
    finally:
        task.cancel()
