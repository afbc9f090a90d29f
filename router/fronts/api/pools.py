"""Pools in the admin API: drivers of fleets lease their pools here, people scale and change them here.

The driver owns a pool, so an order is passed on to it and its answer is the answer. That a router keeps nothing of its
own makes any number of routers agree, and one that starts again needs only the next heartbeat.
"""

from __future__ import annotations

import re

import httpx
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import ErrorBody, bearer_token, decode_body, json_answer, read_body, unfit
from pointsman.contract.pools import POOL_NAME_PATTERN, FleetLease, PoolStatus, ScaleOrder
from pointsman.contract.tls import tls_for
from pointsman.router.errors import LimitError, RegistrationError, ResolveError
from pointsman.router.fleet.fleets import Fleet, FleetTable
from pointsman.router.fronts.api.etag import check_match, etag_of
from pointsman.router.fronts.api.paging import paged
from pointsman.router.fronts.api.types import PoolList, PoolView
from pointsman.router.process.clock import Clock
from pointsman.router.watch.endpoints import EndpointResolver

ORDER_TIMEOUT_S = 5.0
"""A driver answers as soon as it has understood; what it does then takes its time."""

MAX_LEASE_BYTES = 8 * 1024 * 1024
"""Of one heartbeat: pools of all sizes, with some 200 bytes a replica."""

PASSED_ON = (400, 404, 409, 413, 422)
"""A driver's refusals of an order, which are the answer to whoever gave it. Any other status is the driver's fault."""

REFUSAL_BYTES_MAX = 500
"""Bytes of a driver's refusal that are passed on where it is not in the expected shape."""

_NAME = re.compile(POOL_NAME_PATTERN)


class PoolFront:
    """Handlers over the leases."""

    def __init__(self, fleets: FleetTable, *, endpoints: EndpointResolver, clock: Clock, max_body_bytes: int) -> None:
        self._fleets = fleets
        self._endpoints = endpoints
        self._clock = clock
        self._max_body_bytes = max_body_bytes

    async def put_fleet(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not _NAME.match(name):
            raise unfit("name", name, f"a string that matches {POOL_NAME_PATTERN}")
        lease = decode_body(await read_body(request, MAX_LEASE_BYTES), FleetLease)
        try:
            # Orders go there: it is checked as the address of a replica is.
            await self._endpoints.check_url(lease.control)
        except RegistrationError as error:
            raise HTTPException(422, f"control: {error}") from error
        except ResolveError as error:
            raise HTTPException(503, f"control: {error}", {"retry-after": "2"}) from error
        try:
            first = self._fleets.put(name, lease, self._clock(), token=bearer_token(request.headers))
        except RegistrationError as error:
            raise HTTPException(409, str(error)) from error
        except LimitError as error:
            raise HTTPException(507, str(error)) from error
        return Response(status_code=201 if first else 204)

    async def delete_fleet(self, request: Request) -> Response:
        if not self._fleets.remove(request.path_params["name"]):
            raise HTTPException(404, f"fleet {request.path_params['name']!r} is not known")
        return Response(status_code=204)

    async def list_pools(self, request: Request) -> Response:
        pools, next_ = paged(self._fleets.pools(self._clock()), request, key=lambda named: named[1].name)
        return json_answer(PoolList(pools=[_view(fleet, pool) for fleet, pool in pools], next=next_))

    async def get_pool(self, request: Request) -> Response:
        fleet = self._owner(request)
        pool = fleet.pools[request.path_params["name"]]
        return json_answer(_view(fleet.name, pool), headers={"etag": _etag(pool)})

    async def scale_pool(self, request: Request) -> Response:
        """The size a pool shall have; refused here when the pool cannot have it."""
        fleet = self._owner(request)
        body = await read_body(request, self._max_body_bytes)
        order = decode_body(body, ScaleOrder)
        limit = fleet.pools[request.path_params["name"]].replicas_max
        if order.replicas > limit:
            raise unfit("replicas", order.replicas, f"1 to {limit}")
        return await self._pass_on(fleet, request, body)

    async def put_pool(self, request: Request) -> Response:
        """The configuration a pool shall have; only its driver can judge it."""
        return await self._pass_on(self._owner(request), request, await read_body(request, self._max_body_bytes))

    def _owner(self, request: Request) -> Fleet:
        name = request.path_params["name"]
        fleet = self._fleets.owner(name, self._clock())
        if fleet is None:
            known = ", ".join(pool.name for _, pool in self._fleets.pools(self._clock())) or "none"
            raise HTTPException(404, f"pool {name!r} is not known (there are: {known})")
        return fleet

    async def _pass_on(self, fleet: Fleet, request: Request, body: bytes) -> Response:
        check_match(request, _etag(fleet.pools[request.path_params["name"]]))
        headers = {"content-type": "application/json"}
        if fleet.token:
            # The driver's own, so that whoever may only take a lease is never shown a token that may do more.
            headers["authorization"] = f"Bearer {fleet.token}"
        verify = tls_for(fleet.control)
        async with httpx.AsyncClient(timeout=ORDER_TIMEOUT_S, trust_env=False, verify=verify) as client:
            try:
                answer = await client.request(
                    request.method, fleet.control + request.url.path, content=body, headers=headers
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise HTTPException(
                    503,
                    f"the driver of fleet {fleet.name!r} at {fleet.control} cannot be reached: {type(error).__name__}",
                    {"retry-after": "2"},
                ) from error
        if answer.status_code in PASSED_ON:
            raise HTTPException(answer.status_code, _said(answer.content))
        try:
            status = msgspec.json.decode(answer.content, type=PoolStatus) if answer.is_success else None
        except (msgspec.DecodeError, ValueError, RecursionError):
            status = None
        if status is None or status.name != request.path_params["name"]:
            raise HTTPException(
                502,
                f"the driver of fleet {fleet.name!r} at {fleet.control} answered {answer.status_code}, not with a pool",
            )
        fleet.pools[status.name] = status  # The next reader must not see the pool as it was before the order.
        return json_answer(_view(fleet.name, status), 202, {"etag": _etag(status)})


def _said(refusal: bytes) -> str:
    """The sentence in a driver's refusal, which has the shape of OpenAI's API."""
    try:
        return msgspec.json.decode(refusal, type=ErrorBody).error.message
    except (msgspec.DecodeError, ValueError, RecursionError):
        return refusal[:REFUSAL_BYTES_MAX].decode("utf-8", "replace")


def _view(fleet: str, pool: PoolStatus) -> PoolView:
    return PoolView(fleet=fleet, **{key: getattr(pool, key) for key in pool.__struct_fields__})


def _etag(pool: PoolStatus) -> str:
    """Version of what people decide about a pool: its size and its configuration."""
    return etag_of([pool.name, pool.model, pool.replicas, pool.revision])
