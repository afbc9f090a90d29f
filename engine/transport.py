"""How an engine's messages reach one listener: the seam between `Publisher` and what carries its messages.

A transport sends one message at a time and answers what the listener said to it. It keeps no messages: one that was
not taken is lost, and the publisher makes up for it with a snapshot.

`HttpTransport` posts to `POST /v1/replicas/{id}/events` of a router's admin API.
"""

from __future__ import annotations

from typing import Protocol

import httpx
import msgspec

from router.state.schema import MSGPACK_TYPE, EngineEvents, EventsAnswer

TIMEOUT_S = 2.0
"""For one message; a router answers in milliseconds or is away."""


class TransportError(Exception):
    """A message was not taken. `expected` is for what happens at every start, and is not worth a line in the log."""

    def __init__(self, said: str, *, expected: bool = False) -> None:
        super().__init__(said)
        self.expected = expected


class Transport(Protocol):
    """The way to one listener. `str()` of it names the listener in logs."""

    async def send(self, message: EngineEvents) -> EventsAnswer:
        """Delivers a message; calls do not overlap. Raises TransportError when it was not taken, or that is unknown."""

    async def close(self) -> None:
        """Ends it; nothing is sent afterwards."""


class HttpTransport:
    """To one router, over its admin API."""

    def __init__(self, admin_url: str, token: str, replica_id: str) -> None:
        self._url = f"{admin_url.rstrip('/')}/v1/replicas/{replica_id}/events"
        # Environment proxies are for the outside world, not for a control plane next door.
        self._client = httpx.AsyncClient(
            headers={"content-type": MSGPACK_TYPE} | ({"authorization": f"Bearer {token}"} if token else {}),
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def __str__(self) -> str:
        return self._url

    async def send(self, message: EngineEvents) -> EventsAnswer:
        try:
            response = await self._client.post(self._url, content=msgspec.msgpack.encode(message))
        except httpx.HTTPError as error:
            raise TransportError(f"cannot be told: {type(error).__name__}") from error
        if not response.is_success:
            # A replica that is not registered yet is expected at every start.
            said = f"answered {response.status_code}: {response.text[:200]}"
            raise TransportError(said, expected=response.status_code == 404)
        try:
            return msgspec.json.decode(response.content, type=EventsAnswer)
        except msgspec.MsgspecError as error:
            raise TransportError(f"answered no {EventsAnswer.__name__}: {error}") from error

    async def close(self) -> None:
        await self._client.aclose()
