"""The HTTP lookup front: the same question and answer as SPOE, for `lookup: lua` and for people with curl.

`POST /lookup` takes form fields named as the SPOE arguments and answers lines of `key=value`: trivial to read in Lua,
which has no JSON, and for the eye.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pointsman.contract.http_api import read_body
from pointsman.policies.decision import Decision
from pointsman.router.fronts.deciding import RATES_VARIABLE, TRACE_VARIABLE, Decider
from pointsman.router.fronts.hosts import host_of, is_loopback
from pointsman.router.tenancy.account import NOTHING_LEFT

MAX_FORM_BYTES = 16_384
"""The body packet is at most 1.6 KB and percent-encoding at most triples it; the rest are short names."""

MAX_SIZE_DIGITS = 19
MAX_SIZE = 2**63 - 1
"""Bytes of a request's body: HAProxy counts them in a signed integer of 64 bits, here and over SPOE."""

HAPROXY_HOST = b"pointsman"
"""`Host` of HAProxy's requests (haproxy/lua/pointsman.lua)."""


class FormReader:
    """Reads the forms of lookups, and refuses those that a web page sent.

    Nobody is asked for a token here. A browser adds `Origin` or `Sec-Fetch-Site` to every POST, HAProxy and programs
    add neither; and where the listener is on loopback, `Host` is that of HAProxy or a loopback address, which a page
    that rebinds its own name cannot send.
    """

    def __init__(self, *, loopback: bool) -> None:
        """loopback: whether only programs of this machine can connect, over TCP."""
        self._loopback = loopback

    async def read(self, request: Request) -> dict[str, object]:
        """Return the arguments of a lookup. Raises HTTPException for a web page, or a form too large or malformed."""
        self._refuse_pages(request)
        return decode_form(await read_body(request, MAX_FORM_BYTES))

    def _refuse_pages(self, request: Request) -> None:
        # One pass over the few headers as they came: this is on the path of each lookup that Lua makes.
        for name, value in request.scope["headers"]:
            if name == b"host":
                local = value == HAPROXY_HOST or not self._loopback or is_loopback(host_of(value.decode("latin-1")))
                if not local:
                    raise HTTPException(403, "host: only requests to a loopback address are served")
            elif name in (b"origin", b"sec-fetch-site"):
                raise HTTPException(403, f"{name.decode()}: web pages may not ask for decisions")


class LookupFront:
    """One route over the decider, with the routes of whatever else HAProxy asks this listener."""

    def __init__(self, decider: Decider, forms: FormReader, *others: Route) -> None:
        self._decider = decider
        self._forms = forms
        self._others = others

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/lookup", self.lookup, methods=["POST"]), *self._others])

    async def lookup(self, request: Request) -> Response:
        form = await self._forms.read(request)
        decision = self._decider.lookup(form)
        limits = self._decider.limits
        left = limits.left() if limits.active else NOTHING_LEFT
        return PlainTextResponse(encode_lines(decision, left) + trace_line(self._decider, decision, form))


def decode_form(form: bytes) -> dict[str, object]:
    """Return the fields of a form; values are bytes but for `size` and `seen`, which are numbers of bytes.

    Of a repeated field the last counts; an empty number is none. Raises HTTPException (400) for any other number.
    """
    fields: dict[str, object] = {}
    for pair in form.split(b"&"):
        name, _, value = pair.partition(b"=")
        fields[name.decode("ascii", "replace")] = unquote_to_bytes(value.replace(b"+", b" "))
    for number in ("size", "seen"):
        digits = fields.pop(number, b"")
        if digits:
            fields[number] = _size(digits)
    return fields


def _size(value: object) -> int:
    # int() is quadratic in the number of digits, so they are counted first.
    if isinstance(value, bytes) and value.isdigit() and len(value) <= MAX_SIZE_DIGITS and int(value) <= MAX_SIZE:
        return int(value)
    raise HTTPException(400, f"size: a number of bytes up to {MAX_SIZE} is expected")


def trace_line(decider: Decider, decision: Decision, form: dict[str, object]) -> str:
    """Return the line that has HAProxy send a `traceparent` to the replica; empty for a request that is not traced.

    One that is held is asked for once more, and traced then.
    """
    if decider.trace is None or decision.hold_ms:
        return ""
    traceparent = decider.trace(form)
    return f"{TRACE_VARIABLE}={traceparent}\n" if traceparent else ""


def encode_lines(decision: Decision, left: bytes = NOTHING_LEFT) -> str:
    """Return a decision as lines of `name=value`, for the variables that are set, and what is `left` of limits."""
    variables = decision.variables()
    if left:
        variables[RATES_VARIABLE] = left.decode()
    return "".join(f"{name}={value}\n" for name, value in variables.items())
