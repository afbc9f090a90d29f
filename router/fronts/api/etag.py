"""Versions of what the admin API shows, by which two people do not undo each other's changes.

The ETag of an answer is the version of what people decide about: a registration, a drain flag, the size of a pool. What
changes by itself, such as load and health, is no part of it. A change with `If-Match` is made only if that is still the
version; one without is made in any case.
"""

from __future__ import annotations

import hashlib

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pointsman.router.fronts.api.endpoint import Parameter

IF_MATCH = Parameter(
    name="If-Match",
    where="header",
    schema={"type": "string"},
    description="ETag that the present version must have; otherwise nothing changes.",
)
"""Header of the operations whose change may be conditional."""

STALE = {412: "If-Match names another version."}
"""Refusal of a change that is conditional, by status."""

VERSION = {"ETag": "Version, for `If-Match`."}
"""Header of the answers that show what such an operation changes."""


def etag_of(state: object) -> str:
    """Strong entity tag of a value that msgspec can encode; equal values have equal tags on every router."""
    canonical = msgspec.json.encode(state, order="deterministic")
    return f'"{hashlib.blake2b(canonical, digest_size=8).hexdigest()}"'


def check_match(request: Request, etag: str | None) -> None:
    """Raises HTTPException (412) when `If-Match` names another version. `etag`: None for what is not there."""
    given = request.headers.get("if-match")
    if given is None or (etag is not None and given in ("*", etag)):
        return
    raise HTTPException(412, f"If-Match: {given[:100]}: " + (f"the version is {etag}" if etag else "there is none"))
