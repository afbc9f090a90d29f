"""Edges that tests of one file share: to start one takes four seconds of CPU, most of what a short test costs.

What a test left open is found at its own end. An open connection is part of a cycle, so that the garbage collector
finds it, and its warning would be the error of whichever test runs by then.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from edge import SharedEdges


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Fixtures that are set up later, the event loop among them, are gone by then."""
    yield
    gc.collect()


def pytest_collection_finish() -> None:
    """Takes all that was imported and collected, hundreds of thousands of objects, out of later collections."""
    gc.collect()
    gc.freeze()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[SharedEdges]:
    """Files that use it carry the mark `SHARING`."""
    async with AsyncExitStack() as stack:
        yield SharedEdges(stack)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps those tests of a file that share edges in one process (xdist's `--dist loadgroup`)."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
