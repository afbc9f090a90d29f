"""Replicas in the admin API: they register, drain and leave here, report events, and are shown to people."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.events import JSON_TYPE, MAX_EVENTS_BYTES, MSGPACK_TYPE, EngineEvents
from pointsman.contract.http_api import decode_body, json_answer, media_type_of, read_body, unfit
from pointsman.contract.registration import REPLICA_ID_PATTERN, Registration
from pointsman.router.core import Core
from pointsman.router.errors import LimitError, RegistrationError, ResolveError, SupersededError
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.fronts.api.audit import record, unrecorded
from pointsman.router.fronts.api.etag import check_match, etag_of
from pointsman.router.fronts.api.outliers import view_outlier
from pointsman.router.fronts.api.paging import paged
from pointsman.router.fronts.api.types import ReplicaList, ReplicaView
from pointsman.router.process.clock import Clock
from pointsman.router.process.slices import in_slices
from pointsman.router.watch.endpoints import EndpointResolver

BORN_DIGITS_MAX = 16
"""Milliseconds of the next 300,000 years; int() is quadratic in digits."""

STATES = (*map(str, Health), "draining", "ejected")
"""States of a replica (`Replica.state`)."""

_REPLICA_ID = re.compile(REPLICA_ID_PATTERN)


class ReplicaViews:
    """Replicas as the API shows them, from the tables that know of them."""

    def __init__(self, core: Core, clock: Clock) -> None:
        self._load = core.load
        self._adapters = core.adapters
        self._outliers = core.outliers
        self._clock = clock

    def view(self, replica: Replica) -> ReplicaView:
        """One replica at this moment."""
        now_s = self._clock()
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
            lease_left_s=None if lease is None else round(max(0.0, lease - now_s), 3),
            **view_outlier(self._outliers, replica, now_s),
        )


class ReplicaFront:
    """Handlers of `/v1/replicas`."""

    def __init__(self, core: Core, endpoints: EndpointResolver, *, clock: Clock, max_body_bytes: int) -> None:
        self._core = core
        self._replicas = core.replicas
        self._views = ReplicaViews(core, clock)
        self._endpoints = endpoints
        self._clock = clock
        self._max_body_bytes = max_body_bytes

    async def list_replicas(self, request: Request) -> Response:
        page, next_ = paged(sorted(_wanted(self._replicas, request), key=_id), request, key=_id)
        views: list[ReplicaView] = []
        for replicas in in_slices(page):
            # A replica that left meanwhile has given its slot away.
            views += [self._views.view(replica) for replica in replicas if self._replicas.get(replica.id) is replica]
            await asyncio.sleep(0)
        return json_answer(ReplicaList(replicas=views, next=next_))

    async def get_replica(self, request: Request) -> Response:
        return self._answer(self._registered(request))

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
        self._replicas.drain(replica.id)
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

    def _answer(self, replica: Replica, status: int = 200) -> Response:
        """A replica as it is now, with the version of its registration."""
        return json_answer(self._views.view(replica), status, {"etag": etag_of(replica.saved)})

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


def _wanted(replicas: Iterable[Replica], request: Request) -> list[Replica]:
    """The replicas that the query asks for. Raises HTTPException (422) for a state that there is not."""
    state, model, pool = (request.query_params.get(name) for name in ("state", "model", "pool"))
    if state is not None and state not in STATES:
        raise unfit("state", state, f"one of {', '.join(STATES)}")
    return [
        replica
        for replica in replicas
        if (state is None or state == replica.state)
        and (pool is None or pool == replica.pool)
        and (model is None or model == replica.model or model in (replica.names or ()))
    ]
