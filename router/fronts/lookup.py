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

from policies.types import Decision
from router.fronts.deciding import Decider

MAX_FORM_BYTES = 16_384
"""The body packet is at most 1.6 KB and percent-encoding at most triples it; the rest are short names."""

MAX_DIGITS = 20
"""HAProxy counts bytes in 64 bits."""


class LookupFront:
    """One route over the decider, beside what else HAProxy asks this listener."""

    def __init__(self, decider: Decider, *others: Route) -> None:
        self._decider = decider
        self._others = others

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/lookup", self.lookup, methods=["POST"]), *self._others])

    async def lookup(self, request: Request) -> Response:
        return PlainTextResponse(encode_answer(self._decider.lookup(await read_form(request))))


async def read_form(request: Request) -> dict[str, object]:
    """The arguments of a lookup. Raises HTTPException for a form too large."""
    form = bytearray()
    async for chunk in request.stream():
        form += chunk
        if len(form) > MAX_FORM_BYTES:
            raise HTTPException(413, f"form: at most {MAX_FORM_BYTES} bytes are expected")
    return decode_form(bytes(form))


def decode_form(form: bytes) -> dict[str, object]:
    """Fields of a form; values are bytes but for `size` and `seen`, which are numbers, absent where they are none. A
    repeated field counts once, the last."""
    fields: dict[str, object] = {}
    for pair in form.split(b"&"):
        name, _, value = pair.partition(b"=")
        fields[name.decode("ascii", "replace")] = unquote_to_bytes(value.replace(b"+", b" "))
    for number in ("size", "seen"):
        digits = fields.pop(number, b"")
        if isinstance(digits, bytes) and digits.isdigit() and len(digits) <= MAX_DIGITS:
            fields[number] = int(digits)
    return fields


def encode_answer(decision: Decision) -> str:
    """Lines of the variables that are set."""
    lines = [f"reason={decision.reason}"]
    if decision.first:
        lines.append(f"first={decision.first}")
    if decision.second:
        lines.append(f"second={decision.second}")
    if decision.prefill_address:
        lines.append(f"prefill={decision.prefill_address}")
    if decision.scope:
        lines.append(f"scope={decision.scope}")
    if decision.status:
        lines.append(f"status={decision.status}")
        lines.append(f"retry_after={decision.retry_after_s}")
    if decision.hold_ms:
        lines.append(f"hold={decision.hold_ms}")
    if decision.once:
        lines.append("once=1")
    if decision.silence_ms:
        lines.append(f"silence={decision.silence_ms}")
    if decision.model:
        lines.append(f"model={decision.model}")
    return "\n".join(lines) + "\n"
