"""A whole router on ports the system picked, for tests of its fronts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from pointsman.router.app import Router
from pointsman.router.settings import load_settings

PICKED = {"spop": {"port": 0}, "ring": {"port": 0}, "lookup": {"port": 0}, "admin": {"port": 0}}


@asynccontextmanager
async def running_router(**overrides: Any) -> AsyncIterator[Router]:
    """A router without HAProxy unless `edge` is given: what registers is up."""
    settings = load_settings(environment={}, overrides={**PICKED, "seed": 1, **overrides})
    async with Router(settings).running() as router:
        yield router


@asynccontextmanager
async def client_of(router: Router, front: str = "admin", **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{router.addresses[front]}", **options) as client:
        yield client


async def register(router: Router, *replicas: str, model: str = "", role: str = "both") -> None:
    """Registers replicas on ports nobody listens on, through the admin API."""
    async with client_of(router) as client:
        for number, replica in enumerate(replicas, 1):
            answer = await client.put(
                f"/v1/replicas/{replica}", json={"url": f"http://127.0.0.1:{number}", "model": model, "role": role}
            )
            assert answer.status_code == 201, answer.text
