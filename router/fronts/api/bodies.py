"""Bodies of the HTTP fronts: read within a limit, decoded strictly, answered as JSON.

A body that does not do is an HTTPException, which the front answers: 413 beyond the limit, 400 for one that is not JSON
(msgpack) or not UTF-8, 422 for one that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

StructT = TypeVar("StructT", bound=msgspec.Struct)

FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
"""Values of a query parameter that is a boolean."""


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body, refused beyond `limit` bytes before it is held whole."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"body: at most {limit} bytes are expected")
    return bytes(body)


def from_json(body: bytes, into: type[StructT]) -> StructT:
    """A body as a struct; an empty one stands for an empty object."""
    try:
        return decoded(body or b"{}", lambda raw: msgspec.json.decode(raw, type=into))
    except HTTPException as error:
        if "unknown field" in error.detail and " - at `" not in error.detail:
            error.detail += f"; known fields are {', '.join(into.__struct_fields__)}"
        raise


def decoded(body: bytes, decode: Callable[[bytes], StructT], what: str = "JSON") -> StructT:
    """A body as a decoder of msgspec reads it; `what` the decoder reads, in the words of the refusal."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise HTTPException(422, f"body: {error}") from error
    # msgspec raises Python's own errors for text that is not UTF-8 (ValueError) and for nesting (RecursionError).
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise HTTPException(400, f"body: not {what}: {error}") from error


def flag(request: Request, name: str) -> bool:
    """A boolean query parameter, false where it is absent. Raises HTTPException (422) for any other value: what is
    misspelt must not count as false."""
    value = request.query_params.get(name)
    if value is None:
        return False
    if value.lower() not in FLAGS:
        raise HTTPException(422, f"{name}: {value[:100]!r}: one of {', '.join(FLAGS)} is expected")
    return FLAGS[value.lower()]


def json_answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
