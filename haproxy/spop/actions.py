"""Actions of an ACK (SPOE.txt 3.4): variables of HAProxy that an agent sets or unsets. Values to bytes, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from pointsman.haproxy.spop.errors import UsageError
from pointsman.haproxy.spop.typed_data import DataType, VariableValue, encode_typed
from pointsman.haproxy.spop.varint import encode_varint


class Scope(IntEnum):
    """Scopes of variables (SPOE.txt 3.4)."""

    PROC = 0
    SESS = 1
    TXN = 2
    REQ = 3
    RES = 4


class ActionType(IntEnum):
    """Actions of an ACK (SPOE.txt 3.4)."""

    SET_VAR = 1
    UNSET_VAR = 2


class SetVar(NamedTuple):
    """Give a variable a value. HAProxy puts its `var-prefix` before the name and ignores names it does not know."""

    scope: Scope
    name: str
    value: VariableValue


class UnsetVar(NamedTuple):
    """Make a variable undefined."""

    scope: Scope
    name: str


Action = SetVar | UnsetVar


def encode_actions(actions: Iterable[Action]) -> bytes:
    """The payload of an ACK: LIST-OF-ACTIONS (SPOE.txt 3.4). UsageError for a value or name SPOP cannot hold."""
    encoded = []
    for action in actions:
        if isinstance(action, SetVar):
            encoded.append(encode_set_var(action.scope, action.name, action.value))
        else:
            encoded.append(_encode_action(ActionType.UNSET_VAR, 2, action.scope, action.name))
    return b"".join(encoded)


def encode_set_vars(scope: Scope, values: Mapping[str, VariableValue]) -> bytes:
    """The payload of an ACK that sets these variables of one scope; short texts come from a cache."""
    encoded = []
    for name, value in values.items():
        if type(value) is str and len(value) <= _CACHED_TEXT_CHARS:
            encoded.append(_encode_set_text(scope, name, value))
        else:
            encoded.append(_encode_set_head(scope, name) + encode_typed(value))
    return b"".join(encoded)


def encode_set_var(scope: Scope, name: str, value: VariableValue) -> bytes:
    """One set-var action; one with a short text comes from a cache."""
    if type(value) is str and len(value) <= _CACHED_TEXT_CHARS:
        return _encode_set_text(scope, name, value)
    return _encode_set_head(scope, name) + encode_typed(value)


def text_setter(scope: Scope, name: str) -> Callable[[bytes], bytes]:
    """A function that makes the set-var action of one variable from a text of up to `SHORT_TEXT_BYTES` in UTF-8.

    For a variable whose texts are seldom the same twice: most of the action is made here once. The function raises
    UsageError for a longer text.
    """
    head = _encode_set_head(scope, name) + bytes((DataType.STRING,))

    def set_text(text: bytes) -> bytes:
        if len(text) > SHORT_TEXT_BYTES:
            raise UsageError(f"at most {SHORT_TEXT_BYTES} bytes are expected, not {len(text)}")
        return b"%b%c%b" % (head, len(text), text)

    return set_text


SHORT_TEXT_BYTES = 239
"""Longest text whose length is one byte of a varint (SPOE.txt 3.1)."""

_CACHED_TEXT_CHARS = 64
"""As long as a HAProxy server name of ours may be. Longer texts are not likely to come twice."""
_CACHED_VARIABLES = 4096
"""Pairs of a name and a text: a few variables times the replicas of a large fleet."""


@lru_cache(_CACHED_VARIABLES)
def _encode_set_text(scope: Scope, name: str, text: str) -> bytes:
    return _encode_set_head(scope, name) + encode_typed(text)


@lru_cache(_CACHED_VARIABLES)
def _encode_set_head(scope: Scope, name: str) -> bytes:
    return _encode_action(ActionType.SET_VAR, 3, scope, name)


def _encode_action(action: ActionType, nb_args: int, scope: Scope, name: str) -> bytes:
    if not name or not name.isascii():
        raise UsageError(f"a variable needs a name of ASCII characters, not {name!r}")
    return bytes((action, nb_args, scope)) + encode_varint(len(name)) + name.encode()
