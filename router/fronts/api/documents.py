"""Documents that calls of the admin API write: with their author, on disk before the answer, 507 for one too many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pointsman.router.documents.book import Body, Book
from pointsman.router.errors import LimitError
from pointsman.router.fronts.api.guard import caller_of

Settled = Callable[[], Awaitable[bool]]
"""Waits until what was written is on disk and in force; whether this edge's HAProxy requires keys."""


async def write_document(book: Book, settled: Settled, request: Request, name: str, body: Body, **about: str) -> bool:
    """Write a document, `KIND/NAME`, in the name of the caller, and wait until that is settled.

    body: empty to remove the document. about: further facts of the change, beside its author.
    Returns whether this edge's HAProxy requires API keys. Raises HTTPException (507).
    """
    try:
        book.write(name, body, {"author": caller_of(request).name, **about})
    except LimitError as error:
        raise HTTPException(507, str(error)) from error
    return await settled()
