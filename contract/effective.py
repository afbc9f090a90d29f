"""The configuration in effect: each value with the place it comes from, and without its secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from pointsman.contract.config import join

DEFAULT = "default"
"""Source of a value that nobody gave."""

HIDDEN = "***"

SECRETS = frozenset({"token", "tokens", "password", "passwords", "secret", "secrets", "hash", "hashes", "sha256"})
"""Last words of keys whose values are shown to nobody."""

_PASSWORD = re.compile(r"(://[^/@\s]*:)[^/@\s]*@")


class EffectiveValue(NamedTuple):
    """One value of a configuration."""

    key: str
    """Dotted path."""
    value: Any
    """Plain value, `***` in place of a secret."""
    source: str
    """Place at which the value was given: a file, an environment variable, the command line; `default` for none."""


def effective(settings: msgspec.Struct, sources: Mapping[str, str]) -> Iterator[EffectiveValue]:
    """Each value of a configuration, in the order of its fields. `sources` are by dotted key, as `leaf_sources` makes
    them."""
    for key, value in _fields(settings):
        yield EffectiveValue(key, shown(key, msgspec.to_builtins(value)), _source_of(key, sources))


def given_values(settings: msgspec.Struct, sources: Mapping[str, str]) -> dict[str, Any]:
    """The values of a configuration that somebody gave, as a tree of plain values, secrets included."""
    tree: dict[str, Any] = {}
    for key, value in _fields(settings):
        if _source_of(key, sources) != DEFAULT:
            *sections, last = key.split(".")
            at = tree
            for section in sections:
                at = at.setdefault(section, {})
            at[last] = msgspec.to_builtins(value)
    return tree


def _fields(settings: msgspec.Struct, at: str = "") -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(settings):
        key, value = join(at, field.encode_name), getattr(settings, field.name)
        if isinstance(value, msgspec.Struct):
            yield from _fields(value, key)
        else:
            yield key, value


def _source_of(key: str, sources: Mapping[str, str]) -> str:
    if key in sources:
        return sources[key]
    # Of a mapping with keys of its own, the source of the first that was given.
    return next((source for given, source in sources.items() if given.startswith(f"{key}.")), DEFAULT)


def leaf_sources(tree: Mapping[str, Any], sources: Mapping[str, str], at: str = "") -> dict[str, str]:
    """Source of each value in a tree of given values, by dotted key: what `sources` says of the key, or of the nearest
    key above it."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        key = join(at, str(name))
        if isinstance(value, Mapping) and value:
            found |= leaf_sources(value, sources, key)
        else:
            above = key
            while above not in sources and "." in above:
                above = above.rpartition(".")[0]
            found[key] = sources.get(above, "")
    return found


def shown(key: str, value: Any) -> Any:
    """A plain value as people may see it: secrets are hidden, also those inside, and passwords of URLs."""
    if key.rpartition(".")[2] in SECRETS:
        return HIDDEN if value else value
    if isinstance(value, Mapping):
        return {name: shown(str(name), inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown("", inner) for inner in value]
    return _PASSWORD.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value
