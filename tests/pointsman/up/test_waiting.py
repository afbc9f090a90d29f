"""A start that waits says for what, in the router's own words."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rich.console import Console

from pointsman.errors import NotReadyError, StartError
from pointsman.up import waiting
from pointsman.up.terminal import Terminal
from pointsman.up.waiting import LastingReason, WantedReplicas, wait_for_replicas, wait_for_router

REFUSED = "haproxy: 'add server fleet/sim-1 127.0.0.1:1 id 7 check' refused: Backend must use a dynamic algorithm."
UNREADY = (503, f"not ready: {REFUSED}\ndegraded: pins: late\n")
READY = (200, "ok\n")


class Process:
    """A child as far as those who wait look at it."""

    name = "router"

    def __init__(self) -> None:
        self.refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def last_line(self) -> str:
        return "its last line"


def asks(answers: Iterator[tuple[int, str] | None]) -> httpx.AsyncClient:
    """A client of a router that gives these answers in turn; None where nobody listens."""

    def answer(request: httpx.Request) -> httpx.Response:
        told = next(answers)
        if told is None:
            raise httpx.ConnectError("refused")
        assert (request.url.path, request.url.params["exclude"]) == ("/readyz", "replicas")
        return httpx.Response(told[0], text=told[1])

    return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://router")


class Screen(Terminal):
    """A terminal whose lines are kept."""

    def __init__(self) -> None:
        self._out = io.StringIO()
        super().__init__(Console(file=self._out, width=300))

    @property
    def lines(self) -> list[str]:
        return self._out.getvalue().splitlines()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Where reasons are told at once and nobody rests."""
    monkeypatch.setattr(waiting, "TOLD_AFTER_S", 0.0)
    monkeypatch.setattr(waiting, "POLL_S", 0.0)
    return Screen()


async def test_what_haproxy_refuses_is_said_while_the_router_is_waited_for(screen: Screen) -> None:
    """Until it is mended."""
    process: Any = Process()
    async with asks(iter([None, UNREADY, UNREADY, READY])) as client:
        await wait_for_router(client, process, screen)
    assert screen.lines == [f"waiting for the router: {REFUSED}"]


async def test_a_router_that_is_never_ready_ends_the_start_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, screen: Screen
) -> None:
    """Its last line where it does not answer at all."""
    monkeypatch.setattr(waiting, "ROUTER_START_S", -1.0)
    process: Any = Process()
    for answer, why in ((UNREADY, REFUSED), (None, "its last line")):
        async with asks(iter([answer])) as client:
            with pytest.raises(NotReadyError, match="was not ready after") as late:
                await wait_for_router(client, process, screen)
        assert str(late.value).endswith(why)


async def test_a_router_that_refuses_to_start_is_not_waited_for(screen: Screen) -> None:
    process: Any = Process()
    process.refused.set_result(None)
    async with asks(iter([None])) as client:
        with pytest.raises(StartError, match="its last line"):
            await wait_for_router(client, process, screen)


async def test_what_haproxy_refuses_is_said_while_replicas_are_waited_for(screen: Screen) -> None:
    """It is known when they register, and not before."""
    process: Any = Process()
    seen = iter([["starting"], ["starting", "starting"], ["up", "up"]])

    async def states(client: httpx.AsyncClient) -> list[str]:
        return next(seen)

    async with asks(iter([READY, UNREADY])) as client:
        await wait_for_replicas([client], WantedReplicas(2, 60.0, process), states, [process], screen)
    assert screen.lines == ["replicas up: 0 of 2", f"replicas up: 0 of 2; {REFUSED}", "replicas up: 2 of 2"]


async def test_replicas_that_are_never_up_end_the_start_with_the_reason(screen: Screen) -> None:
    """That of the router, where it has one."""
    process: Any = Process()

    async def states(client: httpx.AsyncClient) -> list[str]:
        return ["up", "starting"]

    for answer, why in ((UNREADY, REFUSED), (READY, "its last line")):
        async with asks(iter([answer])) as client:
            with pytest.raises(NotReadyError, match="1 of 2 replicas were ready") as late:
                await wait_for_replicas([client], WantedReplicas(2, -1.0, process), states, [process], screen)
        assert str(late.value).endswith(why)


def test_a_reason_is_told_once_it_lasts() -> None:
    """While everything starts at once, each part lacks another one for a moment."""
    reason = LastingReason()
    assert [reason.told("haproxy: starting", at) for at in (0.0, 1.9)] == ["", ""]
    assert [reason.told(REFUSED, at) for at in (2.0, 3.0, 4.0)] == ["", "", REFUSED]
    assert reason.told("", 5.0) == ""
