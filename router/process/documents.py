"""Configuration as text: mappings in YAML or JSON, decoded strictly into structs.

Every error is a SettingsError that names source, key, value and expectation. Apart from `pointsman.router.settings`, so
that processes with settings of their own read them the same way and load neither policies nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from pointsman.router.errors import SettingsError

T = TypeVar("T")


def read_mapping(path: Path, source: str) -> dict[str, Any]:
    """The mapping in a file, empty for an empty file; errors call the file `source`. Raises SettingsError."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f"{source}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source}: not YAML: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"{source}: a mapping is expected, found {type(document).__name__}")
    return document


def parse_value(text: str, where: str) -> Any:
    """A value given as text: a mapping or list in YAML or JSON, else the text itself, which `decode` turns into what
    the key wants (so that a token of digits stays a token). Raises SettingsError."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{where}: {text!r}: neither YAML nor JSON: {error}") from None


def decode(tree: Mapping[str, Any], into: type[T], sources: Mapping[str, str]) -> T:
    """Strict decode with an error that names key, value, expectation and source."""
    try:
        return msgspec.convert(tree, into, strict=False)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        key = where.rstrip("`").lstrip(".")
        value = _value_at(tree, key)
        source = next((sources[k] for k in _prefixes(key) if k in sources), "defaults")
        if "unknown field" in message:
            message += f"; known fields are {', '.join(sorted(_fields_at(into, key)))}"
        raise SettingsError(f"{source}: {key or 'document'}: {value!r}: {message}") from None


def _value_at(tree: Any, key: str) -> Any:
    for part in filter(None, key.replace("[", ".").replace("]", "").split(".")):
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return None
    return tree


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def _fields_at(into: Any, key: str) -> tuple[str, ...]:
    for part in filter(None, key.split(".")):
        if not (isinstance(into, type) and issubclass(into, msgspec.Struct)):
            return ()
        into = next((f.type for f in msgspec.structs.fields(into) if f.name == part), None)
    return into.__struct_fields__ if isinstance(into, type) and issubclass(into, msgspec.Struct) else ()
