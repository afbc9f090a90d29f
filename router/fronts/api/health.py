"""Health and metrics of one router, which no token protects."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pointsman.router.metrics.exposition import CONTENT_TYPE, Collect, render
from pointsman.router.process.readiness import Readiness


class HealthFront:
    """Handlers of `/metrics`, `/livez` and `/readyz`."""

    def __init__(self, readiness: Readiness, metrics: Collect) -> None:
        self._readiness = readiness
        self._metrics = metrics

    async def metrics(self, request: Request) -> Response:
        return Response(await render(self._metrics), headers={"content-type": CONTENT_TYPE})

    async def livez(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Whether requests to this edge are decided and served. As in Kubernetes' API server, `?exclude=NAME` leaves
        a condition out: `replicas` for supervisors that start replicas once the router is ready for them."""
        missing = self._readiness.missing(exclude=request.query_params.getlist("exclude"))
        lines = [f"not ready: {why}" for why in missing] or ["ok"]
        lines += [f"degraded: {why}" for why in self._readiness.impaired()]
        return PlainTextResponse("\n".join(lines) + "\n", 503 if missing else 200)
