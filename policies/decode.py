"""Strict decoding of one policy's configuration: what is wrong is named by key, value and what was expected.

msgspec checks; this module says it in words an operator can act on, since msgspec's own messages name a type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import inspect

from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.policy import PolicyConfig

ConfigT = TypeVar("ConfigT", bound=PolicyConfig)


def join(path: str, key: str) -> str:
    """The dotted path of a key below another."""
    return f"{path}.{key}" if path else key


def decode_config(config: type[ConfigT], values: Mapping[str, object], path: str = "") -> ConfigT:
    """A policy's configuration from plain values, without its `policy` key; `path` is where they stand.

    Raises PolicyConfigError for an unknown key, a missing one, a value of the wrong type or out of range, and for a
    ValueError of the configuration's own `__post_init__`, which may judge fields together.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(config)}
    for key, value in values.items():
        if key not in fields:
            known = ", ".join(("policy", *fields))
            raise PolicyConfigError(join(path, str(key)), value, f"one of the keys {known}", problem="unknown key")
        try:
            msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as error:
            raise PolicyConfigError(join(path, key), value, _expected(fields[key].type, error)) from error
    for key, field in fields.items():
        if field.required and key not in values:
            raise PolicyConfigError(join(path, key), None, describe_type(field.type), problem="missing")
    try:
        return msgspec.convert(dict(values), config)
    except msgspec.ValidationError as error:
        raise PolicyConfigError(path, dict(values), f"values that go together: {error}") from error


def _expected(kind: object, error: msgspec.ValidationError) -> str:
    # An inner path means that the value has the right shape and a part of it is wrong, which msgspec says best.
    return str(error) if " - at `$" in str(error) else describe_type(kind)


def describe_type(kind: object) -> str:
    """A field's type as a phrase: `an integer from 1 to 1000`, `'requests' or 'tokens'`."""
    return _phrase(inspect.type_info(kind))


def _phrase(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata(type=inner):
            return _phrase(inner)
        case inspect.UnionType(types=types):
            return " or ".join(_phrase(one) for one in types)
        case inspect.IntType():
            return f"an integer{_range(info)}"
        case inspect.FloatType():
            return f"a number{_range(info)}"
        case inspect.LiteralType(values=values):
            return " or ".join(repr(value) for value in values)
        case inspect.StrType():
            return "a string"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case inspect.DictType() | inspect.StructType():
            return "an object"
        case inspect.ListType() | inspect.VarTupleType() | inspect.TupleType():
            return "a list"
        case _:
            return type(info).__name__.removesuffix("Type").lower()


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge:g} to {info.le:g}"
    bounds = {"at least": info.ge, "above": info.gt, "at most": info.le, "below": info.lt}
    said = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    return f" {' and '.join(said)}" if said else ""
