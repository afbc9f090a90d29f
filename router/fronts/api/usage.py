"""Usage in the admin API: added up by what is asked for, or every row, for a bill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pointsman.contract.http_api import json_answer, unfit
from pointsman.router.edges.store import StoreError
from pointsman.router.fronts.api.endpoint import Parameter
from pointsman.router.fronts.api.stream import NDJSON
from pointsman.router.fronts.api.usage_types import UsageLine, UsageReport
from pointsman.router.process.clock import Clock
from pointsman.router.tenancy.usage import HOUR_S
from pointsman.router.tenancy.usage_file import GROUPS, UsageFileError
from pointsman.router.tenancy.usage_report import moment, shown
from pointsman.router.watch.usage_keeper import Rows, UsageKeeper

MAX_LINES = 100_000
"""Lines of one report; who wants more takes the export."""

MAX_TIME_S = 253_402_300_800
"""The year 10000."""

ROW_NAMES = ("hour", "tenant", "key", "model", "adapter")

FROM = Parameter(
    name="from",
    where="query",
    schema={"type": "string", "maxLength": 64},
    description="First hour, as a time in ISO 8601 or in seconds since 1970; absent: the present month, UTC.",
)
TO = Parameter(
    name="to",
    where="query",
    schema={"type": "string", "maxLength": 64},
    description="Time before which the last hour begins; absent: now.",
)
BY = Parameter(
    name="by",
    where="query",
    schema={"type": "string", "default": "tenant"},
    description=f"What to add up by: one or several of {', '.join(GROUPS)}, with commas between.",
)
TIME = (FROM, TO)


class UsageFront:
    """Handlers of `/v1/usage`."""

    def __init__(self, keeper: UsageKeeper, *, wall: Clock) -> None:
        self._keeper = keeper
        self._wall = wall

    async def get_usage(self, request: Request) -> Response:
        by = _by(request)
        begin, end = self._hours(request)
        try:
            groups, complete = await self._keeper.grouped(begin, end, by)
        except UsageFileError as error:
            raise HTTPException(503, str(error)) from None
        if len(groups) > MAX_LINES:
            raise unfit(
                "by", ",".join(by), f"groups that make at most {MAX_LINES} lines; /v1/usage/export has all rows"
            )
        lines = [msgspec.convert(shown(by, group, values), UsageLine) for group, values in groups]
        return json_answer(
            UsageReport(begin=moment(begin), to=moment(end), by=list(by), complete=complete, usage=lines)
        )

    async def export_usage(self, request: Request) -> Response:
        chunks = self._keeper.rows(*self._hours(request))
        try:
            first: Rows = await anext(chunks, [])
        except (StoreError, UsageFileError) as error:
            raise HTTPException(503, str(error)) from None
        return StreamingResponse(_lines(first, chunks), media_type=NDJSON, headers={"cache-control": "no-store"})

    def _hours(self, request: Request) -> tuple[int, int]:
        """The hours of a request, from the first to before the last. Raises HTTPException (422)."""
        now_s = self._wall()
        month = datetime.fromtimestamp(now_s, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        begin_s, end_s = _time(request, "from"), _time(request, "to")
        begin = int(month.timestamp() if begin_s is None else begin_s) // HOUR_S
        end = -int(-(now_s if end_s is None else end_s) // HOUR_S)
        if begin_s is None and end_s is not None:
            begin = min(begin, end)
        if end < begin:
            raise unfit("to", request.query_params.get("to", ""), "a time after `from`")
        return begin, end


async def _lines(first: Rows, more: AsyncIterator[Rows]) -> AsyncIterator[bytes]:
    yield _encoded(first)
    async for rows in more:
        yield _encoded(rows)


def _encoded(rows: Rows) -> bytes:
    lines = (shown(ROW_NAMES, (key.hour, *key.names), values) for key, values in rows)
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _by(request: Request) -> tuple[str, ...]:
    given = request.query_params.get("by", "tenant")
    names = tuple(given.split(","))
    if not set(names) <= GROUPS.keys() or len(set(names)) < len(names):
        raise unfit("by", given[:64], f"one or several of {', '.join(GROUPS)}, with commas between")
    return names


def _time(request: Request, name: str) -> float | None:
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        seconds = float(given) if given.replace(".", "", 1).isdecimal() else _moment(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < MAX_TIME_S:
        raise unfit(name, given[:64], "a time in ISO 8601, such as 2026-11-01T00:00:00Z, or in seconds since 1970")
    return seconds


def _moment(given: str) -> float:
    # A plus sign in a query that was not escaped arrives as a blank.
    parsed = datetime.fromisoformat(given.replace(" ", "+") if "T" in given else given)
    return (parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed).timestamp()
