"""The admin API (`/v1`), health and metrics: what people and replicas talk to, never on a request's path.

`AdminFront` binds the rows of `pointsman.router.fronts.api.table` to fronts, one a noun, whose handlers decode
strictly, answer JSON, and refuse with problem documents. `/v1` asks for a bearer token when one is set; `/metrics`,
`/livez`, `/readyz` and `/openapi.json` do not. What is checked of every request before its handler is in
`pointsman.router.fronts.api.guard`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from pointsman.router.fronts.api.audit import Audit
from pointsman.router.fronts.api.description import DescriptionFront
from pointsman.router.fronts.api.endpoint import Endpoint
from pointsman.router.fronts.api.fleet_page import fleet_page_routes
from pointsman.router.fronts.api.guard import Guard
from pointsman.router.fronts.api.openapi import describe_api
from pointsman.router.fronts.api.pages import page_routes
from pointsman.router.fronts.api.problems import answer_problem
from pointsman.router.fronts.api.table import ENDPOINTS
from pointsman.router.process.version import product_version


class AdminFront:
    """The app of the admin address, over one front of each kind."""

    def __init__(self, guard: Guard, audit: Audit, *fronts: Any) -> None:
        """fronts: objects whose methods the rows name as handlers, one of each class."""
        self._guard = guard
        self._audit = audit
        self._fronts = (*fronts, DescriptionFront(describe_api(ENDPOINTS, product_version())))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                *(self._route(endpoint) for endpoint in ENDPOINTS),
                *page_routes(self._guard),
                *fleet_page_routes(),
            ],
            exception_handlers={HTTPException: answer_problem, Exception: answer_problem},
        )

    def _route(self, endpoint: Endpoint) -> Route:
        name = endpoint.handler.__name__
        front = next(front for front in self._fronts if getattr(type(front), name, None) is endpoint.handler)
        handler = self._guard.guarded(endpoint, self._audit.recorded(endpoint, partial(endpoint.handler, front)))
        return Route(endpoint.route, handler, methods=[endpoint.method])
