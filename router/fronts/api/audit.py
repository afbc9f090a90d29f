"""Record of calls that change something: who, when, which operation, with what result.

A call of a row that `changes` becomes one event of the kind `audit` and one line in the log, refusals included: that
somebody tried, and that somebody else was faster, is what one looks for afterwards. Handlers may say what changed with
`record`, and that a call is none to record with `unrecorded`: a dry run, a heartbeat, a replica that leaves by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.router.fronts.api.endpoint import Endpoint
from pointsman.router.fronts.api.guard import caller_of
from pointsman.router.journal.events import EventKind, EventLog

PATH_MAX = 256
"""Characters of a path that are recorded."""

Handler = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger(__name__)


def record(request: Request, text: str) -> None:
    """Say in one sentence what a call changed, for its record; nothing of one that is `unrecorded`."""
    if getattr(request.state, "change", text) is not None:
        request.state.change = text


def unrecorded(request: Request) -> None:
    """Say that a call changes nothing that people decide about."""
    request.state.change = None


class Audit:
    """Puts calls into the log of events."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def recorded(self, endpoint: Endpoint, handler: Handler) -> Handler:
        """The handler of an operation, each call of which is recorded if the operation changes something."""
        if not endpoint.changes:
            return handler

        async def handle_then_record(request: Request) -> Response:
            request.state.change = " ".join([endpoint.operation_id, *map(str, request.path_params.values())])
            try:
                response = await handler(request)
            except HTTPException as error:
                # A replica that is refused tries again every few seconds, and logs it itself.
                if endpoint.tag != "engines":
                    self._record(request, endpoint, error.status_code, f"refused: {error.detail}")
                raise
            self._record(request, endpoint, response.status_code)
            return response

        return handle_then_record

    def _record(self, request: Request, endpoint: Endpoint, status: int, refused: str = "") -> None:
        change: str | None = request.state.change
        if change is None:
            return
        event = self._events.add(
            EventKind.AUDIT,
            f"{change} {refused}".rstrip(),
            author=caller_of(request).name,
            operation=endpoint.operation_id,
            path=request.url.path[:PATH_MAX],
            status=status,
        )
        log.info(
            "audit",
            author=event.author,
            operation=event.operation,
            path=event.path,
            status=event.status,
            change=event.text,
        )
