"""Past decisions in the admin API: the latest ones, one by its request id, and those that end from now on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice

import msgspec
from msgspec import UNSET
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import json_answer, unfit
from pointsman.router.decide.decision_filter import STATUS_PATTERN, DecisionFilter
from pointsman.router.decide.decision_view import DecisionView
from pointsman.router.fronts.api.endpoint import Parameter
from pointsman.router.fronts.api.flags import flag
from pointsman.router.fronts.api.paging import Next, read_cursor, read_limit
from pointsman.router.fronts.api.stream import Frame, Streams
from pointsman.router.requests.decision_record import DecisionRecord
from pointsman.router.watch.decision_feed import DecisionFeed

DEFAULT_LIMIT = 100
"""Decisions in an answer where nobody says how many."""

SLICE = 64
"""Records looked at or rendered before others have their turn, which takes a millisecond."""

REQUEST_ID = Parameter(
    name="id",
    where="path",
    schema={"type": "string", "minLength": 1, "maxLength": 128},
    description="`x-request-id` as the edge made it, or as the client sent it.",
)
DETAIL = Parameter(
    name="detail",
    where="query",
    schema={"type": "boolean"},
    description="Show the candidates of each decision, with the terms of their scores.",
)
ENDED = Parameter(
    name="ended",
    where="query",
    schema={"type": "boolean"},
    description="Leave out requests in flight.",
)
ABOUT = {
    "session": "Session as the client named it, or the hash that is shown for it.",
    "tenant": "Tenant, or the hash that is shown for it.",
    "model": "Model that the request asked for.",
    "replica": "Replica that served; of requests in flight, the first choice.",
    "reason": "Reason of the decision.",
    "status": "Status that the client received, or a class such as `5xx`.",
    "policy": "Policy that decided.",
    "client_id": "`x-request-id` as the client sent it.",
}
FILTERS = (
    ENDED,
    *(
        Parameter(
            name=name,
            where="query",
            schema={"type": "string", "maxLength": 256} | ({"pattern": STATUS_PATTERN} if name == "status" else {}),
            description=text,
        )
        for name, text in ABOUT.items()
    ),
)
"""Query parameters that choose decisions: the fields of `DecisionFilter`."""


class DecisionList(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions, the newest first."""

    decisions: list[DecisionView]
    next: Next = UNSET


class DecisionsFront:
    """Handlers of `/v1/decisions`."""

    def __init__(self, feed: DecisionFeed | None, streams: Streams) -> None:
        """feed: None on a router that keeps no decisions."""
        self._feed = feed
        self._streams = streams

    async def list_decisions(self, request: Request) -> Response:
        feed, chosen = kept_decisions(self._feed), _filter(request)
        limit, cursor = read_limit(request), read_cursor(request)
        detail = flag(request, "detail")
        if flag(request, "follow"):
            return await self._follow(feed, request, chosen, limit or 0)
        limit, records = limit or DEFAULT_LIMIT, iter(feed.log)
        if cursor is not None:
            _skip(records, cursor)
        found = await _find(feed, records, chosen, limit + 1)
        views: list[DecisionView] = []
        for at, record in enumerate(found[:limit], 1):
            views.append(feed.view(record, detail=detail))
            if detail or at % SLICE == 0:
                await asyncio.sleep(0)
        more = found[limit - 1].features.request_id if len(found) > limit else UNSET
        return json_answer(DecisionList(decisions=views, next=more))

    async def get_decision(self, request: Request) -> Response:
        feed = kept_decisions(self._feed)
        return json_answer(feed.view(await find_record(feed, request.path_params["id"]), detail=True))

    async def _follow(self, feed: DecisionFeed, request: Request, chosen: DecisionFilter, limit: int) -> Response:
        """The decisions that end from now on, after the last `limit` that ended before."""
        past = await _find(feed, iter(feed.log), chosen, limit)
        return self._streams.follow(
            request,
            feed.followers,
            lambda ended: Frame(ended.data, event="decision"),
            backlog=[feed.ended(record) for record in reversed(past) if record.line is not None],
            wants=None if chosen == DecisionFilter() else lambda ended: feed.wants(chosen, ended.record),
        )


def kept_decisions(feed: DecisionFeed | None) -> DecisionFeed:
    """The decisions of a router. Raises HTTPException (404) where none are kept."""
    if feed is None:
        raise HTTPException(404, "this router keeps no decisions: decisions.max_records is 0")
    return feed


async def find_record(feed: DecisionFeed, request_id: str) -> DecisionRecord:
    """The record of a request by the edge's id or the client's. Raises HTTPException (404) where none is kept."""
    record = feed.log.get(request_id)
    if record is not None:
        return record
    by_client = await _find(feed, iter(feed.log), DecisionFilter(client_id=request_id), 1)
    if not by_client:
        count = f"the last {len(feed.log)} are kept"
        raise HTTPException(404, f"no decision about request {request_id!r} is known here: {count}")
    return by_client[0]


async def _find(
    feed: DecisionFeed, records: Iterator[DecisionRecord], chosen: DecisionFilter, count: int
) -> list[DecisionRecord]:
    """Up to `count` of the records that are chosen, looked for in slices."""
    found: list[DecisionRecord] = []
    while len(found) < count and (some := list(islice(records, SLICE))):
        found += [record for record in some if feed.wants(chosen, record)]
        await asyncio.sleep(0)
    return found[:count]


def _skip(records: Iterator[DecisionRecord], cursor: str) -> None:
    """Pass over the records up to the one a list ended with. Raises HTTPException (422) for one that is gone."""
    for record in records:
        if record.features.request_id == cursor:
            return
    raise unfit("cursor", cursor, "`next` of a page; that decision is no longer kept")


def _filter(request: Request) -> DecisionFilter:
    texts = {name: request.query_params.get(name, "") for name in ABOUT}
    chosen = DecisionFilter(**texts, ended=flag(request, "ended"))
    try:
        chosen.check()
    except ValueError as error:
        raise unfit("status", chosen.status, str(error)) from error
    return chosen
