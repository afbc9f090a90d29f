"""The admin API (`/v1`), health and metrics: what people and replicas talk to, never on a request's path.

`AdminFront` binds the rows of `pointsman.router.fronts.api.table` to fronts, one a noun, whose handlers decode
strictly, answer JSON, and report errors in OpenAI's shape. `/v1` asks for the bearer token when one is set; `/metrics`,
`/livez`, `/readyz` and `/openapi.json` do not. What is checked of every request before its handler is in
`pointsman.router.fronts.api.guard`.
"""

from __future__ import annotations

from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.contract.http_api import answer_error, json_answer
from pointsman.router.fronts.api.edges import EdgesFront
from pointsman.router.fronts.api.endpoint import Endpoint
from pointsman.router.fronts.api.guard import Guard
from pointsman.router.fronts.api.health import HealthFront
from pointsman.router.fronts.api.openapi import describe_api
from pointsman.router.fronts.api.policy import PolicyFront
from pointsman.router.fronts.api.pools import PoolFront
from pointsman.router.fronts.api.replicas import ReplicaFront
from pointsman.router.fronts.api.table import ENDPOINTS
from pointsman.router.process.version import product_version

Front = ReplicaFront | PoolFront | PolicyFront | EdgesFront | HealthFront


class AdminFront:
    """The app of the admin address, over one front of each kind."""

    def __init__(self, guard: Guard, *fronts: Front) -> None:
        self._guard = guard
        self._fronts = fronts
        self._description = describe_api(ENDPOINTS, product_version())

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                *(self._route(endpoint) for endpoint in ENDPOINTS),
                Route("/openapi.json", self._guard.public(self.openapi)),
            ],
            exception_handlers={HTTPException: answer_error},
        )

    def _route(self, endpoint: Endpoint) -> Route:
        name = endpoint.handler.__name__
        front = next(front for front in self._fronts if getattr(type(front), name, None) is endpoint.handler)
        handler = partial(endpoint.handler, front)
        if endpoint.public:
            return Route(endpoint.path, self._guard.public(handler), methods=[endpoint.method])
        guarded = self._guard.guarded(handler, query=endpoint.names("query"), types=endpoint.media_types)
        return Route(endpoint.path, guarded, methods=[endpoint.method])

    async def openapi(self, request: Request) -> Response:
        return json_answer(self._description)
