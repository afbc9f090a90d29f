"""Commands run in a thread beside the router that they ask, and share its standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def router_logs_elsewhere() -> Iterator[None]:
    """A line of the router's log in the middle of a command's output is none of the command's."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
    yield
    structlog.reset_defaults()
