"""Faults on demand, for tests of what is in front of a replica. Served only when a replica is started with `faults`.

`POST /sim/fault` takes a JSON object and sets the switches it names; `GET /sim/fault` says how they stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import msgspec

from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.http import Exchange, Service

HEALTH_PATHS = ("/health", "/ping")


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """The switches of `POST /sim/fault`. All off: a healthy replica."""

    health: bool = True
    """false: /health answers 503."""
    health_hang: bool = False
    """/health is read and not answered, as by an engine that hangs, until this is false again."""
    metrics: bool = True
    """false: /metrics answers 404, as a server without it does."""
    refuse: bool = False
    """The port is closed: connections are refused. Idle connections are closed; the one that said so stays usable."""
    hang: bool = False
    """Requests to /v1 are read and not answered until this is false again."""
    reset_before_response: int = 0
    """So many requests to /v1 end in a connection reset before a byte is answered."""
    reset_after_tokens: int = 0
    """Above 0: a stream is reset when it has brought so many tokens. Stays on until set to 0."""
    stall: bool = False
    """The head of a streamed answer is sent and nothing after it; whole answers never come."""
    slowness: Annotated[float, msgspec.Meta(ge=1.0, le=1000.0)] = 1.0
    """Every step of the engine lasts so many times longer: a replica that is slow but alive."""
    error_status: int = 0
    """Requests to /v1 are answered with this status, `error_count` of them."""
    error_count: int = 0

    def updated(self, body: bytes) -> Faults:
        """Return the switches, changed as `body` says. Raises RequestError on unknown names or wrong types."""
        try:
            changes = msgspec.json.decode(body, type=dict[str, object])
            return msgspec.convert({**msgspec.structs.asdict(self), **changes}, Faults)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            names = ", ".join(self.__struct_fields__)
            raise RequestError(400, "Bad Request", f"{error}; an object of {names} is expected") from None


class FaultInjection:
    """The faults of one replica: how the switches stand, and the requests that hang.

    The replica asks `takes` and `hangs` before it answers. A request that hangs is handled again when the fault ends.
    """

    def __init__(
        self, service: Service, handle: Callable[[Exchange], None], on_change: Callable[[Faults], None]
    ) -> None:
        """`handle` serves a request that hung; `on_change` receives the switches of the engine."""
        self.switches = Faults()
        self._service = service
        self._handle = handle
        self._on_change = on_change
        self._hung: list[Exchange] = []
        self._reopening: asyncio.Task[None] | None = None

    @property
    def hung(self) -> int:
        """Requests that were read and not answered."""
        return len(self._hung)

    def hangs(self, exchange: Exchange) -> bool:
        """Whether a health check is read and not answered: it is kept until the fault ends."""
        if self.switches.health_hang:
            self._hung.append(exchange)
        return self.switches.health_hang

    def takes(self, exchange: Exchange) -> bool:
        """Whether a fault ended or holds this request to `/v1`. Raises RequestError for one that is to fail."""
        switches = self.switches
        if switches.reset_before_response > 0:
            switches.reset_before_response -= 1
            exchange.reset()
        elif switches.hang:
            self._hung.append(exchange)
        elif switches.error_count > 0:
            switches.error_count -= 1
            raise RequestError(switches.error_status, "InternalServerError", "A fault that was asked for")
        else:
            return False
        return True

    def show(self, exchange: Exchange) -> None:
        """Answer `GET /sim/fault`."""
        exchange.respond(200, msgspec.json.encode(self.switches))

    def change(self, exchange: Exchange) -> None:
        """Answer `POST /sim/fault`. Raises RequestError."""
        before, self.switches = self.switches, self.switches.updated(exchange.body)
        self._on_change(self.switches)
        if self.switches.refuse and not before.refuse:
            # Before the answer: the connection that asked is busy, so it stays and can take it back.
            self._service.stop_listening()
            self._service.close_idle()
        if before.refuse and not self.switches.refuse:
            self._reopening = asyncio.get_running_loop().create_task(self._reopen(exchange))
        else:
            self.show(exchange)
        hung, self._hung = self._hung, []
        for waiting in hung:
            if self.switches.health_hang if waiting.path in HEALTH_PATHS else self.switches.hang:
                self._hung.append(waiting)
            elif not waiting.lost:
                self._handle(waiting)

    async def _reopen(self, exchange: Exchange) -> None:
        await self._service.listen_again()
        self.show(exchange)
