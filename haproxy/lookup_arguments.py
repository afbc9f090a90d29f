"""Arguments of a lookup: the words of HAProxy to the router about one request.

The Python twin of the request rules of `templates/haproxy.cfg.j2` and of the digest in `lua/pointsman.lua`. HAProxy
runs those; the router uses the twin to explain a request that HAProxy was not sent. Both must agree on any request,
byte for byte, so that what is explained is what would be decided.

One value is no more than near: how much HAProxy sees of a body that is longer than its window, since that depends on
the rest of the request head and on how the bytes arrive.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pointsman.contract.prefix_keys import prefix_keys, prompt_start
from pointsman.haproxy.body_fields import body_fields
from pointsman.haproxy.body_model import ABSENT, NAMED, body_model, is_name
from pointsman.haproxy.config import HEAD_ROOM_BYTES, REWRITE_ROOM_BYTES
from pointsman.haproxy.lookup_rules import LookupRules

NEEDS_FIELDS, NEEDS_KEYS, NEEDS_FIELDS_WITHOUT_SESSION, NEEDS_MODELS = 1, 2, 4, 8
"""Bits of `proc.pm.body`."""

MODEL_ALONE = 8
"""Value of `txn.pm.body` for a request that generates nothing: the model decides, nothing else of the body counts."""

NAMING_SHIFT, GENERATES_NOTHING = 14, 1 << 13
"""In the first length of a packet, above what a length needs."""

OVERRIDE_HEADER = "x-pointsman-policy"

EMPTY_HEAD_BYTES = 230
"""Bytes of a buffer that a request head without headers of its own takes: the start line, `Host`,
`Content-Length`, and what HAProxy adds."""

HEADER_BYTES = 8
"""Bytes of a buffer that a header takes besides its name and its value."""


class PlainRequest(NamedTuple):
    """A POST request as a client sends it."""

    path: str
    """Without the query."""
    headers: Sequence[tuple[str, str]] = ()
    """Names and values, in their order."""
    body: bytes = b""

    def first(self, name: str) -> str | None:
        """Value of the first header of a name; None without one."""
        return next(self._values(name), None)

    def last(self, name: str) -> str | None:
        """Value of the last header of a name; None without one."""
        return next(iter([*self._values(name)][::-1]), None)

    def _values(self, name: str) -> Iterator[str]:
        # HTTP takes blanks around a value away.
        return (value.strip(" \t") for key, value in self.headers if key.lower() == name.lower())


def is_asked(path: str, rules: LookupRules, needs: int) -> bool:
    """Return whether HAProxy asks the router about a POST to a path.

    needs: value of `proc.pm.body`.
    """
    return path in rules.generation_paths or bool(needs & NEEDS_MODELS)


def lookup_arguments(
    request: PlainRequest, rules: LookupRules, *, needs: int, window_bytes: int, tenant: str = "", key: str = ""
) -> dict[str, object]:
    """Return the arguments of a lookup, without the request id that HAProxy makes.

    needs: value of `proc.pm.body`.
    window_bytes: how far HAProxy looks into bodies.
    tenant: of the request's API key; empty where none is asked for.
    key: id of the API key, if it was made at the router.
    """
    parts = needs if request.path in rules.generation_paths else MODEL_ALONE
    session = next(filter(None, (request.first(name) for name in rules.session_headers)), "")
    if parts == NEEDS_FIELDS_WITHOUT_SESSION and session:
        parts = 0
    texts = {"path": request.path, "session": session, "tenant": tenant, "key": key}
    if rules.policy_override:
        texts["policy"] = request.first(OVERRIDE_HEADER) or ""
    arguments: dict[str, object] = {name: _encoded(text) for name, text in texts.items() if text}
    arguments["size"] = len(request.body)
    if parts:
        arguments["body"] = _digest(request, rules, parts, window_bytes, wants_session=not session)
    else:
        arguments["seen"] = len(request.body)
    return arguments


def seen_bytes(request: PlainRequest, window_bytes: int) -> int:
    """Return how much of a body HAProxy sees: all of it, or about as much as there is room for behind the head."""
    head = EMPTY_HEAD_BYTES + sum(HEADER_BYTES + len(name) + len(value) for name, value in request.headers)
    room = window_bytes + max(0, HEAD_ROOM_BYTES - REWRITE_ROOM_BYTES - head)
    return min(len(request.body), room)


def _digest(request: PlainRequest, rules: LookupRules, parts: int, window_bytes: int, *, wants_session: bool) -> bytes:
    """Return the packet of `lua.pm_body`, as `pointsman.router.decide.features` describes it."""
    body = request.body[: seen_bytes(request, window_bytes)]
    if parts == MODEL_ALONE:
        model, naming = _wanted_model(request, rules, body, generates=False)
        return _packed(model, naming, GENERATES_NOTHING, b"", 0, len(body), 0)
    wants_keys = bool(parts & NEEDS_KEYS)
    model, naming, session, max_tokens, salt = b"", NAMED, b"", 0, 0
    if parts & (NEEDS_KEYS | NEEDS_FIELDS) or (parts & NEEDS_FIELDS_WITHOUT_SESSION and wants_session):
        model, naming = _wanted_model(request, rules, body, generates=True)
        session, max_tokens, salt = body_fields(body, wants_session=wants_session, wants_salt=wants_keys)
    keys = prefix_keys(body) if wants_keys else ()
    return _packed(model, naming, 0, session, max_tokens, len(body), salt, *keys)


def _packed(
    model: bytes, naming: int, flags: int, session: bytes, max_tokens: int, seen: int, salt: int, *keys: int
) -> bytes:
    first = len(model) | naming << NAMING_SHIFT | flags
    head = struct.pack(
        f"<H{len(model)}sH{len(session)}sIIQ", first, model, len(session), session, max_tokens, seen, salt
    )
    return head + struct.pack(f"<{len(keys)}Q", *keys)


def _wanted_model(request: PlainRequest, rules: LookupRules, body: bytes, *, generates: bool) -> tuple[bytes, int]:
    """Return the model that a request wants, and how that is known. Where the body does not show it, a header or the
    path may say it."""
    announced = len(request.body) if request.first("transfer-encoding") is None else None
    model, naming = body_model(body, prompt_start(body), announced=announced)
    if naming == NAMED:
        return model, naming
    header = request.last(rules.model_header) if rules.model_header else None
    for other in (header, rules.path_models.get(request.path)):
        if other is not None and is_name(_encoded(other)):
            return _encoded(other), NAMED
    if naming == ABSENT and not generates:
        return b"", NAMED
    return model, naming


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
