"""Bodies of the HTTP fronts: read within a limit, decoded strictly, answered as JSON.

What is wrong with one is an HTTPException, which the front answers: 413 beyond the limit, 400 for what is not JSON, 422
for JSON that does not fit.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

StructT = TypeVar("StructT", bound=msgspec.Struct)


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
        return msgspec.json.decode(body or b"{}", type=into)
    except msgspec.ValidationError as error:
        message = str(error)
        if "unknown field" in message and " - at `" not in message:
            message += f"; known fields are {', '.join(into.__struct_fields__)}"
        raise HTTPException(422, message) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise HTTPException(400, f"body: not JSON: {error}") from error


def json_answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
