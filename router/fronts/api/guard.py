"""Checks of every request to the admin API, before its handler runs.

Three questions, in this order. May this peer ask for this? Where tokens are set, the bearer token and its roles answer;
a browser cannot attach it to a request of another site without a preflight, which this API never grants, so nothing
more is checked. Without tokens the peer must be a program on this machine: `Host` names a loopback address or one of
`admin.hosts` (a page that rebinds its own name to 127.0.0.1 still sends that name), and neither `Sec-Fetch-Site` nor
`Origin` says that a page of another origin is asking. Does the operation have these query parameters? An unknown one is
refused: `?dryrun=true` must not put live what `?dry_run=true` would only check. Does the body have a type the operation
reads? Forms and plain text, which pages may post anywhere without a preflight, are not among them.

A refusal is an HTTPException with one sentence, and counted by check. Handlers see only what passed, and learn from
`caller_of` who asks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.config import did_you_mean
from pointsman.contract.http_api import bearer_token, media_type_of, wrong_token
from pointsman.router.fronts.admin_token import LOCAL, AdminTokens, Caller
from pointsman.router.fronts.api.endpoint import Endpoint
from pointsman.router.fronts.api.problems import refusal
from pointsman.router.fronts.hosts import host_of, is_loopback

Handler = Callable[[Request], Awaitable[Response]]

QUOTED_MAX = 100
"""Characters of a peer's header or parameter that a refusal repeats."""

AUTHOR_HEADER = "x-pointsman-author"
"""Header in which a person on this machine says who makes a change, where no token does."""

_AUTHOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@ -]{0,63}")


class Check(StrEnum):
    """A check that refused a request."""

    TOKEN = "token"
    ROLE = "role"
    HOST = "host"
    ORIGIN = "origin"


def caller_of(request: Request) -> Caller:
    """Return who makes a request that the guard let pass."""
    caller: Caller = getattr(request.state, "caller", LOCAL)
    return caller


class Guard:
    """The checks, with the settings they need. `refused` counts refusals of who asks, by check."""

    def __init__(self, tokens: AdminTokens, *, hosts: Iterable[str] = ()) -> None:
        """`hosts` are names besides loopback that `Host` may have where no token is set."""
        self._tokens = tokens
        self._hosts = frozenset(name.lower() for name in hosts)
        self._refused: Counter[Check] = Counter()

    @property
    def refused(self) -> Counter[Check]:
        """Requests that each check refused; includes wrong tokens on the feed."""
        return self._refused + Counter({Check.TOKEN: self._tokens.wrong})

    def guarded(self, endpoint: Endpoint, handler: Handler) -> Handler:
        """The handler of an operation behind all checks; of a public one, behind those of a request without token."""

        async def check_all(request: Request) -> Response:
            caller = await self._caller(request)
            self._check_local(request.headers)
            if not caller.may(endpoint.roles):
                self._refused[Check.ROLE] += 1
                raise refusal("missing-role", _missing(caller, endpoint))
            check_query(request, endpoint.names("query"))
            check_body_type(request.headers, endpoint.media_types)
            request.state.caller = caller
            return await handler(request)

        return self.local(handler) if endpoint.public else check_all

    def local(self, handler: Handler) -> Handler:
        """A handler that asks for no token: it is served to programs on this machine, or wherever a token is set."""

        async def check_then_handle(request: Request) -> Response:
            self._check_local(request.headers)
            return await handler(request)

        return check_then_handle

    async def _caller(self, request: Request) -> Caller:
        peer = request.client.host if request.client else ""
        caller = self._tokens.caller(bearer_token(request.headers), peer)
        if caller is None:
            await self._tokens.slow_down()
            raise wrong_token()
        if caller is LOCAL:
            author = request.headers.get(AUTHOR_HEADER, "")
            return Caller(author, caller.roles) if _AUTHOR.fullmatch(author) else caller
        return caller

    def _check_local(self, headers: Headers) -> None:
        if self._tokens.required:
            return
        given = headers.getlist("host")
        host = host_of(given[0]) if len(given) == 1 else ""
        if not (is_loopback(host) or host in self._hosts):
            self._refused[Check.HOST] += 1
            raise refusal(
                "foreign-caller",
                f"host: {_quoted(', '.join(given))}: without a token only requests to a loopback address or to one "
                "of admin.hosts are served",
            )
        if foreign := foreign_page(headers, given[0]):
            self._refused[Check.ORIGIN] += 1
            raise refusal("foreign-caller", f"{foreign}: a web page of another origin may not use this API")


def _missing(caller: Caller, endpoint: Endpoint) -> str:
    has = ", ".join(sorted(caller.roles))
    needed = " or ".join(endpoint.roles)
    return f"{endpoint.method} {endpoint.path} needs the role {needed}; the token {caller.name!r} has: {has}"


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
            meant = did_you_mean(name, known)
            raise HTTPException(422, f"query: unknown parameter {_quoted(name)}{meant}; {expected}")
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
