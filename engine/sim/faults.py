"""Faults on demand, for tests of what is in front of a replica. Served only when a replica is started with `faults`.

`POST /sim/fault` takes a JSON object and sets the switches it names; `GET /sim/fault` says how they stand.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pointsman.engine.sim.errors import RequestError


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """The switches. All off: a healthy replica."""

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
        """These switches with those that `body` names changed. Raises RequestError on unknown names or wrong types."""
        try:
            changes = msgspec.json.decode(body, type=dict[str, object])
            return msgspec.convert({**msgspec.structs.asdict(self), **changes}, Faults)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            names = ", ".join(self.__struct_fields__)
            raise RequestError(400, "Bad Request", f"{error}; an object of {names} is expected") from None
