"""Refusals of the admin API as problem documents (RFC 9457), and the list of kinds that `/docs/problems` shows.

A handler raises an HTTPException with one sentence; its status says which kind of problem it is, unless `refusal` made
it of a kind of its own. Where the exception was raised from a ConfigurationError, the answer names the field and what
was expected there. `type` is a reference to the page of kinds on the same address, so that it leads somewhere without a
connection to the outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import msgspec
from msgspec import UNSET, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.errors import ConfigurationError

PROBLEM_TYPE = "application/problem+json"

PAGE = "/docs/problems"
"""Path of the page that explains each kind of problem."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was refused, as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    key: str | UnsetType = UNSET
    expected: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One kind of problem: the last part of its `type`, the status it is answered with, and what to do about it."""

    slug: str
    status: int
    title: str
    remedy: str

    @property
    def type(self) -> str:
        """Reference to the kind on its page."""
        return f"{PAGE}#{self.slug}"


KINDS = (
    ProblemKind(
        "malformed-body", 400, "The body cannot be read",
        "Send JSON in UTF-8; engines may send msgpack. `detail` says where reading stopped.",
    ),
    ProblemKind(
        "wrong-token", 401, "A valid bearer token is expected",
        "Send `Authorization: Bearer TOKEN`. The token is missing, wrong, expired, or was taken off the router's list. "
        "Wrong tokens are counted, and their answers are delayed.",
    ),
    ProblemKind(
        "foreign-caller", 403, "The caller is not a program on this machine",
        "Where no token is set, only programs on the router's machine are served, and no web page of another origin. "
        "Set a token, or name the reverse proxy of this machine in `admin.hosts`.",
    ),
    ProblemKind(
        "missing-role", 403, "The token has not the role that is needed",
        "`detail` names the role. `GET /v1/whoami` shows the roles of a token; `pointsman token create` makes another.",
    ),
    ProblemKind("not-found", 404, "There is no such thing", "`detail` names what is not known, and what is."),
    ProblemKind(
        "method-not-allowed", 405, "The path has no such method", "The header `Allow` lists the methods of the path.",
    ),
    ProblemKind(
        "conflict", 409, "The present state does not allow that",
        "Somebody else has a claim: a later incarnation of the replica, another fleet, or a change that is under way. "
        "Look at the present state, then decide anew.",
    ),
    ProblemKind(
        "stale-version", 412, "It was changed in the meantime",
        "`If-Match` names another version than the present one. Get the present version, apply the change to that, and "
        "send it with the ETag of that answer.",
    ),
    ProblemKind(
        "too-large", 413, "The body is too large",
        "`detail` says how many bytes are allowed; for most operations that is `admin.max_body_bytes`.",
    ),
    ProblemKind(
        "wrong-media-type", 415, "The body has another media type", "Send the header that `detail` names.",
    ),
    ProblemKind(
        "unfit-value", 422, "A value, a field or a parameter is wrong",
        "Nothing was changed. `detail` names the field or parameter and the nearest known name; where `key` and "
        "`expected` are present, they hold the path of the field and what may stand there.",
    ),
    ProblemKind(
        "internal-error", 500, "The router met an error of its own",
        "The router's log has a traceback. Please report it.",
    ),
    ProblemKind(
        "bad-driver", 502, "The driver of a fleet gave an unusable answer",
        "Look at the log of the driver that `detail` names.",
    ),
    ProblemKind(
        "unavailable", 503, "Something that is needed cannot be reached",
        "`detail` names it: the driver of a fleet, or a name server. Try again after `Retry-After` seconds.",
    ),
    ProblemKind(
        "too-many-followers", 503, "As many streams are open as may be",
        "Close another stream, or ask from time to time instead of following.",
    ),
    ProblemKind(
        "full", 507, "The router keeps no more of these",
        "`detail` names the limit; `limits` in the settings of the router raises it.",
    ),
)  # fmt: skip
"""Kinds of problems by status; of several kinds with one status, the first is the usual one."""

_BY_SLUG = {kind.slug: kind for kind in KINDS}
_USUAL = {kind.status: kind for kind in reversed(KINDS)}


class _Refusal(HTTPException):
    """A refusal whose kind does not follow from its status."""

    def __init__(self, kind: ProblemKind, detail: str, headers: Mapping[str, str] | None) -> None:
        super().__init__(kind.status, detail, dict(headers) if headers else None)
        self.kind = kind


def refusal(slug: str, detail: str, headers: Mapping[str, str] | None = None) -> HTTPException:
    """Make the refusal of one kind; `slug` is that of an entry of `KINDS`."""
    return _Refusal(_BY_SLUG[slug], detail, headers)


def problem_of(error: HTTPException) -> Problem:
    """Describe a refusal. A ConfigurationError that it was raised from adds the field."""
    status, cause = error.status_code, error.__cause__
    kind = error.kind if isinstance(error, _Refusal) else _USUAL.get(status)
    field = cause if isinstance(cause, ConfigurationError) and cause.key else None
    return Problem(
        type=kind.type if kind is not None else "about:blank",
        title=kind.title if kind is not None else HTTPStatus(status).phrase,
        status=status,
        detail=error.detail,
        key=field.key if field is not None else UNSET,
        expected=field.expected if field is not None else UNSET,
    )


async def answer_problem(request: Request, error: Exception) -> Response:
    """The answer to an HTTPException, or to an error of ours; a Starlette exception handler."""
    if not isinstance(error, HTTPException):
        error = HTTPException(500, "the router's log has the traceback")
    headers = dict(error.headers) if error.headers else None
    return Response(msgspec.json.encode(problem_of(error)), error.status_code, headers, media_type=PROBLEM_TYPE)
