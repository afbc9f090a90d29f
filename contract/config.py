"""Configuration from text to structs: the one strict decoder, and the files and flags it decodes.

Whatever is not understood is refused by a `ConfigurationError` with source, key, value and expectation, so that a
typing error never becomes a default. msgspec decodes; this module finds the value that msgspec refuses and describes
its type in words that an operator can act on, since msgspec's own messages name a Python type and no value.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
import yaml
from msgspec import inspect

from pointsman.contract.errors import ConfigurationError

T = TypeVar("T")

NAME_MAX = 64
"""Characters of an unknown name that are compared with the known ones."""

KEYS_LISTED = 12
"""Known keys that a sentence lists where it names the nearest one; more would hide that one."""

_REFUSAL = re.compile(r"(?P<message>.*?)(?: - at `(?P<of_key>key` in `)?\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>\d+)\]|(?P<any>\[\.\.\.\])")
_FIELD = re.compile(r"Object (?P<what>contains unknown|missing required) field `(?P<field>.*)`$", re.DOTALL)


def read_mapping(path: Path, source: str, *, error: type[ConfigurationError] = ConfigurationError) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, empty for an empty file; errors, of type `error`, call the file `source`."""
    expected = "a file with a mapping in YAML or JSON"
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as problem:
        raise error("", None, expected, f"cannot be read: {problem.strerror}", source) from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise error("", None, expected, f"not YAML: {problem}", source) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise error("", document, expected, f"found a {type(document).__name__}", source)
    return document


def parse_value(text: str, source: str, *, error: type[ConfigurationError] = ConfigurationError) -> Any:
    """A value given as text: a mapping or list in YAML or JSON, else the text itself, which `decode` turns into what
    the key wants (so that a token of digits stays a token)."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise error("", text, f"YAML or JSON: {problem}", source=source) from None


def decode(
    values: Any,
    into: type[T],
    *,
    at: str = "",
    source: str | Mapping[str, str] = "",
    error: type[ConfigurationError] = ConfigurationError,
    strict: bool = True,
    known: tuple[str, ...] = (),
) -> T:
    """A struct from plain values. Raises `error` for the first value that does not fit.

    at: dotted path of the values in their document, empty for the whole document.
    source: where the values come from; several sources as a mapping from the path of a key, "" for the rest.
    strict: whether text is refused where a number or a boolean is expected, as flags and environment variables give it.
    known: keys of the same mapping that are decoded elsewhere, to be named when an unknown one is refused.
    """
    try:
        return msgspec.convert(values, into, strict=strict)
    except msgspec.ValidationError as refusal:
        raise explain(refusal, values, into, at=at, source=source, error=error, strict=strict, known=known) from refusal


def explain(
    refusal: msgspec.ValidationError,
    values: Any,
    into: Any,
    *,
    at: str = "",
    source: str | Mapping[str, str] = "",
    error: type[ConfigurationError] = ConfigurationError,
    strict: bool = True,
    known: tuple[str, ...] = (),
) -> ConfigurationError:
    """Turn msgspec's refusal of `values` into an error of type `error`; arguments as those of `decode`."""
    parsed = _REFUSAL.match(str(refusal))
    assert parsed is not None
    key, value, kind = _find(parsed["path"] or "", values, into, at, strict)
    problem, expected = "", describe_type(kind) if kind is not Any else parsed["message"]
    cause = refusal.__cause__
    if isinstance(cause, ConfigurationError):
        key, value, problem, expected = join(key, cause.key), cause.value, cause.problem, cause.expected
    elif cause is not None:
        expected = f"values that go together: {parsed['message']}"
    elif parsed["of_key"]:
        expected += f" with other keys: {parsed['message']}"
    elif found := _FIELD.match(parsed["message"]):
        name = found["field"]
        fields = _fields(kind)
        if found["what"] == "missing required":
            key, value, problem, expected = join(key, name), None, "missing", describe_type(fields.get(name, Any))
        else:
            names = (*(known if key == at else ()), *fields)
            meant = did_you_mean(name, names)
            key, value, problem = join(key, name), value.get(name), f"unknown key{meant}"
            expected = _one_of(names, meant)
    return error(key, value, expected, problem, source if isinstance(source, str) else source_of(key, source))


