"""Sessions in the admin API: find them, move them to another replica, have them forgotten.

Tables hold hundreds of thousands of sessions. A page is found by going through all of them in slices, since a table
that is sorted for people would cost every request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from heapq import nsmallest

from msgspec import UNSET
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import decode_body, json_answer, read_body, unfit
from pointsman.contract.registration import Role
from pointsman.router.core import Core
from pointsman.router.decide.features import MAX_SESSION_BYTES, TENANT_END
from pointsman.router.fleet.replica import Replica
from pointsman.router.fronts.api.audit import record
from pointsman.router.fronts.api.endpoint import Parameter
from pointsman.router.fronts.api.lists import JSONList
from pointsman.router.fronts.api.paging import LIMIT_MAX, read_cursor, read_limit
from pointsman.router.fronts.api.replica_views import ReplicaViews
from pointsman.router.fronts.api.session_types import SessionMove, SessionView
from pointsman.router.fronts.api.session_views import SessionViews, written
from pointsman.router.kv.conversation import Name
from pointsman.router.process.clock import Clock
from pointsman.router.process.slices import in_slices

SHOWN = 100
"""Sessions of an answer to a request without a limit."""

SLICE_NAMES = 2048
"""Sessions looked at before other tasks run: a millisecond."""

SLICE_VIEWS = 100
"""Sessions shown before other tasks run: a millisecond."""

TENANT_MAX = 128
"""Characters of a tenant's name, as for lookups."""

KEY = Parameter(
    name="key",
    where="path",
    schema={"type": "string", "minLength": 1, "maxLength": MAX_SESSION_BYTES},
    description="Session id, percent-encoded; or `%23` and the 16 digits of a conversation without a session id.",
    slashes=True,
)
TENANT = Parameter(
    name="tenant",
    where="query",
    schema={"type": "string", "minLength": 1, "maxLength": TENANT_MAX},
    description="Tenant of the session, where tenants are isolated.",
)
REPLICA = Parameter(
    name="replica", where="query", schema={"type": "string"}, description="Replica that the sessions live on."
)
MODEL = Parameter(
    name="model",
    where="query",
    schema={"type": "string"},
    description="Model, alias or adapter that the sessions' replicas serve.",
)
PAGE = (
    Parameter(
        name="limit",
        where="query",
        schema={"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": SHOWN},
        description="Largest number of sessions in the answer.",
    ),
    Parameter(
        name="cursor",
        where="query",
        schema={"type": "string", "minLength": 1, "maxLength": TENANT_MAX + 1 + MAX_SESSION_BYTES},
        description="`next` of the page before.",
    ),
)


class SessionFront:
    """Handlers of `/v1/sessions`."""

    def __init__(self, core: Core, replicas: ReplicaViews, *, clock: Clock, max_body_bytes: int) -> None:
        """replicas: says why a replica gets no requests."""
        self._core = core
        self._replica_views = replicas
        self._views = SessionViews(core, clock)
        self._clock = clock
        self._max_body_bytes = max_body_bytes

    async def list_sessions(self, request: Request) -> Response:
        limit = read_limit(request) or SHOWN
        names = await self._page(request, limit + 1)
        listed = JSONList()
        for some in in_slices(names[:limit], SLICE_VIEWS):
            listed.add([view for name in some if (view := self._views.view(name)) is not None])
            await asyncio.sleep(0)
        return listed.answer("sessions", next=written(names[limit - 1]) if len(names) > limit else UNSET)

    async def get_session(self, request: Request) -> Response:
        return json_answer(self._known(request)[1])

    async def move_session(self, request: Request) -> Response:
        key, tenant = _asked(request)
        move = decode_body(await read_body(request, self._max_body_bytes), SessionMove)
        replica = self._core.replicas.get(move.replica)
        if replica is None:
            raise unfit("replica", move.replica, "the id of a registered replica")
        name = self._views.named(key, tenant)
        if isinstance(name, int):
            raise HTTPException(409, f"session {key!r}: its requests have no session id by which they could be moved")
        self._check_serves(replica)
        record(request, f"session {key!r} moves to {replica.id}")
        name = name or (f"{tenant}{TENANT_END}{key}" if tenant else key)
        self._core.sessions.move(name, replica.id, self._clock())
        return json_answer(self._views.view(name))

    async def delete_session(self, request: Request) -> Response:
        name, view = self._known(request)
        record(request, f"session {view.key!r} is forgotten")
        self._core.forget_session(name, self._clock())
        return Response(status_code=204)

    def _known(self, request: Request) -> tuple[Name, SessionView]:
        key, tenant = _asked(request)
        name = self._views.named(key, tenant)
        view = self._views.view(name) if name is not None else None
        if name is None or view is None:
            raise HTTPException(404, f"session {key!r} is not known{f' of tenant {tenant!r}' if tenant else ''}")
        return name, view

    def _check_serves(self, replica: Replica) -> None:
        if replica.role is Role.PREFILL:
            raise HTTPException(409, f"replica {replica.id!r} computes prompts for others and serves no session")
        if not replica.eligible:
            why = self._replica_views.why(replica)
            raise HTTPException(409, f"replica {replica.id!r} gets no requests: {why}")

    async def _page(self, request: Request, count: int) -> list[Name]:
        """Names of the first `count` sessions behind the cursor that the query asks for, by key."""
        cursor = read_cursor(request, TENANT_MAX + 1 + MAX_SESSION_BYTES) or ""
        wanted = self._filter(request)
        best: dict[str, Name] = {}
        for names in self._slices():
            last = next(reversed(best)) if len(best) == count else None
            found = {written(name): name for name in names if wanted(name)}
            found = {key: name for key, name in found.items() if key > cursor and (last is None or key < last)}
            if found:
                best = dict(nsmallest(count, (best | found).items(), key=_key))
            await asyncio.sleep(0)
        return list(best.values())

    def _slices(self) -> Iterator[Sequence[Name]]:
        """All names at this moment, slice by slice; one that has a conversation and a pin comes twice."""
        core = self._core
        pinned = core.sessions.names() if core.pipeline.pins else list(core.sessions.ordered)
        for names in (list(core.kv.conversations.by_name), pinned):
            yield from in_slices(names, SLICE_NAMES)

    def _filter(self, request: Request) -> Callable[[Name], bool]:
        asked = request.query_params
        tenant, replica, model = asked.get("tenant"), asked.get("replica"), asked.get("model")
        beginning = None if tenant is None else f"{tenant}{TENANT_END}"
        homes: set[str] | None = None
        if replica is not None or model is not None:
            homes = {
                one.id
                for one in self._core.replicas
                if (replica is None or one.id == replica)
                and (model is None or model == one.model or model in (one.names or ()))
            }

        def wanted(name: Name) -> bool:
            if beginning is not None and not (isinstance(name, str) and name.startswith(beginning)):
                return False
            return homes is None or self._views.home(name) in homes

        return wanted


def _key(entry: tuple[str, Name]) -> str:
    return entry[0]


def _asked(request: Request) -> tuple[str, str]:
    """Key and tenant of a request. Raises HTTPException (422) for a key or tenant that no request can have."""
    key, tenant = request.path_params["key"], request.query_params.get("tenant", "")
    if not 1 <= len(key) <= MAX_SESSION_BYTES:
        raise unfit("key", key[:MAX_SESSION_BYTES], f"a session id of 1 to {MAX_SESSION_BYTES} characters")
    if len(tenant) > TENANT_MAX or TENANT_END in tenant:
        raise unfit("tenant", tenant[:TENANT_MAX], f"a name of at most {TENANT_MAX} characters")
    return key, tenant
