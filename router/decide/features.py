"""From what a front received to `RequestFeatures`. Never raises on odd input: what cannot be read is absent.

Two fronts ask in two encodings of one vocabulary (SPOE arguments, form fields); both come here as a mapping of
argument name to value. The body arrives as `lua.pm_body` packed it:

    u16 length, model | u16 length, session | u32 max_tokens | u32 bytes seen | u64 salt | u64 prefix key, ...

prefix keys by the shortest prefix first, all little-endian. The upper bits of the first length say how the model is
known (`Naming`, 2 bits) and whether the request generates nothing (1 bit). A cut or odd packet yields what precedes the
cut."""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from pointsman.contract.prefix_keys import scope_of, scoped
from pointsman.policies.request import NORMAL, Naming, RequestFeatures
from pointsman.router.fleet.alias_table import AliasTable
from pointsman.router.kv.parts import MAX_PROMPT_TOKENS

MAX_SESSION_BYTES = 256
"""Longer session keys are cut: they are table keys, and come from clients."""

MAX_ID_BYTES = 128
MAX_MODEL_BYTES = 256
MAX_PREFIX_KEYS = 128
"""DESIGN of prefix keys: at most 128 boundaries a prompt."""

BYTES_PER_TOKEN = 4
"""English text and code run at 3.5 to 4.5 bytes a token in current vocabularies; only relative load matters here."""

DEFAULT_OUTPUT_TOKENS = 256
"""Expected output where the request sets no bound."""

MAX_BODY_BYTES = 2**40
"""A larger announced length is ignored, and what arrived counts: no body is as long, and the number comes from
clients."""

BELIEVED_BYTES = 16_384
"""Of an announced body so much counts before it has arrived. Where the policy reads no body, HAProxy asks as soon as it
has the headers, and most prompts follow within a millisecond; a client gains 4,096 tokens by announcing them."""

NAMING_SHIFT = 14
GENERATES_NOTHING = 1 << 13
"""In the first length of a packet, above what a length needs."""

TENANT_END = "\0"
"""Between tenant and session where sessions are apart: a key map cannot hold it, so no tenant's name has it."""

Recall = Callable[[str, Naming], "str | None"]
"""The model of a session whose request does not show it, "" where any replica will do, None where nothing tells it."""

ClassOf = Callable[[str, str], int]
"""The priority class of a tenant's request that names a class, or none (empty)."""

MAX_DEADLINE_DIGITS = 9
"""A deadline is at most eleven days away; a longer number is none."""

_NAMINGS = (Naming.NAMED, Naming.ABSENT, Naming.UNSEEN, Naming.UNSEEN)
_LENGTH = struct.Struct("<H")
_COUNTS = struct.Struct("<IIQ")


class BodyFields(NamedTuple):
    """Values read from the body; absent values are empty."""

    model: str = ""
    session: str = ""
    max_tokens: int = 0
    seen_bytes: int = 0
    salt: int = 0
    prefix_keys: tuple[int, ...] = ()
    naming: Naming = Naming.NAMED
    generates: bool = True


NO_BODY = BodyFields()


def text(value: object, limit: int) -> str:
    """An argument as text that can be written as UTF-8 again: bytes that are none are spelled out, anything else is
    absent."""
    if isinstance(value, bytes):
        return value[:limit].decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value[:limit]
    return ""


