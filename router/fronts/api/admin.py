"""The admin API (`/v1`), health and metrics: what people and replicas talk to, never on a request's path.

Starlette routes over the state; handlers decode strictly, answer JSON, and report errors in OpenAI's shape. `/v1` asks
for the bearer token when one is set; `/metrics`, `/livez`, `/readyz` and `/openapi.json` do not. What is checked of
every request before that is in `pointsman.router.fronts.api.guard`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pointsman.contract.events import JSON_TYPE, MAX_EVENTS_BYTES, MSGPACK_TYPE, EngineEvents
from pointsman.contract.registration import REPLICA_ID_PATTERN, Registration
from pointsman.policies.errors import PolicyError
from pointsman.policies.registry import describe as describe_policies
from pointsman.policies.registry import installed_policies
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.decide.policy_control import StaleVersionError
from pointsman.router.errors import LimitError, RegistrationError, ResolveError, SupersededError
from pointsman.router.fleet.fleets import FleetTable
from pointsman.router.fleet.replicas import Replica
from pointsman.router.fronts.api.bodies import decoded, flag, from_json, json_answer, read_body
from pointsman.router.fronts.api.edges import EdgesFront
from pointsman.router.fronts.api.guard import Guard, media_type_of
from pointsman.router.fronts.api.openapi import describe_api
from pointsman.router.fronts.api.outliers import view_outlier
from pointsman.router.fronts.api.pools import PoolFront
from pointsman.router.fronts.api.types import (
    CandidateView,
    ErrorBody,
    ErrorDetail,
    ExplainAnswer,
    ExplainRequest,
    PolicyList,
    PolicyView,
    ReplicaList,
    ReplicaView,
)
from pointsman.router.metrics.exposition import render
from pointsman.router.process.clock import Clock
from pointsman.router.process.version import product_version
from pointsman.router.watch.endpoints import EndpointResolver
from pointsman.router.watch.readiness import Readiness

_EVENT_DECODERS: dict[str, Callable[[bytes], EngineEvents]] = {
    JSON_TYPE: msgspec.json.Decoder(EngineEvents).decode,
    MSGPACK_TYPE: msgspec.msgpack.Decoder(EngineEvents).decode,
}

_REPLICA_ID = re.compile(REPLICA_ID_PATTERN)

EVENT_TYPES = tuple(_EVENT_DECODERS)

BORN_MS = ("born_ms",)
"""The query parameter of what a replica asks about itself."""

BORN_DIGITS_MAX = 16
"""Milliseconds of the next 300,000 years; int() is quadratic in digits."""


class AdminFront:
    """The handlers, over the state they read and write."""

    def __init__(
        self,
        core: Core,
        *,
        readiness: Readiness,
        metrics: CollectorRegistry,
        edges: EdgesFront,
        endpoints: EndpointResolver,
        guard: Guard,
        clock: Clock,
        token: str,
        max_body_bytes: int,
    ) -> None:
        self._core = core
        self._replicas = core.replicas
        self._load = core.load
        self._adapters = core.adapters
        self._outliers = core.outliers
        self._pipeline = core.pipeline
        self._policy = core.policy
        self._readiness = readiness
        self._metrics = metrics
        self._edges = edges
        self._endpoints = endpoints
        self._guard = guard
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._pools = PoolFront(
            FleetTable(), endpoints=endpoints, clock=clock, token=token, max_body_bytes=max_body_bytes
        )
        self._openapi = describe_api(product_version())

    def app(self) -> Starlette:
        guarded, public = self._guard.guarded, self._guard.public
        return Starlette(
            routes=[
                Route("/v1/replicas", guarded(self.list_replicas)),
                Route("/v1/replicas/{id}", guarded(self.get_replica), methods=["GET"]),
                Route("/v1/replicas/{id}", guarded(self.put_replica), methods=["PUT"]),
                Route("/v1/replicas/{id}", guarded(self.delete_replica, query=BORN_MS), methods=["DELETE"]),
                Route("/v1/replicas/{id}/drain", guarded(self.drain_replica, query=BORN_MS), methods=["POST"]),
                Route("/v1/replicas/{id}/events", guarded(self.take_events, types=EVENT_TYPES), methods=["POST"]),
                *self._pools.routes(guarded),
                Route("/v1/policies", guarded(self.list_policies)),
                Route("/v1/policy", guarded(self.get_policy), methods=["GET"]),
                Route("/v1/policy", guarded(self.put_policy, query=("dry_run",)), methods=["PUT"]),
                Route("/v1/edges", guarded(self._edges.list_edges)),
                Route("/v1/state/digests", guarded(self._edges.digests)),
                Route("/v1/explain", guarded(self.explain), methods=["POST"]),
                Route("/openapi.json", public(self.openapi)),
                Route("/metrics", public(self.metrics)),
                Route("/livez", public(self.livez)),
                Route("/readyz", public(self.readyz)),
            ],
            exception_handlers={HTTPException: _http_error},
        )

    # Replicas

    async def list_replicas(self, request: Request) -> Response:
        return json_answer(ReplicaList(replicas=[self._view(r) for r in sorted(self._replicas, key=lambda r: r.id)]))

    async def get_replica(self, request: Request) -> Response:
        return json_answer(self._view(self._known(request)))

    async def put_replica(self, request: Request) -> Response:
        replica_id = request.path_params["id"]
        if not _REPLICA_ID.match(replica_id):
            raise HTTPException(422, f"id: {replica_id!r}: {REPLICA_ID_PATTERN} is expected")
        registration = from_json(await read_body(request, self._max_body_bytes), Registration)
        known = self._replicas.get(replica_id) is not None
        try:
            endpoint = await self._endpoints.resolve(registration.url)
            replica = self._replicas.put(replica_id, registration, endpoint, self._clock())
        except RegistrationError as error:
            raise HTTPException(422, str(error)) from error
        except SupersededError as error:
            raise HTTPException(409, str(error)) from error
        except LimitError as error:
            raise HTTPException(507, str(error)) from error
        except ResolveError as error:
            raise HTTPException(503, str(error), {"retry-after": "2"}) from error
        return json_answer(self._view(replica), 200 if known else 201)

    async def delete_replica(self, request: Request) -> Response:
        self._replicas.remove(self._told_by(request).id)
        return Response(status_code=204)

    async def drain_replica(self, request: Request) -> Response:
        replica = self._told_by(request)
        self._replicas.drain(replica.id)
        return json_answer(self._view(replica))

    async def take_events(self, request: Request) -> Response:
        """What an engine tells of itself; the answer says whether to send all of it again."""
        replica = self._known(request)
        media_type = media_type_of(request.headers) or JSON_TYPE
        decode = _EVENT_DECODERS.get(media_type, _EVENT_DECODERS[JSON_TYPE])
        events = decoded(await read_body(request, MAX_EVENTS_BYTES), decode, media_type)
        answer = self._core.engine_events(replica.id, events, self._clock())
        if answer is None:  # It left while its body came in.
            raise HTTPException(404, f"replica {replica.id!r} is not registered")
        return json_answer(answer)

    def _known(self, request: Request) -> Replica:
        replica_id = request.path_params["id"]
        replica = self._replicas.get(replica_id)
        if replica is None:
            raise HTTPException(404, f"replica {replica_id!r} is not registered")
        return replica

    def _told_by(self, request: Request) -> Replica:
        """The replica, unless the query's `born_ms` says that an earlier life of it asks."""
        replica = self._known(request)
        born_ms = request.query_params.get("born_ms", "0")
        if not (born_ms.isascii() and born_ms.isdecimal() and len(born_ms) <= BORN_DIGITS_MAX):
            raise HTTPException(422, f"born_ms: {born_ms!r}: milliseconds since 1970 are expected")
        try:
            self._replicas.check_life(replica.id, int(born_ms))
        except SupersededError as error:
            raise HTTPException(409, str(error)) from error
        return replica

    def _view(self, replica: Replica) -> ReplicaView:
        lease = replica.lease_until_s
        return ReplicaView(
            id=replica.id,
            url=replica.url,
            model=replica.model,
            names=sorted(replica.names or ()),
            adapters=sorted(replica.adapters),
            adapters_loaded=self._adapters.loaded(replica.slot),
            role=replica.role,
            pool=replica.pool,
            state=replica.state,
            in_flight=int(self._load.in_flight[replica.slot]),
            in_flight_tokens=int(self._load.in_flight_tokens[replica.slot]),
            ttl_s=replica.ttl_s,
            lease_left_s=None if lease is None else round(max(0.0, lease - self._clock()), 3),
            **view_outlier(self._outliers, replica, self._clock()),
        )

    # Policy

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
        if_match = request.headers.get("if-match")
        try:
            if not dry_run:
                await self._edges.claim_policy(body, if_match)
            applied = self._policy.put(body, if_match=if_match, dry_run=dry_run)
        except StaleVersionError as error:
            raise HTTPException(412, str(error)) from error
        except PolicyError as error:
            raise HTTPException(422, str(error)) from error
        if warnings := self._policy.warnings(applied):
            applied = applied | {"warnings": warnings}
        return json_answer(applied, headers={"etag": self._policy.etag})

    async def explain(self, request: Request) -> Response:
        asked = from_json(await read_body(request, self._max_body_bytes), ExplainRequest)
        if asked.policy and asked.policy not in installed_policies():
            raise HTTPException(
                422, f"policy: {asked.policy!r}: one of {', '.join(sorted(installed_policies()))} is expected"
            )
        features = RequestFeatures(request_id="explain", **msgspec.structs.asdict(asked))
        answer = self._pipeline.explain(features, self._clock())
        answer["candidates"] = [CandidateView(**row) for row in answer["candidates"]]
        return json_answer(ExplainAnswer(**answer))

    # Health, metrics, description

    async def openapi(self, request: Request) -> Response:
        return json_answer(self._openapi)

    async def metrics(self, request: Request) -> Response:
        return Response(await render(self._metrics), headers={"content-type": CONTENT_TYPE_LATEST})

    async def livez(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Whether requests to this edge are decided and served. As in Kubernetes' API server, `?exclude=NAME` leaves
        a condition out: `replicas` for supervisors that start replicas once the router is ready for them."""
        missing = self._readiness.missing(exclude=request.query_params.getlist("exclude"))
        lines = [f"not ready: {why}" for why in missing] or ["ok"]
        lines += [f"degraded: {why}" for why in self._readiness.impaired()]
        return PlainTextResponse("\n".join(lines) + "\n", 503 if missing else 200)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json_answer(ErrorBody(error=ErrorDetail(message=message, type=kind, code=status)), status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, dict(error.headers) if error.headers else None)
