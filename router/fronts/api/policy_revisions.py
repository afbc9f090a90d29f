"""Revisions of the live policy in the admin API: those there were, what differs between two, and the way back."""

from __future__ import annotations

from msgspec import UNSET
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import decode_body, json_answer, read_body, unfit
from pointsman.router.core import Core
from pointsman.router.decide.policy_history import differences, etag_of
from pointsman.router.fleet.saved import PolicyRevision
from pointsman.router.fronts.api.endpoint import Parameter
from pointsman.router.fronts.api.paging import Next, read_cursor, read_limit
from pointsman.router.fronts.api.policy import PolicyFront
from pointsman.router.fronts.api.policy_types import (
    PolicyChange,
    PolicyDiff,
    RevisionList,
    RevisionView,
    Rollback,
)
from pointsman.router.process.moments import rfc3339

DIGITS_MAX = 9
"""Digits of a revision's number: int() is quadratic in digits."""

_NUMBER = {"type": "integer", "minimum": 1, "maximum": 10**DIGITS_MAX - 1}

REVISION = Parameter(name="revision", where="path", schema=_NUMBER, description="Number of a revision.")
FROM = Parameter(
    name="from",
    where="query",
    schema=_NUMBER,
    description="Number of the revision to compare; absent: the one that was live before `to`.",
)
TO = Parameter(
    name="to",
    where="query",
    schema=_NUMBER,
    description="Number of the revision to compare with; absent: the live one.",
)


class RevisionsFront:
    """Handlers of `/v1/policy/revisions`, `/v1/policy/diff` and `/v1/policy/rollback`."""

    def __init__(self, core: Core, policy: PolicyFront, *, max_body_bytes: int) -> None:
        self._policy = core.policy
        self._front = policy
        self._max_body_bytes = max_body_bytes

    async def list_policy_revisions(self, request: Request) -> Response:
        cursor, limit = read_cursor(request), read_limit(request)
        before = None if cursor is None else _number("cursor", cursor)
        found = [one for one in reversed([*self._policy.history]) if before is None or one.revision < before]
        page = found if limit is None else found[:limit]
        more: Next = str(page[-1].revision) if len(page) < len(found) else UNSET
        return json_answer(RevisionList(revisions=[self._view(one) for one in page], next=more))

    async def get_policy_revision(self, request: Request) -> Response:
        return json_answer(self._view(self._known(_number("revision", request.path_params["revision"]))))

    async def diff_policy(self, request: Request) -> Response:
        query = request.query_params
        after = self._known(_number("to", query["to"])) if "to" in query else self._policy.revision
        before = self._known(_number("from", query["from"])) if "from" in query else self._before(after)
        changes = [
            PolicyChange(key=key, before=one, after=other)
            for key, (one, other) in differences(before.document, after.document).items()
        ]
        return json_answer(PolicyDiff(before=before.revision, after=after.revision, changes=changes))

    async def rollback_policy(self, request: Request) -> Response:
        asked = decode_body(await read_body(request, self._max_body_bytes), Rollback)
        live = self._policy.revision
        target = self._before(live) if asked.revision is UNSET else self._known(asked.revision)
        why = f"back to revision {target.revision}" + (f": {asked.why}" if asked.why else "")
        return await self._front.change(request, target.document, why=why)

    def _view(self, revision: PolicyRevision) -> RevisionView:
        return RevisionView(
            revision=revision.revision,
            at=rfc3339(revision.at_s),
            author=revision.author,
            why=revision.why,
            etag=etag_of(revision.document),
            document=revision.document,
            active=revision is self._policy.revision,
            tried=not revision.live,
        )

    def _known(self, number: int) -> PolicyRevision:
        """The revision of a number. Raises HTTPException (404) where it is not kept."""
        found = self._policy.history.get(number)
        if found is None:
            kept = [one.revision for one in self._policy.history]
            raise HTTPException(404, f"revision {number} is not kept: those from {kept[0]} to {kept[-1]} are")
        return found

    def _before(self, revision: PolicyRevision) -> PolicyRevision:
        found = self._policy.history.live_before(revision.revision)
        if found is None:
            raise HTTPException(404, f"no revision before {revision.revision} is kept")
        return found


def _number(name: str, given: str) -> int:
    if not (given.isascii() and given.isdecimal() and 0 < len(given) <= DIGITS_MAX and int(given) > 0):
        raise unfit(name, given, "the number of a revision")
    return int(given)
