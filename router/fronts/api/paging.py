"""Pages of a list: at most `limit` items, and a cursor for those that follow.

A cursor is the key of the last item of the page, and the next page begins behind it: items that come or go between two
pages are neither skipped nor shown twice, and a router remembers nothing about who is reading.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request

from pointsman.contract.http_api import unfit
from pointsman.router.fronts.api.endpoint import Parameter

LIMIT_MAX = 1000
"""Largest page: a client that wants more follows the cursor, and others get their turn in between."""

CURSOR_MAX = 256
"""Characters of a cursor: keys are ids and names."""

LIMIT = Parameter(
    name="limit",
    where="query",
    schema={"type": "integer", "minimum": 1, "maximum": LIMIT_MAX},
    description="Largest number of items in the answer. Without a limit, all items are in it.",
)
CURSOR = Parameter(
    name="cursor",
    where="query",
    schema={"type": "string", "minLength": 1, "maxLength": CURSOR_MAX},
    description="`next` of the page before.",
)
PAGE = (LIMIT, CURSOR)
"""Parameters of an operation that answers a list."""

Next = Annotated[
    str | UnsetType, msgspec.Meta(description="Cursor of the next page. The field is absent on the last page.")
]
"""Type of the field `next` of a list."""

Item = TypeVar("Item")


def paged(items: Sequence[Item], request: Request, *, key: Callable[[Item], str]) -> tuple[list[Item], Next]:
    """The page that a request asks for, and the cursor of the next one; UNSET on the last page.

    items: sorted by `key`, which is different for each. Raises HTTPException (422).
    """
    cursor = read_cursor(request)
    start = 0 if cursor is None else bisect_right(items, cursor, key=key)
    limit = read_limit(request)
    end = len(items) if limit is None else start + limit
    page = list(items[start:end])
    return page, key(page[-1]) if page and end < len(items) else UNSET


def read_limit(request: Request) -> int | None:
    """The limit of a request, None where it has none. Raises HTTPException (422) for one that is no number in range."""
    given = request.query_params.get("limit")
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= len(str(LIMIT_MAX))) or not (
        1 <= int(given) <= LIMIT_MAX
    ):
        raise unfit("limit", given, f"an integer from 1 to {LIMIT_MAX}")
    return int(given)


def read_cursor(request: Request, longest: int = CURSOR_MAX) -> str | None:
    """The cursor of a request, None where it has none. Raises HTTPException (422) for one that is none of ours, because
    it is empty or has more than `longest` characters."""
    given = request.query_params.get("cursor")
    if given is not None and not 1 <= len(given) <= longest:
        raise unfit("cursor", given, "`next` of a page")
    return given
