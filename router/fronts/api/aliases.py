"""Aliases in the admin API: which there are, how their versions fare, and the steps of a rollout."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
from msgspec import UNSET
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import decode_body, json_answer, read_body, unfit
from pointsman.router.core import Core
from pointsman.router.decide.version_meter import VersionRecord
from pointsman.router.fleet.alias_table import KIND, alias_of
from pointsman.router.fronts.api.alias_types import (
    AliasList,
    AliasOrder,
    AliasVersionView,
    AliasView,
    PromoteOrder,
    RollBackOrder,
    StepOrder,
)
from pointsman.router.fronts.api.audit import record
from pointsman.router.fronts.api.documents import Settled, write_document
from pointsman.router.fronts.api.etag import check_match, etag_of
from pointsman.router.fronts.api.paging import paged
from pointsman.router.fronts.api.policy import read_why
from pointsman.router.fronts.api.trial_types import percentiles_of
from pointsman.router.tenancy.aliases import ALIAS_PATTERN, Alias, AliasVersion
from pointsman.router.tenancy.records import DocumentError

COUNTED_AT_ONCE = 4096
"""Sessions counted before lookups get their turn."""

_NAME = re.compile(ALIAS_PATTERN)


class AliasFront:
    """Handlers of `/v1/aliases`."""

    def __init__(self, core: Core, settled: Settled, *, max_body_bytes: int) -> None:
        self._book = core.book
        self._settled = settled
        self._aliases = core.aliases
        self._records = core.versions
        self._replicas = core.replicas
        self._max_body_bytes = max_body_bytes

    async def list_aliases(self, request: Request) -> Response:
        page, next_ = paged(list(self._aliases), request, key=lambda alias: alias.name)
        sessions = await self._count_sessions()
        return json_answer(AliasList(aliases=[self._view(alias, sessions) for alias in page], next=next_))

    async def get_alias(self, request: Request) -> Response:
        alias = self._known(request)
        return await self._answer(alias)

    async def put_alias(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not _NAME.match(name):
            raise unfit("name", name, f"a string that matches {ALIAS_PATTERN}")
        order = decode_body(await read_body(request, self._max_body_bytes), AliasOrder)
        known = self._aliases.get(name)
        check_match(request, None if known is None else _etag(known))
        for at, version in enumerate(order.versions):
            if self._aliases.get(version.model) is not None:
                raise unfit(f"versions[{at}].model", version.model, "a model, not an alias")
        try:
            alias = msgspec.convert({"name": name, **msgspec.to_builtins(order)}, Alias)
        except DocumentError as error:
            raise HTTPException(422, str(error)) from error
        except msgspec.ValidationError as error:
            raise HTTPException(422, str(error.__cause__ or error)) from error
        return await self._write(request, alias, read_why(request), 200 if known is not None else 201)

    async def delete_alias(self, request: Request) -> Response:
        alias = self._known(request)
        check_match(request, _etag(alias))
        why = read_why(request)
        await write_document(self._book, self._settled, request, f"{KIND}/{alias.name}", {}, why=why)
        record(request, f"alias {alias.name} is removed")
        return Response(status_code=204)

    async def promote_alias(self, request: Request) -> Response:
        alias = self._known(request)
        order = decode_body(await read_body(request, self._max_body_bytes), PromoteOrder)
        model = order.model
        if model is UNSET:
            others = [version.model for version in alias.canaries]
            if len(others) != 1:
                raise unfit("model", None, f"one of {', '.join(others) or 'several versions'}")
            (model,) = others
        return await self._step(request, alias, lambda: alias.promoted(str(model)), order.why)

    async def pause_alias(self, request: Request) -> Response:
        alias = self._known(request)
        order = decode_body(await read_body(request, self._max_body_bytes), StepOrder)
        return await self._step(request, alias, alias.held, order.why)

    async def resume_alias(self, request: Request) -> Response:
        alias = self._known(request)
        order = decode_body(await read_body(request, self._max_body_bytes), StepOrder)
        return await self._step(request, alias, lambda: alias.held(False), order.why)

    async def roll_back_alias(self, request: Request) -> Response:
        alias = self._known(request)
        order = decode_body(await read_body(request, self._max_body_bytes), RollBackOrder)
        models = () if order.model is UNSET else (order.model,)
        return await self._step(request, alias, lambda: alias.rolled_back(*models), order.why)

    # Writing

    async def _step(self, request: Request, alias: Alias, step: Callable[[], Alias], why: str) -> Response:
        check_match(request, _etag(alias))
        try:
            return await self._write(request, step(), why, 200)
        except DocumentError as error:
            raise HTTPException(422, str(error)) from error

    async def _write(self, request: Request, alias: Alias, why: str, status: int) -> Response:
        await write_document(self._book, self._settled, request, f"{KIND}/{alias.name}", alias.body(), why=why)
        record(request, alias.sentence(why))
        return await self._answer(alias, status)

    def _known(self, request: Request) -> Alias:
        name = request.path_params["name"]
        alias = self._aliases.get(name)
        if alias is None:
            known = ", ".join(one.name for one in self._aliases) or "none"
            raise HTTPException(404, f"alias {name!r} is not known (there are: {known})")
        return alias

    # Showing

    async def _answer(self, alias: Alias, status: int = 200) -> Response:
        view = self._view(alias, await self._count_sessions())
        return json_answer(view, status, {"etag": _etag(alias)})

    async def _count_sessions(self) -> Counter[tuple[str, str]]:
        """Sessions by alias and model."""
        counts: Counter[tuple[str, str]] = Counter()
        for number, (key, model, _, _) in enumerate(self._aliases.sessions.export_copy(), 1):
            counts[alias_of(key), model] += 1
            if number % COUNTED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return counts

    def _view(self, alias: Alias, sessions: Counter[tuple[str, str]]) -> AliasView:
        document = self._book.known(f"{KIND}/{alias.name}")
        shares = alias.shares()
        versions = [self._version(alias, version, shares[version.model], sessions) for version in alias.versions]
        return AliasView(
            name=alias.name,
            versions=versions,
            paused=alias.paused,
            override=alias.override,
            stop=alias.stop,
            sessions_moved=self._aliases.moved[alias.name],
            recomputed_tokens=self._aliases.recomputed[alias.name],
            version=0 if document is None else document.version,
            author="" if document is None else document.about.get("author", ""),
            why="" if document is None else document.about.get("why", ""),
            warnings=list(self._warnings(alias, versions)),
        )

    def _version(
        self, alias: Alias, version: AliasVersion, share: float, sessions: Counter[tuple[str, str]]
    ) -> AliasVersionView:
        key = (alias.name, version.model)
        arm = (self._records.records.get(key) or VersionRecord()).arm
        members = self._replicas.memberships
        ids = self._replicas.ids
        able = {ids[slot] for slot in members.of_alias(version.model, alias.name).slots}
        return AliasVersionView(
            model=version.model,
            stable=version.model == alias.stable,
            weight=version.weight,
            withdrawn=version.withdrawn,
            share=round(share, 6),
            sessions=sessions[key],
            sessions_begun=self._aliases.begun[key],
            requests=arm.requests,
            errors=arm.errors,
            error_share=round(arm.error_share, 4),
            refused=arm.refused,
            ttft_ms=percentiles_of(arm),
            replicas=sorted(able),
            refusing=sorted(
                replica.id
                for replica in self._replicas
                if version.model in (replica.names or ()) and not replica.takes_alias(alias.name)
            ),
        )

    def _warnings(self, alias: Alias, versions: list[AliasVersionView]) -> Iterator[str]:
        for version in versions:
            if not version.replicas and (version.share or version.sessions):
                yield f"no replica takes requests for {version.model} by the name {alias.name}"
            if version.refusing:
                yield (
                    f"{', '.join(version.refusing)}: do not list {alias.name} among their models, and get no requests "
                    "for it"
                )
        owners = sorted(replica.id for replica in self._replicas if replica.model == alias.name)
        if owners:
            yield f"{', '.join(owners)}: serve a model called {alias.name}, which requests cannot name any more"


def _etag(alias: Alias) -> str:
    """Version of an alias: of all that its document says."""
    return etag_of(alias.body())