def unpack_body(packed: bytes) -> BodyFields:
    """Reads the packet of `lua.pm_body`."""
    if len(packed) > 1 and packed[1] >= GENERATES_NOTHING >> 8:
        return _unpack_marked(packed)
    model, at = _unpack_text(packed, 0, MAX_MODEL_BYTES)
    session, at = _unpack_text(packed, at, MAX_SESSION_BYTES)
    if at + _COUNTS.size > len(packed):
        return BodyFields(model, session)
    max_tokens, seen_bytes, salt = _COUNTS.unpack_from(packed, at)
    at += _COUNTS.size
    count = min((len(packed) - at) // 8, MAX_PREFIX_KEYS)
    keys = struct.unpack_from(f"<{count}Q", packed, at)
    return BodyFields(model, session, max_tokens, seen_bytes, salt, keys)


def _unpack_marked(packed: bytes) -> BodyFields:
    """Reads a packet with anything in the upper bits of its first length."""
    first = int.from_bytes(packed[:2], "little")
    rest = unpack_body(_LENGTH.pack(first & (GENERATES_NOTHING - 1)) + packed[2:])
    return rest._replace(naming=_NAMINGS[first >> NAMING_SHIFT], generates=not first & GENERATES_NOTHING)


def _unpack_text(packed: bytes, at: int, limit: int) -> tuple[str, int]:
    """A length-prefixed text and where it ends; a cut one is absent, and so is everything behind it."""
    start = at + _LENGTH.size
    if start > len(packed):
        return "", len(packed)
    end = start + int.from_bytes(packed[at:start], "little")
    if end > len(packed):
        return "", len(packed)
    return text(packed[start:end], limit), end


def extract(
    arguments: Mapping[str, object],
    *,
    isolate_tenants: bool = False,
    isolated: Container[str] = (),
    recall: Recall | None = None,
    aliases: AliasTable | None = None,
) -> RequestFeatures:
    """Features of one lookup. A session named by a header goes before one found in the body.

    Prefix keys are scoped by model and cache salt, and they and sessions by tenant too with `isolate_tenants` or where
    the tenant is `isolated`. recall: asked for a model that the request does not show. The model of a request for one
    of `aliases` is the version that serves it."""
    packed = arguments.get("body")
    body = unpack_body(packed) if isinstance(packed, bytes) and packed else NO_BODY
    size, seen = arguments.get("size"), body.seen_bytes if body is not NO_BODY else arguments.get("seen")
    missing = 0
    # A file that is uploaded is no prompt, however long.
    if type(size) is int and 0 < size <= MAX_BODY_BYTES and body.generates:
        body_bytes = size
        if size > BELIEVED_BYTES and type(seen) is int and size > seen:
            missing = size - max(seen, BELIEVED_BYTES)
    else:
        body_bytes = min(seen, MAX_BODY_BYTES) if type(seen) is int and seen > 0 else 0
    tenant = text(arguments.get("tenant"), 128)
    session = text(arguments.get("session"), MAX_SESSION_BYTES) or body.session
    apart = isolate_tenants or tenant in isolated
    if apart and tenant and session:
        session = f"{tenant}{TENANT_END}{session}"
    model, naming = body.model, body.naming
    if naming and recall is not None:
        known = recall(session, naming)
        if known is not None:
            model, naming = known, Naming.NAMED
    keys, scope, alias = body.prefix_keys, "", ""
    if aliases is not None and model in aliases.by_name:
        alias, model = model, _version(arguments, aliases, model, session, keys)
    if keys:
        whose = tenant if apart else ""
        number = scope_of(model, body.salt, whose)
        if number:
            keys = tuple(scoped(keys, number))
        scope = f"{number:016x} {whose}" if whose else f"{number:016x}"
    features = RequestFeatures(
        request_id=text(arguments.get("id"), MAX_ID_BYTES),
        path=text(arguments.get("path"), 1024),
        model=model,
        naming=naming,
        generates=body.generates,
        session=session,
        tenant=tenant,
        key=text(arguments.get("key"), 64),
        body_bytes=body_bytes,
        missing_bytes=missing,
        max_tokens=body.max_tokens,
        prefix_keys=keys,
        scope=scope,
        policy=text(arguments.get("policy"), 64),
    )
    return replace(features, alias=alias, salt=body.salt) if alias else features


def ranked(features: RequestFeatures, arguments: Mapping[str, object], class_of: ClassOf | None) -> RequestFeatures:
    """The features of a lookup with the class and the deadline that its arguments name, as nearly none do."""
    asked, deadline = arguments.get("priority"), arguments.get("deadline")
    priority = NORMAL
    if class_of is not None and (asked or features.tenant):
        priority = class_of(features.tenant, text(asked, 16) if asked else "")
    deadline_ms = _milliseconds(deadline) if deadline else 0
    if not deadline_ms and priority == NORMAL:
        return features
    return replace(features, priority=priority, deadline_ms=deadline_ms)


def _milliseconds(value: object) -> int:
    """A number of milliseconds as a client wrote it; 0 for none, and for one that is no such number."""
    digits = text(value, MAX_DEADLINE_DIGITS + 1)
    if len(digits) > MAX_DEADLINE_DIGITS or not (digits.isascii() and digits.isdigit()):
        return 0
    return int(digits)


def _version(
    arguments: Mapping[str, object], aliases: AliasTable, alias: str, session: str, keys: tuple[int, ...]
) -> str:
    """The version of an alias that serves a request."""
    asked, request_id = text(arguments.get("version"), MAX_MODEL_BYTES), text(arguments.get("id"), MAX_ID_BYTES)
    return aliases.choose(alias, session, keys, request_id, asked)


def expected_tokens(features: RequestFeatures, limit: float = MAX_PROMPT_TOKENS) -> int:
    """Tokens the request will hold in a replica's KV cache at its end: prompt by the bytes that arrived, output by its
    own bound, together at most `limit`."""
    tokens = (features.body_bytes - features.missing_bytes) // BYTES_PER_TOKEN
    if features.generates:
        tokens += features.max_tokens or DEFAULT_OUTPUT_TOKENS
    return tokens if tokens <= limit else int(limit)
