"""The model a request's body names, read as a JSON parser would, from a body that may be cut off.

What counts is the value of `model` in the outermost object, the last one where there are several, with escapes decoded;
of a form (multipart/form-data) the field `model`, the last one too. The structure is followed only as far as something
stands ahead that can be the key. A name that was read is looked for once more before the prompt and in the last 2 KiB
alone. Of a body that is no JSON something is read, or nothing; never raises.

The Python twin of the part "The model" of haproxy/lua/pointsman.lua, function by function: both must agree on any
bytes, so shortcuts are the same ones. HAProxy runs the Lua; the router uses the twin to explain a request that HAProxy
was not sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

NAMED, ABSENT, UNSEEN = 0, 1, 2
"""Ways to know a model: it was read; a body that was seen whole has none; it was not found in what was seen."""

FIELD_MAX_BYTES = 256
TAIL_BYTES = 2048
MAX_STEPS = 20_000
"""Strings and brackets followed in one body; the model of one that has more counts as not found."""

MAX_PARTS = 2000
"""Parts of a form that are looked at."""

MAX_BOUNDARY_BYTES = 72
"""RFC 2046 5.1.1: at most 70 characters, behind two hyphens."""

_MAX_RAW_MODEL_BYTES = 6 * FIELD_MAX_BYTES
_LONGEST_MODEL_KEY = 32
_SHORT_GAP = 16
_MODEL_KEY, _ESCAPED_LETTER = b'"model"', rb"\u006"
_UNREADABLE = b"\0"
_MODEL_FIRST = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"model"[ \t\r\n]*:[ \t\r\n]*"([^"\\\x00-\x1f\x7f]+)"')
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_BOUNDARY = re.compile(rb"(--[^\r\n]+)\r\n")
_MODEL_PART = re.compile(rb'\ncontent-disposition:[^\r\n]*;[ \t]*name="?model"?[ \t]*[;\r]')
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_UNICODE = re.compile(rb"([0-9A-Fa-f]{4})(?:\\u([dD][c-fC-F][0-9A-Fa-f]{2}))?")
_UNESCAPED = {
    b'"': b'"', b"\\": b"\\", b"/": b"/", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t",
}  # fmt: skip
_BRACKETS = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}


class BodyModel(NamedTuple):
    """The model a body names; empty unless it is NAMED."""

    name: bytes
    naming: int


Meet = Callable[[int, bytes, int], int | None]
"""Depth, key and position of the value -> where to read on, None to stop."""


def _unescaped(raw: bytes) -> bytes | None:
    """The text of a JSON string, given without its quotes; None where it is none."""
    parts, at = [], 0
    while (escape := raw.find(b"\\", at)) >= 0:
        parts.append(raw[at:escape])
        letter = raw[escape + 1 : escape + 2]
        at = escape + 2
        if letter == b"u":
            digits = _UNICODE.match(raw, at)
            if digits is None:
                return None
            code, stop = int(digits[1], 16), digits.end(1)
            if 0xD800 <= code < 0xE000:
                if code >= 0xDC00 or digits[2] is None:
                    return None
                code, stop = 0x10000 + ((code - 0xD800) << 10) + int(digits[2], 16) - 0xDC00, digits.end()
            parts.append(chr(code).encode())
            at = stop
        elif letter in _UNESCAPED:
            parts.append(_UNESCAPED[letter])
        else:
            return None
    parts.append(raw[at:])
    return b"".join(parts)


def is_name(text: bytes | None) -> bool:
    """Whether a text can be the name of a model."""
    return bool(text) and len(text or b"") <= FIELD_MAX_BYTES and _CONTROL.search(text or b"") is None


def _string_end(s: bytes, start: int) -> int:
    """Where the string ends whose opening quote is at `start`; -1 where it is cut."""
    at = start
    while (at := s.find(b'"', at + 1)) >= 0:
        before = at - 1
        while s[before] == 0x5C:
            before -= 1
        if (at - before) % 2:
            return at
    return -1


def _nesting(s: bytes, first: int, stop: int) -> tuple[int, int]:
    """Number of brackets opened beyond those closed from `first` to before `stop`, and of steps taken."""
    gap = s[first:stop]
    counts = {bracket: gap.count(bracket) for bracket in _BRACKETS}
    depth = sum(change * counts[bracket] for bracket, change in _BRACKETS.items())
    return depth, 0 if len(gap) <= _SHORT_GAP else sum(counts.values())


def _escaped_letter(s: bytes, at: int) -> int:
    return s.find(_ESCAPED_LETTER, at)


def _again_ahead(s: bytes, at: int, start: int) -> bool:
    """Whether something that can be the key stands in s from `at` on: in front of the prompt, or in the tail."""
    if start - at > len(_MODEL_KEY) and (_MODEL_KEY in s[at:start] or _ESCAPED_LETTER in s[at:start]):
        return True
    tail = s[max(at, len(s) - TAIL_BYTES) :]
    return _MODEL_KEY in tail or _ESCAPED_LETTER in tail


def _model_value(s: bytes, at: int) -> tuple[bytes, int] | None:
    """The model whose value begins at `at`, or b"", and where to read on; None where it is cut."""
    if s[at : at + 1] != b'"':
        return b"", at
    close = _string_end(s, at)
    if close < 0:
        return None
    name = None if close - at > _MAX_RAW_MODEL_BYTES else _unescaped(s[at + 1 : close])
    return _UNREADABLE if name is None else name, close + 1


def _walk(s: bytes, at: int, level: int | None, meet: Meet) -> tuple[int | None, bool]:
    """Goes over s from `at`, outside of strings, from string to string. Where a pair begins, at depth `level` if that
    is given, `meet` says where to go on. The depth at the end, counted from `at`, or None where the walk ended before;
    and whether that was for its length."""
    depth = steps = 0
    while True:
        opening = s.find(b'"', at)
        change, count = _nesting(s, at, opening if opening >= 0 else len(s))
        depth += change
        steps += count + 1
        if steps > MAX_STEPS:
            return None, True
        if opening < 0:
            return depth, False
        close = _string_end(s, opening)
        if close < 0:
            return None, False
        at = close + 1
        if (level is None or depth == level) and close - opening < _LONGEST_MODEL_KEY:
            colon = _COLON.match(s, at)
            if colon is not None:
                after = meet(depth, s[opening + 1 : close], colon.end())
                if after is None:
                    return None, False
                at = after


def begins_pair(s: bytes, at: int) -> bool:
    """Whether the key at `at` stands behind `{` or `,` as the key of an object does."""
    return s[:at].rstrip(b" \t\r\n")[-1:] in (b"{", b",")


def _model_in_tail(s: bytes) -> bytes | None:
    """The model that the tail of a whole body names: of the keys met on the way to its end those are in the outermost
    object that only one more bracket closes."""
    tail = max(len(s) - TAIL_BYTES, 0)
    at = s.find(_MODEL_KEY, tail)
    while at >= 0 and not (_COLON.match(s, at + len(_MODEL_KEY)) and begins_pair(s, at)):
        at = s.find(_MODEL_KEY, at + 1)
    if at < 0 or _escaped_letter(s, tail) >= 0:
        return None
    models: dict[int, bytes] = {}

    def meet(depth: int, key: bytes, value: int) -> int | None:
        if key != b"model":
            return value
        found = _model_value(s, value)
        if found is None:
            return None
        models[depth], after = found
        return after

    last, _ = _walk(s, at, None, meet)
    return None if last is None else models.get(last + 1)


def _model_from_start(s: bytes, start: int) -> bytes | None:
    """The model that s names, read from its start for as long as the key can stand ahead; None where it does not."""
    plain, escaped = s.find(_MODEL_KEY), _escaped_letter(s, 0)
    model: bytes | None = None

    def meet(_: int, key: bytes, at: int) -> int | None:
        nonlocal plain, escaped, model
        if _unescaped(key) == b"model":
            found = _model_value(s, at)
            if found is None:
                model = None
                return None
            model, at = found
            if not _again_ahead(s, at, start):
                return None
        if 0 <= plain < at:
            plain = s.find(_MODEL_KEY, at)
        if 0 <= escaped < at:
            escaped = _escaped_letter(s, at)
        return at if plain >= 0 or escaped >= 0 else None

    if plain >= 0 or escaped >= 0:
        _, exhausted = _walk(s, 0, 1, meet)
        if exhausted:
            return _UNREADABLE
    return model


def _form_model(s: bytes, delimiter: bytes) -> tuple[bytes | None, bool]:
    """The field `model` of a form whose parts are divided by `delimiter`; whether the form was seen to its end."""
    model, at = None, len(delimiter)
    for _ in range(MAX_PARTS):
        head_end = s.find(b"\r\n\r\n", at)
        stop = s.find(delimiter, head_end + 3) if head_end >= 0 else -1
        if stop < 0:
            return model, False
        if _MODEL_PART.search(s[at : head_end + 4].lower()):
            model = s[head_end + 4 : stop]
        at = stop + len(delimiter)
        if s[at : at + 2] == b"--":
            return model, True
    return model, False


def body_model(body: bytes, start: int = -1, *, announced: int | None = None) -> BodyModel:
    """The model of `body`, the part that was seen of one. `start`: where its prompt begins, -1 without one.
    `announced`: how long the whole body is; None where nobody said, then it is whole when all its brackets are
    closed."""
    if start < 0:
        start = len(body)
    first = _MODEL_FIRST.match(body)
    if first is not None and len(first[1]) <= FIELD_MAX_BYTES and not _again_ahead(body, first.end(), start):
        return BodyModel(first[1], NAMED)
    boundary = _BOUNDARY.match(body)
    model: bytes | None
    if boundary is not None and len(boundary[1]) <= MAX_BOUNDARY_BYTES:
        model, whole = _form_model(b"\r\n" + body, b"\r\n" + boundary[1])
    else:
        if announced is not None:
            whole = announced == len(body)
        else:
            whole = _walk(body, 0, 1, lambda _depth, _key, at: at)[0] == 0
        model = _model_in_tail(body) if whole else None
        if model is None:
            model = _model_from_start(body, start)
    if is_name(model):
        return BodyModel(model or b"", NAMED)
    return BodyModel(b"", ABSENT if model == b"" or (model is None and whole) else UNSEEN)
