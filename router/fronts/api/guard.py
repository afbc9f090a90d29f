"""Checks of every request to the admin API, before its handler runs.

Three questions, in this order. May this peer ask? With `admin.token` the bearer token answers; a browser cannot attach
it to a request of another site without a preflight, which this API never grants, so nothing more is checked. Without a
token the peer must be a program on this machine: `Host` names a loopback address or one of `admin.hosts` (a page that
rebinds its own name to 127.0.0.1 still sends that name), and neither `Sec-Fetch-Site` nor `Origin` says that a page of
another origin is asking. Does the operation have these query parameters? An unknown one is refused: `?dryrun=true`
must not put live what `?dry_run=true` would only check. Does the body have a type the operation reads? Forms and plain
text, which pages may post anywhere without a preflight, are not among them.

A refusal is an HTTPException with one sentence, and counted by check. Handlers see only what passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.events import JSON_TYPE
from pointsman.contract.http_api import bearer_token, media_type_of, wrong_token
from pointsman.router.fronts.admin_token import AdminToken
from pointsman.router.fronts.hosts import host_of, is_loopback

Handler = Callable[[Request], Awaitable[Response]]

QUOTED_MAX = 100
"""Characters of a peer's header or parameter that a refusal repeats."""


class Check(StrEnum):
    """A check that refused a request."""

    TOKEN = "token"
    HOST = "host"
    ORIGIN = "origin"


class Guard:
    """The checks, with the settings they need. `refused` counts refusals of who asks, by check."""

    def __init__(self, token: AdminToken, *, hosts: Iterable[str] = ()) -> None:
        """`hosts` are names besides loopback that `Host` may have where no token is set."""
        self._token = token
        self._hosts = frozenset(name.lower() for name in hosts)
        self._refused: Counter[Check] = Counter()

    @property
    def refused(self) -> Counter[Check]:
        """Requests that each check refused; includes wrong tokens on the feed."""
        return self._refused + Counter({Check.TOKEN: self._token.wrong})

    def public(self, handler: Handler) -> Handler:
        """For what a token does not protect: health, metrics, the description of the API."""

        async def check_then_handle(request: Request) -> Response:
            self._check_local(request.headers)
            return await handler(request)

        return check_then_handle

    def guarded(self, handler: Handler, *, query: Iterable[str] = (), types: Iterable[str] = (JSON_TYPE,)) -> Handler:
        """For operations of `/v1`; `query` names the parameters they have, `types` the media types of their bodies."""
        known, accepted = tuple(query), tuple(types)

        async def check_then_handle(request: Request) -> Response:
            await self._check_token(request)
            self._check_local(request.headers)
            check_query(request, known)
            check_body_type(request.headers, accepted)
            return await handler(request)

        return check_then_handle

    async def _check_token(self, request: Request) -> None:
        if not self._token.required:
            return
        peer = request.client.host if request.client else ""
        if not self._token.admits(bearer_token(request.headers), peer):
            await self._token.slow_down()
            raise wrong_token()

    def _check_local(self, headers: Headers) -> None:
        if self._token.required:
            return
        given = headers.getlist("host")
        host = host_of(given[0]) if len(given) == 1 else ""
        if not (is_loopback(host) or host in self._hosts):
            self._refused[Check.HOST] += 1
            raise HTTPException(
                403,
                f"host: {_quoted(', '.join(given))}: without admin.token only requests to a loopback address or to one "
                "of admin.hosts are served",
            )
        if foreign := foreign_page(headers, given[0]):
            self._refused[Check.ORIGIN] += 1
            raise HTTPException(403, f"{foreign}: a web page of another origin may not use this API")


def foreign_page(headers: Headers, host: str) -> str:
    """The header that gives a page of another origin away, with its value; empty for any other peer.

    Browsers add `Sec-Fetch-Site` to everything and `Origin` to every POST, PUT and DELETE; programs add neither. A page
    on another port of this machine is another origin too.
    """
    site = headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin"):
        return f"sec-fetch-site: {_quoted(site)}"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        return f"origin: {_quoted(origin)}"
    return ""


def check_query(request: Request, known: tuple[str, ...]) -> None:
    """Raises HTTPException (422) for a parameter that the operation does not have, or that is given twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            expected = f"known parameters are {', '.join(known)}" if known else "this operation has no parameters"
            raise HTTPException(422, f"query: unknown parameter {_quoted(name)}; {expected}")
        if names.count(name) > 1:
            raise HTTPException(422, f"query: {name} is given more than once")


def check_body_type(headers: Headers, accepted: tuple[str, ...]) -> None:
    """Raises HTTPException (415) for a body whose media type is none of these. An empty body needs no type."""
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    media_type = media_type_of(headers)
    if media_type not in accepted:
        raise HTTPException(415, f"content-type: {_quoted(media_type)}: {' or '.join(accepted)} is expected")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= QUOTED_MAX else text[:QUOTED_MAX] + "...")
