"""Tenants in the admin API: their shares, limits and pools."""

from __future__ import annotations

import re
from collections import Counter

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import decode_body, json_answer, read_body, unfit
from pointsman.router.core import Core
from pointsman.router.fronts.api.audit import record
from pointsman.router.fronts.api.documents import Settled, write_document
from pointsman.router.fronts.api.etag import check_match, etag_of
from pointsman.router.fronts.api.key_types import LimitsBody, TenantList, TenantSettings, TenantView
from pointsman.router.fronts.api.paging import paged
from pointsman.router.process.clock import Clock
from pointsman.router.tenancy.records import TENANT_PATTERN, Tenant
from pointsman.router.tenancy.tenants import KIND


class TenantsFront:
    """Handlers of `/v1/tenants`."""

    def __init__(self, core: Core, settled: Settled, *, wall: Clock, max_body_bytes: int) -> None:
        self._book = core.book
        self._tenants = core.tenants
        self._keys = core.keys
        self._settled = settled
        self._wall = wall
        self._max_body_bytes = max_body_bytes

    async def list_tenants(self, request: Request) -> Response:
        keys = self._keys_in_force()
        names = sorted({tenant.name for tenant in self._tenants} | {key.tenant for key in self._keys})
        page, cursor = paged(names, request, key=str)
        views = [self._view(self._tenants.of(name), keys[name]) for name in page]
        return json_answer(TenantList(tenants=views, next=cursor))

    async def get_tenant(self, request: Request) -> Response:
        name = request.path_params["name"]
        tenant, keys = self._tenants.get(name), self._keys_in_force()
        if tenant is None and not any(key.tenant == name for key in self._keys):
            raise HTTPException(404, f"tenant {name[:64]!r} has neither settings nor keys")
        return self._answer(tenant or self._tenants.of(name), keys[name])

    async def put_tenant(self, request: Request) -> Response:
        name = request.path_params["name"]
        if re.fullmatch(TENANT_PATTERN, name) is None:
            raise unfit("name", name[:64], "1 to 64 characters out of letters, digits and . _ -")
        before = self._tenants.get(name)
        check_match(request, etag_of(self._tenants.of(name)))
        given = decode_body(await read_body(request, self._max_body_bytes), TenantSettings)
        tenant = msgspec.convert({**msgspec.to_builtins(given), "name": name}, Tenant)
        record(request, f"tenant {name} is {'set' if before is None else 'changed'}")
        body = msgspec.to_builtins(tenant)
        await write_document(self._book, self._settled, request, f"{KIND}/{name}", body)
        return self._answer(tenant, self._keys_in_force()[name])

    async def delete_tenant(self, request: Request) -> Response:
        name = request.path_params["name"]
        tenant = self._tenants.get(name)
        if tenant is None:
            raise HTTPException(404, f"tenant {name[:64]!r} has no settings")
        check_match(request, etag_of(tenant))
        record(request, f"tenant {name} has the defaults again")
        await write_document(self._book, self._settled, request, f"{KIND}/{name}", {})
        return Response(status_code=204)

    def _keys_in_force(self) -> Counter[str]:
        now_s = self._wall()
        return Counter(key.tenant for key in self._keys if key.in_force(now_s))

    def _answer(self, tenant: Tenant, keys: int) -> Response:
        return json_answer(self._view(tenant, keys), headers={"etag": etag_of(tenant)})

    def _view(self, tenant: Tenant, keys: int) -> TenantView:
        return TenantView(
            name=tenant.name,
            keys=keys,
            limits=msgspec.convert(tenant.limits, LimitsBody, from_attributes=True),
            model_limits=msgspec.convert(tenant.model_limits, dict[str, LimitsBody], from_attributes=True),
            weight=tenant.weight,
            priority=tenant.priority,
            max_priority=tenant.max_priority,
            isolated=tenant.isolated,
            reserved_pools=list(tenant.reserved_pools),
            excluded_pools=list(tenant.excluded_pools),
            note=tenant.note,
        )
