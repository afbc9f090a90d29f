"""Field extraction from a request body that may be cut off: what HAProxy reads without parsing JSON.

A field counts where its quoted name stands as a key of an object: after `{` or `,`, before `:`, its value a string
without escapes and control characters (at most 256 bytes) or a run of decimal digits. Depth is not tracked. Since
nested objects live in the prompt, the part before it (from the start to the first prompt key, at most 4 KiB) is
searched first and its first match wins, then the last 2 KiB of what follows, where the last match wins. A `cache_salt`
may be as long as the part that is searched and may have escapes, but what stands behind an escaped quote does not
count. Never raises.

The Python twin of the part "Fields" of haproxy/lua/pointsman.lua. The model has rules of its own (`body_model.py`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from xxhash import xxh64_intdigest

from pointsman.contract.prefix_keys import prompt_start

FIELD_MAX_BYTES = 256
HEAD_BYTES = 4096
TAIL_BYTES = 2048
MAX_TOKENS_LIMIT = 2**32 - 1

_STRING = rb'[ \t\r\n]*:[ \t\r\n]*"([^"\\\x00-\x1f\x7f]*)"'
_SALT = rb'[ \t\r\n]*:[ \t\r\n]*"([^"]+)"'
_NUMBER = rb"[ \t\r\n]*:[ \t\r\n]*([0-9]+)"


def _patterns(value: bytes, *names: bytes) -> tuple[re.Pattern[bytes], ...]:
    return tuple(re.compile(rb'[{,][ \t\r\n]*"%s"%s' % (name, value)) for name in names)


_SESSION = _patterns(_STRING, b"prompt_cache_key", b"previous_response_id", b"session_id", b"user")
_CACHE_SALT = _patterns(_SALT, b"cache_salt")
_MAX_TOKENS = _patterns(_NUMBER, b"max_tokens", b"max_completion_tokens", b"max_output_tokens")


class BodyFields(NamedTuple):
    """Fields of a body; missing values are empty or 0."""

    session: bytes = b""
    max_tokens: int = 0
    salt: int = 0
    """Names the cache salt, `pointsman.contract.prefix_keys.salt_of` where it has no escapes; 0 without one."""


def _value(part: bytes, pattern: re.Pattern[bytes], max_bytes: int, *, last: bool) -> bytes | None:
    found = None
    for match in pattern.finditer(part):
        value = match[1]
        if len(value) <= max_bytes:
            if not last:
                return value
            found = value
    return found


def _field(
    head: bytes, tail: bytes, patterns: tuple[re.Pattern[bytes], ...], max_bytes: int = FIELD_MAX_BYTES
) -> bytes | None:
    for pattern in patterns:
        value = _value(head, pattern, max_bytes, last=False)
        if value is None:
            value = _value(tail, pattern, max_bytes, last=True)
        if value is not None:
            return value
    return None


def body_fields(body: bytes, *, wants_session: bool = True, wants_salt: bool = True) -> BodyFields:
    """Session key, output limit and salt of `body`; the session is not looked for when a header gave one, the
    salt only where prefix keys are."""
    start = prompt_start(body)
    head = body[: min(len(body) if start < 0 else start, HEAD_BYTES)]
    tail = body[max(start, len(body) - TAIL_BYTES) :] if start >= 0 else b""
    session = _field(head, tail, _SESSION) if wants_session else None
    max_tokens = _field(head, tail, _MAX_TOKENS)
    salt = _field(head, tail, _CACHE_SALT, HEAD_BYTES) if wants_salt else None
    return BodyFields(session or b"", min(int(max_tokens or 0), MAX_TOKENS_LIMIT), xxh64_intdigest(salt) if salt else 0)
