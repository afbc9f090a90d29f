"""Ending what a test started."""

from __future__ import annotations

import asyncio
import signal

STOP_S = 20.0
"""A process that ends later than this hangs."""


async def stop(process: asyncio.subprocess.Process, number: signal.Signals) -> int:
    """Signal `process` and wait for its end; its exit code, that of SIGKILL when it hangs."""
    if process.returncode is None:
        process.send_signal(number)
    try:
        async with asyncio.timeout(STOP_S):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()
