"""Policies in the admin API: which there are, and which one is live."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import json_answer, read_body
from pointsman.policies.errors import PolicyError
from pointsman.policies.registry import describe as describe_policies
from pointsman.router.core import Core
from pointsman.router.decide.policy_control import StaleVersionError
from pointsman.router.fronts.api.audit import record, unrecorded
from pointsman.router.fronts.api.edges import EdgesFront
from pointsman.router.fronts.api.flags import flag
from pointsman.router.fronts.api.types import PolicyList, PolicyView


class PolicyFront:
    """Handlers of `/v1/policies` and `/v1/policy`."""

    def __init__(self, core: Core, edges: EdgesFront, *, max_body_bytes: int) -> None:
        self._pipeline = core.pipeline
        self._policy = core.policy
        self._edges = edges
        self._max_body_bytes = max_body_bytes

    async def list_policies(self, request: Request) -> Response:
        described = [
            PolicyView(name=name, summary=view["summary"], config=view["schema"])
            for name, view in describe_policies().items()
        ]
        return json_answer(PolicyList(active=self._pipeline.policy.name, policies=described))

    async def get_policy(self, request: Request) -> Response:
        return json_answer(self._policy.document, headers={"etag": self._policy.etag})

    async def put_policy(self, request: Request) -> Response:
        body = await read_body(request, self._max_body_bytes)
        dry_run = flag(request, "dry_run")
        if dry_run:
            unrecorded(request)
        if_match = request.headers.get("if-match")
        try:
            if not dry_run:
                await self._edges.claim_policy(body, if_match)
            applied = self._policy.put(body, if_match=if_match, dry_run=dry_run)
        except StaleVersionError as error:
            raise HTTPException(412, str(error)) from error
        except PolicyError as error:
            raise HTTPException(422, str(error)) from error
        if not dry_run:
            record(request, f"policy {self._pipeline.policy.name} is live, version {self._policy.etag}")
        if warnings := self._policy.warnings(applied):
            applied = applied | {"warnings": warnings}
        return json_answer(applied, headers={"etag": self._policy.etag})
