"""Shared code of every HTTP API: read a body within a limit, decode it strictly, answer JSON, refuse in words.

A request that does not fit is an HTTPException with one sentence: 413 for a body beyond the limit, 400 for one that is
not JSON (msgpack) or not UTF-8, 422 for a value that does not fit, in the form of `pointsman.contract.errors`.
`answer_error` makes the answer of it, in the shape that OpenAI's API and vLLM use; the admin API has its own.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.config import explain
from pointsman.contract.errors import ConfigurationError
from pointsman.contract.events import JSON_TYPE, MSGPACK_TYPE

T = TypeVar("T")

_FORMATS = {JSON_TYPE: "JSON", MSGPACK_TYPE: "msgpack"}


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: str = ""
    code: int = 0


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Errors have the shape OpenAI's API and vLLM use."""

    error: ErrorDetail


def unfit(key: str, value: object, expected: str) -> HTTPException:
    """The refusal (422) of a parameter or of a value of a body."""
    return unfit_for(ConfigurationError(key, value, expected))


def unfit_for(error: ConfigurationError) -> HTTPException:
    """The refusal (422) of what an error says, with the error as its cause, so that an answer may name the field."""
    refusal = HTTPException(422, str(error))
    refusal.__cause__ = error
    return refusal


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body, refused beyond `limit` bytes before it is held whole."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"body: at most {limit} bytes are expected")
    return bytes(body)


def decode_body(body: bytes, into: type[T], media_type: str = JSON_TYPE) -> T:
    """A body of one of our two media types as a value of type `into`; an empty one stands for an empty JSON object."""
    try:
        decoded: T = _decode(body, into, media_type)
        return decoded
    except msgspec.ValidationError as refusal:
        raise _explained(refusal, body, into, media_type)  # noqa: B904 -- its cause is the explanation
    # msgspec raises Python's own errors for text that is not UTF-8 (ValueError) and for nesting (RecursionError).
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise HTTPException(400, f"body: not {_FORMATS[media_type]}: {error}") from error


def _decode(body: bytes, into: Any, media_type: str) -> Any:
    if media_type == JSON_TYPE:
        return msgspec.json.decode(body or b"{}", type=into)
    return msgspec.msgpack.decode(body, type=into)


def _explained(refusal: msgspec.ValidationError, body: bytes, into: Any, media_type: str) -> HTTPException:
    try:
        values = _decode(body, Any, media_type)
    except (msgspec.DecodeError, ValueError, RecursionError):  # malformed behind what was refused
        return HTTPException(422, f"body: {refusal}")
    return unfit_for(explain(refusal, values, into, source="body"))


def json_answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type=JSON_TYPE)


async def answer_error(request: Request, error: Exception) -> Response:
    """The answer to an HTTPException; a Starlette exception handler."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = ErrorBody(error=ErrorDetail(message=error.detail, type=kind, code=status))
    return json_answer(body, status, dict(error.headers) if error.headers else None)


def bearer_token(headers: Headers) -> str:
    """The token of an Authorization header; empty where there is none or it is of another scheme."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def wrong_token() -> HTTPException:
    """The refusal of a missing or wrong bearer token."""
    return HTTPException(401, "a valid bearer token is expected", {"www-authenticate": "Bearer"})


def media_type_of(headers: Headers) -> str:
    """The media type of a body, lower case and without parameters; empty where it is not named."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()
