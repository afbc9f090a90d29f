"""Edges that tests of one file share: to start one takes four seconds of CPU, most of what a short test costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from edge import SharedEdges


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
