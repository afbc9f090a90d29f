"""Waiting for the router and the replicas of a starting edge, and why they are not ready, in the router's own words.

A reason is told once it has lasted: while everything starts at once, each part lacks another one for a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import httpx

from pointsman.errors import NotReadyError, StartError
from pointsman.up.child import Child
from pointsman.up.terminal import Terminal

ROUTER_START_S = 30.0

POLL_S = 0.1

TOLD_AFTER_S = 2.0
"""Seconds that a reason lasts before it is told."""

READY = "/readyz?exclude=replicas"
"""Replicas are waited for apart, where there are any."""


class LastingReason:
    """The reason of a wait, silent until it has lasted."""

    def __init__(self) -> None:
        self._why = ""
        self._since_s = 0.0

    def told(self, why: str, now_s: float) -> str:
        """Return the reason as it is told at a moment: empty for one that is new."""
        if why != self._why:
            self._why, self._since_s = why, now_s
        return why if now_s >= self._since_s + TOLD_AFTER_S else ""


async def wait_for_router(client: httpx.AsyncClient, router: Child, terminal: Terminal) -> None:
    """Return once a router is ready for replicas. Raises StartError when it refuses to start, or is late."""
    deadline_s, reason = time.monotonic() + ROUTER_START_S, LastingReason()
    while (why := await why_not_ready(client)) is not None:
        raise_if_refused(router)
        if told := reason.told(why, time.monotonic()):
            terminal.progress(f"waiting for the router: {told}")
        if time.monotonic() > deadline_s:
            raise NotReadyError(f"the router was not ready after {ROUTER_START_S:.0f} s: {why or router.last_line()}")
        await asyncio.sleep(POLL_S)


class WantedReplicas(NamedTuple):
    """Replicas that an edge starts with."""

    number: int
    within_s: float
    """Seconds that they have to become ready."""
    first: Child
    """Process whose last line says what keeps them."""


async def wait_for_replicas(
    clients: Sequence[httpx.AsyncClient],
    wanted: WantedReplicas,
    states: Callable[[httpx.AsyncClient], Awaitable[list[str]]],
    children: Sequence[Child],
    terminal: Terminal,
) -> None:
    """Return once every edge has so many replicas up. Raises StartError when a child refuses to start, or is late.

    clients: one for the admin API of each edge. states: asks one of them for the state of each replica.
    """
    deadline_s, reason = time.monotonic() + wanted.within_s, LastingReason()
    while True:
        up = min([sum(state == "up" for state in await states(client)) for client in clients])
        ready = f"replicas up: {up} of {wanted.number}"
        if up >= wanted.number:
            terminal.progress(ready)
            return
        why = "; ".join([said for client in clients if (said := await why_not_ready(client))])
        told = reason.told(why, time.monotonic())
        terminal.progress(f"{ready}; {told}" if told else ready)
        raise_if_refused(*children)
        if time.monotonic() > deadline_s:
            last = why or wanted.first.last_line()
            raise NotReadyError(f"{up} of {wanted.number} replicas were ready after {wanted.within_s:.0f} s: {last}")
        await asyncio.sleep(POLL_S)


async def why_not_ready(client: httpx.AsyncClient) -> str | None:
    """Return why a router is not ready, replicas aside; empty while it does not answer, None when it is ready."""
    try:
        answer = await client.get(READY)
    except httpx.HTTPError:
        return ""
    if answer.status_code == httpx.codes.OK:
        return None
    return "; ".join(_lines(answer.text, "not ready: "))


async def degraded_parts(client: httpx.AsyncClient) -> list[str]:
    """Return `part: why` of each part of a router that is degraded; none while it does not answer."""
    try:
        return _lines((await client.get(READY)).text, "degraded: ")
    except httpx.HTTPError:
        return []


def raise_if_refused(*children: Child) -> None:
    """Raise StartError, in its own words, when one of the children refused to start."""
    for child in children:
        if child.refused.done() and not child.refused.cancelled():
            raise StartError(child.last_line() or f"{child.name} refused to start")


def _lines(text: str, beginning: str) -> list[str]:
    return [line.removeprefix(beginning) for line in text.splitlines() if line.startswith(beginning)]
