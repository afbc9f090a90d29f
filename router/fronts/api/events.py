"""Events in the admin API: those that are kept, and those to come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import json_answer, unfit
from pointsman.router.fronts.api.endpoint import Parameter
from pointsman.router.fronts.api.flags import flag
from pointsman.router.fronts.api.guard import caller_of
from pointsman.router.fronts.api.paging import LIMIT_MAX, Next, read_limit
from pointsman.router.fronts.api.stream import Frame, Streams
from pointsman.router.journal.events import Event, EventKind, EventLog

SHOWN = 100
"""Events of an answer to a request without a limit: the newest."""

ID_DIGITS_MAX = 16
"""Milliseconds of the next 300,000 years; int() is quadratic in digits."""

KIND = Parameter(
    name="kind",
    where="query",
    schema={"type": "string", "enum": [str(kind) for kind in EventKind]},
    description="Kind of the events.",
)
LAST = Parameter(
    name="limit",
    where="query",
    schema={"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": SHOWN},
    description="Largest number of events in the answer: the newest, or those next after the cursor. A stream begins "
    "with so many; without a limit, with those to come.",
)
FOLLOW = Parameter(
    name="follow",
    where="query",
    schema={"type": "boolean"},
    description="Whether the answer goes on with what comes: as server-sent events where `Accept` names "
    "`text/event-stream`, else as one JSON document a line. Empty lines and comments show that the stream lives; "
    '`{"missed": N}` says that N were dropped, since the reader was too slow.',
)
AFTER = Parameter(
    name="cursor",
    where="query",
    schema={"type": "string", "pattern": f"^[0-9]{{1,{ID_DIGITS_MAX}}}$"},
    description="`id` of an event; the answer begins with the event after that one.",
)
LAST_EVENT_ID = Parameter(
    name="Last-Event-ID",
    where="header",
    schema={"type": "string"},
    description="As `cursor`; browsers send it when they connect again.",
)


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    events: Annotated[list[Event], msgspec.Meta(description="Events, the newest last.")]
    next: Next = UNSET


class Whoami(msgspec.Struct, frozen=True, kw_only=True):
    """The token of a request and what it allows."""

    name: Annotated[str, msgspec.Meta(description="Name under which changes are recorded.")]
    roles: Annotated[list[str], msgspec.Meta(description="Roles of the token: read, operate, engine.")]


class EventsFront:
    """Handlers of `/v1/events` and `/v1/whoami`."""

    def __init__(self, events: EventLog, streams: Streams) -> None:
        self._events = events
        self._streams = streams

    async def whoami(self, request: Request) -> Response:
        caller = caller_of(request)
        return json_answer(Whoami(name=caller.name, roles=sorted(caller.roles)))

    async def list_events(self, request: Request) -> Response:
        wants, limit, after = _wants(request), read_limit(request), _after(request)
        events = [event for event in self._events if (wants is None or wants(event)) and event.id > after]
        if flag(request, "follow"):
            # Who comes back gets all that he missed; who comes first gets the last ones, if he asks for some.
            backlog = events if after else events[len(events) - min(len(events), limit or 0) :]
            return self._streams.follow(request, self._events.followers, _frame, backlog=backlog, wants=wants)
        limit = limit or SHOWN
        page = events[:limit] if after else events[-limit:]
        more = bool(page) and page[-1] is not events[-1]
        return json_answer(EventList(events=page, next=str(page[-1].id) if more else UNSET))


def _wants(request: Request) -> Callable[[Event], bool] | None:
    given = request.query_params.get("kind")
    if given is None:
        return None
    if given not in list(EventKind):
        raise unfit("kind", given, f"one of {', '.join(EventKind)}")
    return lambda event: event.kind == given


def _after(request: Request) -> int:
    """The id of the event that the reader saw last; 0 for none."""
    given = request.query_params.get("cursor")
    if given is None:
        # A stream of another router may have ended with an id of another form.
        given = request.headers.get("last-event-id", "")
        return int(given) if _is_id(given) else 0
    if not _is_id(given):
        raise unfit("cursor", given, "the id of an event")
    return int(given)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= ID_DIGITS_MAX


def _frame(event: Event) -> Frame:
    return Frame(msgspec.json.encode(event), id=str(event.id), event=str(event.kind))
