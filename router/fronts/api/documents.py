"""Documents that calls of the admin API write: with their author, and 507 where there is no room for another one."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pointsman.router.documents.book import Body, Book
from pointsman.router.errors import LimitError
from pointsman.router.fronts.api.guard import caller_of


def write_document(book: Book, request: Request, name: str, body: Body, **about: str) -> None:
    """Write a document, `KIND/NAME`, in the name of the caller; an empty body removes it. Raises HTTPException (507).

    about: further facts of the change, beside its author.
    """
    try:
        book.write(name, body, {"author": caller_of(request).name, **about})
    except LimitError as error:
        raise HTTPException(507, str(error)) from error
