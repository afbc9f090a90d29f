"""Replicas in the admin API: they register, drain and leave here, report events, and are shown to people."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.events import JSON_TYPE, MAX_EVENTS_BYTES, MSGPACK_TYPE, EngineEvents
from pointsman.contract.http_api import decode_body, json_answer, media_type_of, read_body, unfit
from pointsman.contract.registration import REPLICA_ID_PATTERN, Registration, Role
from pointsman.router.core import Core
from pointsman.router.errors import LimitError, RegistrationError, ResolveError, SupersededError
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.fronts.api.audit import record, unrecorded
from pointsman.router.fronts.api.etag import check_match, etag_of
from pointsman.router.fronts.api.lists import JSONList
from pointsman.router.fronts.api.paging import paged
from pointsman.router.fronts.api.replica_views import ReplicaViews
from pointsman.router.process.clock import Clock
from pointsman.router.process.slices import in_slices
from pointsman.router.watch.endpoints import EndpointResolver

BORN_DIGITS_MAX = 16
"""Milliseconds of the next 300,000 years; int() is quadratic in digits."""

SLICE_VIEWS = 32
"""Replicas shown before other tasks run: a millisecond."""

_REPLICA_ID = re.compile(REPLICA_ID_PATTERN)


STATES = (*map(str, Health), "draining", "ejected")
"""States of a replica (`Replica.state`)."""


class ReplicaFront:
    """Handlers of `/v1/replicas`."""

    def __init__(
        self, core: Core, endpoints: EndpointResolver, views: ReplicaViews, *, clock: Clock, max_body_bytes: int
    ) -> None:
        self._core = core
        self._replicas = core.replicas
        self._views = views
        self._endpoints = endpoints
        self._clock = clock
        self._max_body_bytes = max_body_bytes

    async def list_replicas(self, request: Request) -> Response:
        wanted = _filter(request.query_params)
        pins = await self._views.homes()
        page, next_ = paged(sorted(filter(wanted, self._replicas), key=_id), request, key=_id)
        listed = JSONList()
        for replicas in in_slices(page, SLICE_VIEWS):
            # A replica that left meanwhile has given its slot away.
            there = [replica for replica in replicas if self._replicas.get(replica.id) is replica]
            listed.add([self._views.view(replica, pins) for replica in there])
            await asyncio.sleep(0)
        return listed.answer("replicas", next=next_)

    async def get_replica(self, request: Request) -> Response:
        self._registered(request)
        pins = await self._views.homes()
        return self._answer(self._registered(request), pins=pins)

    async def put_replica(self, request: Request) -> Response:
        replica_id = request.path_params["id"]
        if not _REPLICA_ID.match(replica_id):
            raise unfit("id", replica_id, f"a string that matches {REPLICA_ID_PATTERN}")
        registration = decode_body(await read_body(request, self._max_body_bytes), Registration)
        if registration.born_ms or registration.ttl_s is not None:
            unrecorded(request)  # The replica itself, or whatever renews its lease.
        try:
            endpoint = await self._endpoints.resolve(registration.url)
            before = self._replicas.get(replica_id)
            check_match(request, etag_of(before.saved) if before is not None else None)
            if before is not None and before.registration == registration:
                unrecorded(request)  # A heartbeat.
            replica = self._replicas.put(replica_id, registration, endpoint, self._clock())
        except RegistrationError as error:
            raise HTTPException(422, str(error)) from error
        except SupersededError as error:
            raise HTTPException(409, str(error)) from error
        except LimitError as error:
            raise HTTPException(507, str(error)) from error
        except ResolveError as error:
            raise HTTPException(503, str(error), {"retry-after": "2"}) from error
        record(request, f"replica {replica_id} was {'registered' if before is None else 'changed'}")
        return self._answer(replica, 201 if before is None else 200)

    async def delete_replica(self, request: Request) -> Response:
        replica = self._not_superseded(request)
        record(request, f"replica {replica.id} was removed")
        self._replicas.remove(replica.id)
        return Response(status_code=204)

    async def drain_replica(self, request: Request) -> Response:
        replica = self._not_superseded(request)
        record(request, f"replica {replica.id} drains")
        self._replicas.drain(replica.id, self._clock())
        return self._answer(replica)

    async def delete_drain(self, request: Request) -> Response:
        return await self.undrain_replica(request)

    async def undrain_replica(self, request: Request) -> Response:
        replica = self._unchanged(request)
        record(request, f"replica {replica.id} drains no longer")
        self._replicas.undrain(replica.id, self._clock())
        return self._answer(replica)

    async def reset_replica(self, request: Request) -> Response:
        replica = self._unchanged(request)
        record(request, f"replica {replica.id} is judged anew")
        self._core.outliers.reset(replica, self._clock())
        return self._answer(replica)

    async def take_events(self, request: Request) -> Response:
        """Events of one engine; the answer says whether to send all of it again."""
        replica = self._registered(request)
        body = await read_body(request, MAX_EVENTS_BYTES)
        # Only an empty body may be of another type, or of none.
        media_type = MSGPACK_TYPE if media_type_of(request.headers) == MSGPACK_TYPE else JSON_TYPE
        events = decode_body(body, EngineEvents, media_type)
        answer = self._core.engine_events(replica.id, events, self._clock())
        if answer is None:  # It left while its body came in.
            raise HTTPException(404, f"replica {replica.id!r} is not registered")
        return json_answer(answer)

    def _answer(self, replica: Replica, status: int = 200, *, pins: Mapping[str, int] | None = None) -> Response:
        """A replica as it is now, with the version of its registration."""
        return json_answer(self._views.view(replica, pins), status, {"etag": etag_of(replica.saved)})

    def _unchanged(self, request: Request) -> Replica:
        """The replica that is named. Raises HTTPException for an unknown one, or one that was changed (`If-Match`)."""
        replica = self._registered(request)
        check_match(request, etag_of(replica.saved))
        return replica

    def _registered(self, request: Request) -> Replica:
        replica_id = request.path_params["id"]
        replica = self._replicas.get(replica_id)
        if replica is None:
            raise HTTPException(404, f"replica {replica_id!r} is not registered")
        return replica

    def _not_superseded(self, request: Request) -> Replica:
        """The replica, unless an earlier incarnation of it asks (`born_ms`), or it was changed (`If-Match`)."""
        replica = self._registered(request)
        born_ms = request.query_params.get("born_ms", "0")
        if "born_ms" in request.query_params:
            unrecorded(request)  # The replica itself.
        if not (born_ms.isascii() and born_ms.isdecimal() and len(born_ms) <= BORN_DIGITS_MAX):
            raise unfit("born_ms", born_ms, "milliseconds since 1970")
        try:
            replica.check_incarnation(int(born_ms))
        except SupersededError as error:
            raise HTTPException(409, str(error)) from error
        check_match(request, etag_of(replica.saved))
        return replica


def _id(replica: Replica) -> str:
    return replica.id


def _filter(query: QueryParams) -> Callable[[Replica], bool]:
    """The test that a listed replica passes. Raises HTTPException (422) for a state or role that there is not."""
    state, role, model, pool = (query.get(name) for name in ("state", "role", "model", "pool"))
    for name, value, choices in (("state", state, STATES), ("role", role, tuple(Role))):
        if value is not None and value not in choices:
            raise unfit(name, value, f"one of {', '.join(choices)}")

    def wanted(replica: Replica) -> bool:
        return (
            (state is None or replica.state == state)
            and (role is None or replica.role == role)
            and (pool is None or replica.pool == pool)
            and (model is None or model == replica.model or model in (replica.names or ()))
        )

    return wanted