def _one_of(names: tuple[str, ...], meant: str) -> str:
    """Phrase for what is expected in place of an unknown key.

    meant: suffix that names the nearest key; empty for none.
    """
    if not names:
        return "no keys"
    if meant and len(names) > KEYS_LISTED:
        return f"one of {len(names)} known keys"
    return f"one of the keys {', '.join(names)}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A suffix for an unknown name in a sentence: ` (did you mean 'ttl_s'?)`; empty where no known name is near."""
    near = difflib.get_close_matches(given[:NAME_MAX], known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def join(path: str, key: str) -> str:
    """The dotted path of a key below another."""
    return f"{path}.{key}" if path and key else path or key


def source_of(key: str, sources: Mapping[str, str]) -> str:
    """Return the source of the value at a dotted path, or of the section it stands in; empty if unknown."""
    parts = re.sub(r"\[\d+\]", "", key).split(".")
    paths = [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
    return next((sources[path] for path in paths if path in sources), "")


def _find(path: str, value: Any, kind: Any, key: str, strict: bool) -> tuple[str, Any, Any]:
    """Key, value and type at a path of msgspec's, below `key`."""
    for step in _STEP.finditer(path):
        kind = _container(kind, value)
        arguments = get_args(kind)
        if (index := step["index"]) is not None:
            key, value = f"{key}[{index}]", value[int(index)]
            arguments = arguments or tuple(_fields(kind).values())  # of a struct that is written as a list
            several = len(arguments) > 1 and arguments[1] is not Ellipsis
            kind = arguments[int(index) if several else 0] if arguments else Any
        elif step["any"]:  # msgspec does not say which key of a mapping it is.
            kind = arguments[-1] if arguments else Any
            name = next((name for name, inner in value.items() if not _fits(inner, kind, strict)), "")
            key, value = join(key, str(name)), value.get(name)
        else:
            key, value, kind = join(key, step["key"]), value[step["key"]], _fields(kind).get(step["key"], Any)
    return key, value, _container(kind, value)


def _fits(value: Any, kind: Any, strict: bool) -> bool:
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError:
        return False
    return True


def _container(kind: Any, value: Any) -> Any:
    """The member of a union that a mapping or list is decoded as; any other type as it is."""
    while get_origin(kind) is Annotated and isinstance(value, (Mapping, list, tuple)):
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType) and isinstance(value, (Mapping, list, tuple)):
        wanted = (dict, Mapping) if isinstance(value, Mapping) else (list, tuple, set, frozenset)
        for member in get_args(kind):
            origin = get_origin(member) or member
            if origin in wanted or (isinstance(value, Mapping) and _fields(member)):
                return member
    return kind


def _fields(kind: Any) -> dict[str, Any]:
    """Types of a struct's fields, by the name they have in documents; empty for any other type."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    return {}


def describe_type(kind: object) -> str:
    """A type as a phrase: `an integer from 1 to 1000`, `'requests' or 'tokens'`."""
    return _phrase(inspect.type_info(kind))


def _phrase(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata(type=inner):
            return _phrase(inner)
        case inspect.UnionType(types=members):
            return " or ".join(_phrase(one) for one in members)
        case inspect.IntType():
            return f"an integer{_range(info)}"
        case inspect.FloatType():
            return f"a number{_range(info)}"
        case inspect.LiteralType(values=values):
            return " or ".join(repr(value) for value in values)
        case inspect.EnumType(cls=enum):
            return " or ".join(repr(member.value) for member in enum)
        case inspect.StrType():
            return f"a string{_length(info)}{f' that matches {info.pattern}' if info.pattern else ''}"
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
        return f" from {_number(info.ge)} to {_number(info.le)}"
    bounds = {"at least": info.ge, "above": info.gt, "at most": info.le, "below": info.lt}
    said = [f"{word} {_number(bound)}" for word, bound in bounds.items() if bound is not None]
    return f" {' and '.join(said)}" if said else ""


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _length(info: inspect.StrType) -> str:
    bounds = {"at least": info.min_length, "at most": info.max_length}
    said = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    return f" of {' and '.join(said)} characters" if said else ""
