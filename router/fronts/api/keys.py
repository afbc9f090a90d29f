"""API keys in the admin API: make, list, change, rotate and revoke them."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec.structs import replace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import decode_body, json_answer, read_body
from pointsman.router.core import Core
from pointsman.router.fronts.api.audit import record
from pointsman.router.fronts.api.documents import Settled, write_document
from pointsman.router.fronts.api.etag import check_match, etag_of
from pointsman.router.fronts.api.key_types import (
    KeyList,
    KeyRotation,
    KeySettings,
    KeyState,
    KeyView,
    LimitsBody,
    NewKey,
)
from pointsman.router.fronts.api.paging import paged
from pointsman.router.process.clock import Clock
from pointsman.router.process.moments import rfc3339
from pointsman.router.tenancy.keys import KIND, new_id, new_secret
from pointsman.router.tenancy.records import ApiKey


class KeysFront:
    """Handlers of `/v1/keys`."""

    def __init__(self, core: Core, settled: Settled, *, wall: Clock, max_body_bytes: int) -> None:
        self._book = core.book
        self._keys = core.keys
        self._settled = settled
        self._wall = wall
        self._max_body_bytes = max_body_bytes

    async def list_keys(self, request: Request) -> Response:
        asked = request.query_params
        tenant, state = asked.get("tenant"), asked.get("state")
        views = (self._view(key) for key in self._keys if tenant is None or key.tenant == tenant)
        chosen = sorted((view for view in views if state is None or view.state == state), key=_id_of)
        page, cursor = paged(chosen, request, key=_id_of)
        return json_answer(KeyList(keys=page, next=cursor))

    async def get_key(self, request: Request) -> Response:
        return self._answer(self._known(request))

    async def create_key(self, request: Request) -> Response:
        given = decode_body(await read_body(request, self._max_body_bytes), NewKey)
        key_id = new_id()
        secret = new_secret(key_id)
        key = self._changed(
            ApiKey(id=key_id, tenant=given.tenant, hash=secret.hash, created_s=self._wall()),
            given,
        )
        record(request, f"key {key_id} of tenant {key.tenant} is made")
        required = await self._write(request, key)
        return self._with_secret(key, secret.key, required, 201)

    async def change_key(self, request: Request) -> Response:
        key = self._living(request)
        given = decode_body(await read_body(request, self._max_body_bytes), KeySettings)
        changed = self._changed(key, given)
        record(request, f"key {key.id} of tenant {key.tenant} is changed")
        await self._write(request, changed)
        return self._answer(changed)

    async def rotate_key(self, request: Request) -> Response:
        key = self._living(request)
        rotation = decode_body(await read_body(request, self._max_body_bytes), KeyRotation)
        secret = new_secret(key.id)
        rotated = replace(
            key, hash=secret.hash, previous_hash=key.hash, previous_until_s=self._wall() + rotation.grace_s
        )
        record(
            request, f"key {key.id} of tenant {key.tenant} is rotated, the old secret ends in {rotation.grace_s:g} s"
        )
        required = await self._write(request, rotated)
        return self._with_secret(rotated, secret.key, required, 200)

    async def revoke_key(self, request: Request) -> Response:
        key = self._known(request)
        if key.revoked_s is None:
            record(request, f"key {key.id} of tenant {key.tenant} is revoked")
            await self._write(request, replace(key, revoked_s=self._wall()))
        return Response(status_code=204)

    async def _write(self, request: Request, key: ApiKey) -> bool:
        """Write a key; whether this edge's HAProxy requires keys."""
        body = msgspec.to_builtins(key)
        return await write_document(self._book, self._settled, request, f"{KIND}/{key.id}", body)

    def _with_secret(self, key: ApiKey, secret: str, required: bool, status: int) -> Response:
        view = replace(self._view(key), key=secret, required=required)
        return json_answer(view, status, {"etag": etag_of(key), "cache-control": "no-store"})

    def _known(self, request: Request) -> ApiKey:
        key = self._keys.get(request.path_params["id"])
        if key is None:
            raise HTTPException(404, f"key {request.path_params['id'][:64]!r} is not known")
        check_match(request, etag_of(key))
        return key

    def _living(self, request: Request) -> ApiKey:
        key = self._known(request)
        if key.revoked_s is not None:
            raise HTTPException(409, f"key {key.id!r} is revoked: make another one")
        return key

    def _changed(self, key: ApiKey, given: KeySettings) -> ApiKey:
        changes = msgspec.to_builtins(given)
        changes.pop("tenant", None)
        expires = changes.pop("expires")
        expires_s = None if expires is None else datetime.fromisoformat(expires).timestamp()
        return msgspec.convert(msgspec.to_builtins(key) | changes | {"expires_s": expires_s}, ApiKey)

    def _answer(self, key: ApiKey) -> Response:
        return json_answer(self._view(key), headers={"etag": etag_of(key)})

    def _view(self, key: ApiKey) -> KeyView:
        now_s = self._wall()
        state: KeyState = "in-force" if key.in_force(now_s) else "expired" if key.revoked_s is None else "revoked"
        old_s = key.previous_until_s if len(key.hashes(now_s)) > 1 else None
        return KeyView(
            id=key.id,
            tenant=key.tenant,
            state=state,
            created=rfc3339(key.created_s),
            revoked=None if key.revoked_s is None else rfc3339(key.revoked_s),
            old_secret_until=None if old_s is None else rfc3339(old_s),
            expires=None if key.expires_s is None else rfc3339(key.expires_s),
            models=list(key.models),
            limits=msgspec.convert(key.limits, LimitsBody, from_attributes=True),
            model_limits=msgspec.convert(key.model_limits, dict[str, LimitsBody], from_attributes=True),
            note=key.note,
        )


def _id_of(view: KeyView) -> str:
    return view.id
