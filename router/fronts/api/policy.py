"""Policies in the admin API: which there are, and which one is live."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.config import did_you_mean
from pointsman.contract.http_api import json_answer, read_body, unfit
from pointsman.policies.errors import PolicyError
from pointsman.policies.plugins import ReloadState
from pointsman.policies.registry import describe as describe_policies
from pointsman.policies.registry import document_schema, installed_policies, reload_policies
from pointsman.router.core import Core
from pointsman.router.decide.policy_control import StaleVersionError
from pointsman.router.decide.policy_history import WHY_MAX, etag_of
from pointsman.router.fronts.api.audit import record, unrecorded
from pointsman.router.fronts.api.edges import EdgesFront
from pointsman.router.fronts.api.flags import flag
from pointsman.router.fronts.api.guard import QUOTED_MAX, caller_of
from pointsman.router.fronts.api.policy_types import PolicyDetail, ReloadAnswer, ReloadedPolicy, ValidPolicy
from pointsman.router.fronts.api.types import PolicyList, PolicyView


class PolicyFront:
    """Handlers of `/v1/policies` and `/v1/policy`."""

    def __init__(self, core: Core, edges: EdgesFront, *, max_body_bytes: int) -> None:
        self._pipeline = core.pipeline
        self._policy = core.policy
        self._edges = edges
        self._max_body_bytes = max_body_bytes
        self._one_reload = asyncio.Lock()

    async def list_policies(self, request: Request) -> Response:
        described = [
            PolicyView(name=name, summary=view["summary"], config=view["schema"])
            for name, view in describe_policies().items()
        ]
        return json_answer(PolicyList(active=self._pipeline.policy.name, policies=described))

    async def get_installed_policy(self, request: Request) -> Response:
        name, known = request.path_params["name"], installed_policies()
        if name not in known:
            raise HTTPException(404, f"no policy {name!r} is installed{did_you_mean(name, known)}")
        schema = document_schema(name)
        return json_answer(PolicyDetail(name=name, summary=schema["description"], schema=schema))

    async def reload_policies(self, request: Request) -> Response:
        async with self._one_reload:
            # Beside the event loop: a package may take its time to import.
            lines = await asyncio.get_running_loop().run_in_executor(None, reload_policies)
        new = [line.name for line in lines if line.state is ReloadState.LOADED]
        record(request, f"policies were looked for: {', '.join(new) if new else 'nothing'} is new")
        return json_answer(ReloadAnswer(policies=[ReloadedPolicy(**line._asdict()) for line in lines]))

    async def validate_policy(self, request: Request) -> Response:
        try:
            document = self._policy.put(await read_body(request, self._max_body_bytes), dry_run=True)
        except PolicyError as error:
            raise HTTPException(422, str(error)) from error
        etag, warnings = etag_of(document), self._policy.warnings(document)
        return json_answer(ValidPolicy(document=document, etag=etag, live=etag == self._policy.etag, warnings=warnings))

    async def get_policy(self, request: Request) -> Response:
        return json_answer(self._policy.document, headers=self._version())

    async def put_policy(self, request: Request) -> Response:
        body = await read_body(request, self._max_body_bytes)
        why = read_why(request)
        if not flag(request, "dry_run"):
            return await self.change(request, body, why=why)
        unrecorded(request)
        try:
            described = self._policy.put(body, if_match=request.headers.get("if-match"), dry_run=True)
        except StaleVersionError as error:
            raise self._stale(error) from error
        except PolicyError as error:
            raise HTTPException(422, str(error)) from error
        return self._answer(described)

    async def change(self, request: Request, document: Mapping[str, Any] | bytes, *, why: str) -> Response:
        """Put a document live as a request asks for it, with its author and under its `If-Match`.

        why: the reason that the author gives. Raises HTTPException (412, 422).
        """
        if_match, author = request.headers.get("if-match"), caller_of(request).name
        try:
            await self._edges.claim_policy(document, if_match, {"author": author, "why": why})
            applied = self._policy.put(document, if_match=if_match, author=author, why=why)
        except StaleVersionError as error:
            raise self._stale(error) from error
        except PolicyError as error:
            raise HTTPException(422, str(error)) from error
        said = f" ({why})" if why else ""
        number, etag = self._policy.revision.revision, self._policy.etag
        record(request, f"policy {self._pipeline.policy.name} is live, revision {number}, version {etag}{said}")
        return self._answer(applied)

    def _answer(self, document: dict[str, object]) -> Response:
        if warnings := self._policy.warnings(document):
            document = document | {"warnings": warnings}
        return json_answer(document, headers=self._version())

    def _version(self) -> dict[str, str]:
        return {"etag": self._policy.etag, "x-pointsman-revision": str(self._policy.revision.revision)}

    def _stale(self, error: StaleVersionError) -> HTTPException:
        return HTTPException(412, str(error), self._version())


def read_why(request: Request) -> str:
    """The reason that a request gives for its change. Raises HTTPException (422) for one that is too long."""
    given = request.query_params.get("why", "")
    if len(given) > WHY_MAX:
        raise unfit("why", given[:QUOTED_MAX], f"at most {WHY_MAX} characters")
    return given
